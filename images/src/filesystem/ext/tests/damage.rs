// SPDX-License-Identifier: Apache-2.0
//! Damaged metadata: the answer covers the truth, or is everything, or is an error. Never a panic, never less.

use super::super::groups::Geometry;
use super::super::inode;
use super::super::superblock::Superblock;
use super::*;

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Ranges of metadata worth damaging: superblock, descriptors, bitmaps, journal inode, journal.
fn targets(source: &MemorySource) -> Vec<std::ops::Range<u64>> {
    let geometry = Geometry::new(Superblock::read(source).unwrap().unwrap(), source.size()).unwrap();
    let block_size = u64::from(geometry.sb.block_size);
    let descriptors = geometry.leading_metadata(0).start + 1;
    let descriptor_bytes = u64::from(geometry.groups) * u64::from(geometry.sb.desc_size);
    let mut targets = vec![1024..2048, descriptors * block_size..descriptors * block_size + descriptor_bytes];
    geometry
        .each_piece(source, |groups| {
            for group in groups.iter().filter(|group| !group.block_uninit) {
                let bytes = u64::from(geometry.sb.clusters_per_group) / 8;
                targets.push(group.block_bitmap * block_size..group.block_bitmap * block_size + bytes);
            }
            let at = groups[0].inode_table * block_size + 7 * u64::from(geometry.sb.inode_size);
            if groups[0].index == 0 {
                targets.push(at..at + u64::from(geometry.sb.inode_size));
            }
            Ok(())
        })
        .unwrap();
    for run in inode::runs(source, &geometry, geometry.sb.journal_inode).unwrap() {
        let start = run.physical * block_size;
        // The superblock and the headers are worth more than the content of the log.
        targets.push(start..start + 1024);
        targets.push(start..start + run.len * block_size);
        for block in 1..run.len {
            let at = start + block * block_size;
            if source.0[at as usize..].starts_with(&0xc03b_3998u32.to_be_bytes()) {
                targets.push(at..at + 32);
            }
        }
    }
    targets
}

/// True if the answer is a map that leaves something out.
fn assert_safe(source: &MemorySource, truth: &mut RangeSet, what: &dyn std::fmt::Debug) -> bool {
    // No superblock or an error: the caller keeps everything.
    let Ok(Some((_, mut used))) = read(source) else { return false };
    assert_eq!(missing(&mut used.ranges, truth), None, "{what:?}");
    used.everything_because.is_none()
}

/// Changes one to eight bytes at a time, and puts them back.
fn damage(name: &str, source: &mut MemorySource, truth: &mut RangeSet, rounds: usize) {
    let targets = targets(source);
    let mut random = Random(7);
    let mut survived = 0;
    for round in 0..rounds {
        let range = targets[random.below(targets.len() as u64) as usize].clone();
        let at = (range.start + random.below(range.end - range.start)) as usize;
        let end = (at + 1 + random.below(8) as usize).min(range.end as usize);
        let before = source.0[at..end].to_vec();
        match random.below(4) {
            0 => source.0[at] ^= 1 << random.below(8),
            1 => source.0[at..end].fill(0),
            2 => source.0[at..end].fill(0xff),
            _ => source.0[at..end].iter_mut().for_each(|byte| *byte = random.below(256) as u8),
        }
        survived += usize::from(assert_safe(source, truth, &(name, round, at, end)));
        source.0[at..end].copy_from_slice(&before);
    }
    println!("{name}: {survived} of {rounds} were harmless or not noticed");
    assert!(assert_safe(source, truth, &name));
}

#[test]
fn damage_under_checksums_never_loses_a_block() {
    let lab = Lab::new(24_000, &["-t", "ext4", "-b", "1024", "-J", "size=1"]);
    damage("clean", &mut MemorySource(fs::read(lab.image()).unwrap()), &mut lab.truth(), 4000);
    let lab =
        Lab::new(24_000, &["-t", "ext4", "-b", "4096", "-O", "bigalloc,metadata_csum_seed", "-C", "8192"]);
    damage("bigalloc", &mut MemorySource(fs::read(lab.image()).unwrap()), &mut lab.truth(), 1000);
    let Some(lab) =
        journal::crashed(24_000, &["-t", "ext4", "-b", "1024", "-J", "size=1"], "nodelalloc", false)
    else {
        return;
    };
    let mut truth = journal::replayed(&lab).truth();
    damage("dirty", &mut MemorySource(fs::read(lab.image()).unwrap()), &mut truth, 3000);
}

#[test]
fn damage_without_checksums_is_survived() {
    for args in [
        &["-t", "ext2", "-b", "1024"][..],
        &["-t", "ext3", "-b", "1024", "-J", "size=1"],
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,meta_bg,^resize_inode", "-J", "size=1"],
        &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,bigalloc,mmp", "-C", "8192"],
    ] {
        let lab = Lab::new(24_000, args);
        let mut source = MemorySource(fs::read(lab.image()).unwrap());
        // What a field says can be wrong without a witness, so there is no truth; it must only end, and well.
        let mut nothing = RangeSet::new();
        for at in (1024..2048).step_by(2) {
            let before: [u8; 4] = source.0[at..at + 4].try_into().unwrap();
            for value in [0u32, 1, 0x7fff_ffff, 0x8000_0000, !0, 31, 32, 0x10000] {
                source.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
                assert_safe(&source, &mut nothing, &(at, value));
            }
            source.0[at..at + 4].copy_from_slice(&before);
        }
        if source.0[1024 + 0x5c] & 4 != 0 {
            damage("without checksums", &mut source, &mut nothing, 1500);
        }
        for length in [0, 1, 1024, 2047, 2048, 5000, 100_000, 20_000_000] {
            assert_safe(&MemorySource(source.0[..length].to_vec()), &mut nothing, &length);
        }
    }
}

#[test]
fn garbage_is_survived() {
    let mut random = Random(11);
    for _ in 0..300 {
        let mut image: Vec<u8> = (0..200_000).map(|_| random.below(256) as u8).collect();
        image[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        image[1024 + 0x18..1024 + 0x1c].fill(0);
        assert_safe(&MemorySource(image), &mut RangeSet::new(), &"garbage");
    }
}
