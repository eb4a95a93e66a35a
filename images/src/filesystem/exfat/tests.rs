// SPDX-License-Identifier: Apache-2.0
//! exFAT against exfatprogs, exfat-fuse, blkid and partclone.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::boot::Boot;
use crate::RangeSet;
use crate::filesystem::fat::oracle::{
    Changed, Image, Loop, Mount, age, assert_close, assert_never_less, contents, output, partclone, run,
    verdict,
};
use crate::filesystem::{Condition, FilesystemKind, used};

fn formatted(size: u64, options: &[&str]) -> Image {
    let image = Image::new(size);
    run("exfatprogs", "mkfs.exfat", &[options, &["-L", "Größe", image.path.to_str().unwrap()]].concat());
    image
}

fn mount(image: &Image, options: &str) -> Option<(Mount, Loop)> {
    let device = Loop::new(image)?;
    let mount =
        Mount::new("exfat-fuse", "mount.exfat-fuse", options, &device.0, image.dir.path().join("mount"))?;
    Some((mount, device))
}

#[test]
fn the_map_at_every_cluster_size_is_partclones_and_restores_every_file() {
    const M: u64 = 1 << 20;
    let kinds: &[(u64, &[&str])] = &[
        (24 * M, &["-c512", "-b4K"]),
        (64 * M, &["-c4K"]),
        (100 * M + 512, &["-c32K", "-b1M"]),
        (200 * M, &["-c1M", "--pack-bitmap"]),
        (320 * M, &["-c32M"]),
    ];
    for (size, options) in kinds {
        let image = formatted(*size, options);
        // The driver zeroes whole clusters, which takes too long for the largest.
        let filled = *size < 300 * M;
        let mut before = BTreeMap::new();
        if filled {
            let Some((mounted, device)) = mount(&image, "rw") else { return };
            age(&mounted.0, (*size as usize / 8).min(8 << 20), 300, *size);
            before = contents(&mounted.0);
            mounted.unmount();
            drop(device);
        }

        let facts = image.facts();
        assert_eq!((facts.kind, &facts.condition), (FilesystemKind::Exfat, &Condition::Clean));
        let blkid = |tag| {
            let text = output(
                "util-linux",
                "blkid",
                &["-p", "-o", "value", "-s", tag, image.path.to_str().unwrap()],
            );
            Some(String::from_utf8(text.stdout).unwrap().trim().to_owned())
        };
        assert_eq!((facts.uuid, facts.label), (blkid("UUID"), blkid("LABEL")));
        let mut used = image.used();
        assert_eq!((used.warnings.len(), &used.everything_because), (0, &None));
        assert_close(
            &mut used.ranges,
            &mut partclone("partclone.exfat", &image),
            2 * u64::from(facts.block_size),
        );

        let copy = image.restored(&mut used.ranges);
        let check = |image| verdict("exfatprogs", "fsck.exfat", &["-n"], image);
        let (status, report) = check(&image);
        assert_eq!(status, Some(0), "{options:?}: {report}");
        assert_eq!(check(&copy), (status, report), "{options:?}");
        if filled {
            let (mounted, device) = mount(&copy, "ro").unwrap();
            assert!(before.len() > 10 && contents(&mounted.0) == before, "{options:?}: files differ");
            drop((mounted, device));
        }
    }
}

/// Changes the volume flags, which the checksum leaves out.
fn flagged(image: &Image, flags: u8) {
    image.write(&[flags], 106);
}

#[test]
fn a_dirty_volume_is_all_data_and_says_why() {
    let image = formatted(64 << 20, &[]);
    flagged(&image, 2);
    let mut used = image.used();
    assert_eq!(used.ranges.bytes(), 64 << 20);
    assert!(used.everything_because.unwrap().contains("fsck.exfat"));
    flagged(&image, 4);
    assert_eq!(image.used().warnings.len(), 1);
}

#[test]
fn chains_that_are_rings_end() {
    let image = formatted(64 << 20, &["-c512"]);
    let boot = Boot::read(&image).unwrap().unwrap();
    let fat = fat_at(&image);
    let root = (boot.root_cluster as u32).to_le_bytes();
    // A root directory without an end, which is its own next cluster.
    image.write(&root, fat + boot.root_cluster * 4);
    image.write(&[0x85; 512], boot.cluster_at(boot.root_cluster));
    assert!(crate::filesystem::probe(&image).is_err());
}

fn fat_at(image: &Image) -> u64 {
    let raw = image.bytes(80, 4);
    u64::from(u32::from_le_bytes(raw.try_into().unwrap())) * 512
}

#[test]
fn both_bitmaps_of_texfat_count() {
    let image = formatted(64 << 20, &["-c4K"]);
    let boot = Boot::read(&image).unwrap().unwrap();
    let mut before = image.used();
    // The second bitmap, in two clusters far behind the others, calls itself and one more cluster used.
    let mut second = vec![0u8; 8192];
    let bitmap = boot.clusters - 100;
    for cluster in [bitmap, bitmap + 1, bitmap + 50] {
        let bit = cluster as usize - 2;
        second[bit / 8] |= 1 << (bit % 8);
    }
    image.write(&second, boot.cluster_at(bitmap));
    let fat = fat_at(&image);
    image.write(&((bitmap + 1) as u32).to_le_bytes(), fat + bitmap * 4);
    image.write(&[0xFF; 4], fat + (bitmap + 1) * 4);
    let root = image.bytes(boot.cluster_at(boot.root_cluster), 4096);
    let (end, first) = (
        root.chunks(32).position(|entry| entry[0] == 0).unwrap(),
        root.chunks(32).position(|entry| entry[0] == 0x81).unwrap(),
    );
    let mut entry = root[first * 32..first * 32 + 32].to_vec();
    entry[1] = 1;
    entry[20..24].copy_from_slice(&(bitmap as u32).to_le_bytes());
    image.write(&entry, boot.cluster_at(boot.root_cluster) + end as u64 * 32);

    let mut after = image.used();
    assert_eq!(after.ranges.bytes(), before.ranges.bytes() + 3 * 4096);
    assert!(before.ranges.ranges().iter().all(|range| after.ranges.covers(range.clone())));
}

#[test]
fn damaged_metadata_never_hides_used_clusters() {
    let image = formatted(8 << 20, &["-c4K", "-b64K"]);
    let boot = Boot::read(&image).unwrap().unwrap();
    let data = image.bytes(0, 8 << 20);
    let truth = image.used().ranges;
    let root = boot.cluster_at(boot.root_cluster);
    let fat = fat_at(&image);
    // All of the boot region, the used part of the FAT and the root directory; the bitmap itself is the truth.
    for at in (0..12 * 512).chain(fat..fat + 64).chain(root..root + 256) {
        for value in [0, 0xFF, data[at as usize] ^ 1, data[at as usize] ^ 0x80] {
            assert_never_less(&Changed { data: &data, changes: &[(at, value)] }, &truth);
        }
    }
    let nothing = RangeSet::new();
    proptest!(ProptestConfig::with_cases(300), |(changes in proptest::collection::vec(
        (boot.heap..boot.heap + 65536, any::<u8>()), 1..12))| {
        assert_never_less(&Changed { data: &data, changes: &changes }, &nothing);
    });
    let short = image.facts();
    assert!(used(&Changed { data: &data[..4 << 20], changes: &[] }, &short).is_err());
}
