// SPDX-License-Identifier: Apache-2.0
//! Tables, gaps, choices and errors, on disks made by hand with the stub filesystem.

use super::*;
use crate::ErrorKind;
use crate::layout::{Content, Hibernated, Kept};
use crate::volume::lvm::tests::Disk;

const MIB: u64 = 1 << 20;

fn disk(mib: u64, table: &str) -> Disk {
    let mut disk = Disk(vec![0xa5; (mib * MIB) as usize]);
    disk.0[64..64 + table.len()].copy_from_slice(table.as_bytes());
    disk.0[64 + table.len()] = 0;
    disk
}

fn put(disk: &mut Disk, at: u64, bytes: &[u8]) {
    disk.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
}

fn put_stub(disk: &mut Disk, mib: u64, size: u64, used: &[(u64, u64)]) {
    put(disk, mib * MIB + STUB_AT, &stub(size, used));
}

fn one(disk: &Disk, options: &Options) -> DiskLayout {
    analyze(&[disk], options, STUB).unwrap().pop().unwrap()
}

/// Every region with its depth, for comparing whole trees.
fn show(layout: &DiskLayout) -> Vec<String> {
    fn add(region: &crate::layout::Region, depth: usize, lines: &mut Vec<String>) {
        let (offset, len, number) = match region.place {
            crate::layout::Place::Disk { offset, len, partition } => (offset, len, partition),
            _ => unreachable!(),
        };
        let content = match &region.content {
            Content::Filesystem(facts) => facts.kind.name(),
            Content::BootArea => "boot",
            Content::Extended => "extended",
            _ => "unknown",
        };
        let kept = match region.kept {
            Kept::Used => "used",
            Kept::Everything(_) => "everything",
            Kept::Nothing => "nothing",
        };
        let number = number.map_or("-".into(), |number| number.to_string());
        lines.push(format!("{}{number} {}+{} {content} {kept}", " ".repeat(depth), offset / MIB, len / MIB));
        region.children.iter().for_each(|child| add(child, depth + 1, lines));
    }
    let mut lines = Vec::new();
    layout.regions.iter().for_each(|region| add(region, 0, &mut lines));
    lines
}

#[test]
fn partitions_gaps_and_the_boot_area_are_kept_by_their_rules() {
    let mut disk = disk(300, "TABLE 1+20:fs 21+1:bios 30+40:fs 100+100:ext 101+40:fs 160+10:fs 180+20:ldm");
    put_stub(&mut disk, 1, 20 * MIB, &[(5 * MIB, 4096), (9 * MIB + 100, 10)]);
    put_stub(&mut disk, 30, 10 * MIB, &[]);
    put_stub(&mut disk, 101, 39 * MIB, &[(30 * MIB, MIB)]);
    let layout = one(&disk, &Options::default());
    assert_eq!(
        show(&layout),
        [
            "- 0+1 boot everything",
            "1 1+20 ext4 used",
            "2 21+1 boot everything",
            "- 22+8 unknown everything",
            "3 30+40 ext4 used",
            "- 70+30 unknown nothing",
            "4 100+100 extended nothing",
            " - 100+1 unknown everything",
            " 5 101+40 ext4 used",
            " - 141+19 unknown nothing",
            " 6 160+10 unknown everything",
            " - 170+10 unknown everything",
            " 7 180+20 unknown everything",
            "- 200+100 unknown nothing",
        ]
    );
    let mut want = RangeSet::new();
    for (start, len) in [
        (0, MIB),
        (MIB, 4096),
        (6 * MIB, 4096),
        (10 * MIB, 512), // rounded to its sector
        (21 * MIB, 9 * MIB),
        (30 * MIB, 4096), // 30 MiB behind its filesystem are a large gap
        (100 * MIB, MIB + 4096),
        (131 * MIB, MIB),
        (140 * MIB, MIB), // 1 MiB behind its filesystem is a small one
        (160 * MIB, 40 * MIB),
    ] {
        want.insert(start..start + len);
    }
    assert_eq!(in_state(&layout, State::Data).ranges(), want.ranges());
    let sum: u64 = layout.regions.iter().map(|region| region.used_bytes).sum();
    assert_eq!(sum, want.bytes(), "the regions account for all data");
    assert_eq!(layout.warnings.len(), 1, "{:?}", layout.warnings);

    // First and last MiB of disk, partitions, container: whatever is a hole there is zeros.
    let mut zero = in_state(&layout, State::Zero);
    for range in [MIB + 4096..2 * MIB, 20 * MIB..21 * MIB, 69 * MIB..70 * MIB, 299 * MIB..300 * MIB] {
        assert!(zero.covers(range.clone()), "{range:?}");
    }
    // 2 MiB into partition 1 stands the second superblock of some formats.
    assert!(zero.covers(3 * MIB..3 * MIB + 4096) && !zero.covers(3 * MIB + 4096..3 * MIB + 4097));
}

#[test]
fn a_whole_disk_filesystem_is_read_and_unknown_or_blank_content_is_data() {
    let mut whole = disk(64, "");
    put_stub(&mut whole, 0, 64 * MIB, &[(32 * MIB, MIB)]);
    let layout = one(&whole, &Options::default());
    assert_eq!(show(&layout), ["- 0+64 ext4 used"]);
    assert_eq!(in_state(&layout, State::Data).ranges(), [0..4096, 32 * MIB..33 * MIB]);
    let all = one(&whole, &Options { all: true, ..Options::default() });
    assert_eq!(all.extents.bytes(State::Data), 64 * MIB);
    assert!(matches!(all.regions[0].kept, Kept::Everything(_)));

    for disk in [disk(64, ""), Disk(vec![0; 4 << 20]), Disk(vec![7; 700]), Disk(Vec::new())] {
        let layout = one(&disk, &Options::default());
        assert_eq!(layout.extents.bytes(State::Data), disk.size());
    }
}

#[test]
fn what_cannot_be_trusted_is_kept_whole_and_says_why() {
    // A reader that fails.
    let mut broken = disk(64, "TABLE 1+40:fs");
    put_stub(&mut broken, 1, 40 * MIB, &[]);
    put(&mut broken, MIB + STUB_AT + 16, &BROKEN.to_le_bytes());
    // A filesystem larger than its partition.
    let mut larger = disk(64, "TABLE 1+40:fs");
    put_stub(&mut larger, 1, 41 * MIB, &[]);
    for (disk, reason) in [
        (broken, "partition 1 is kept whole: reading group descriptor 17: checksum mismatch"),
        (larger, "partition 1 is kept whole: its ext4 is larger"),
        (disk(64, "TABLE 1+80:fs"), "partition 1 is kept whole: it reaches beyond the end"),
    ] {
        let layout = one(&disk, &Options::default());
        assert!(layout.warnings[0].starts_with(reason), "{:?}", layout.warnings);
        let end = (MIB + 40 * MIB).min(disk.size());
        assert!(in_state(&layout, State::Data).covers(MIB..end));
    }
    // Marks of what is around filesystems: the whole disk.
    let mut marked = disk(64, "TABLE 1+20:fs");
    put_stub(&mut marked, 1, 20 * MIB, &[]);
    for (at, mark) in [
        (64 * MIB - 1024, &b"Intel Raid ISM Cfg Sig. 1.0.00"[..]),
        (64 * MIB - 512, b"\xde\x11\xde\x11"),
        (64 * MIB - 3087 * 512, b"Promise Technology, Inc."),
        (STUB_AT, &stub(64 * MIB, &[])),
    ] {
        let mut disk = marked.clone();
        put(&mut disk, at, mark);
        let layout = one(&disk, &Options::default());
        assert_eq!(layout.extents.bytes(State::Data), 64 * MIB, "{mark:?}");
        assert_eq!(layout.warnings.len(), 1);
    }
    // A backing device: the partition.
    let mut drbd = marked.clone();
    put(&mut drbd, 21 * MIB - 4096 + 60, b"\x83\x74\x02\x6d");
    let layout = one(&drbd, &Options::default());
    assert!(in_state(&layout, State::Data).covers(MIB..21 * MIB));
    assert!(layout.warnings[0].contains("DRBD"), "{:?}", layout.warnings);
    assert!(layout.extents.bytes(State::Hole) > 0);
}

/// A disk with a bad sector.
struct Bad(Disk, u64);

impl BlockSource for Bad {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if (offset..offset + buf.len() as u64).contains(&self.1) {
            return Err(Error::io("reading", std::io::Error::from_raw_os_error(5)).at(self.1));
        }
        self.0.read_at(buf, offset)
    }
}

#[test]
fn an_unreadable_sector_in_metadata_makes_its_partition_data() {
    let mut good = disk(64, "TABLE 1+40:fs");
    put_stub(&mut good, 1, 40 * MIB, &[]);
    for (at, whole) in [(MIB + STUB_AT, 40 * MIB), (0, 64 * MIB), (20 * MIB, 0)] {
        let bad = Bad(good.clone(), at);
        let readers = Readers { table: text_table, ..STUB };
        let layout = analyze(&[&bad], &Options::default(), readers).unwrap().pop().unwrap();
        assert!(layout.extents.bytes(State::Data) >= whole, "{at:#x}");
        assert_eq!(layout.warnings.is_empty(), whole == 0, "{:?}", layout.warnings);
    }
}

#[test]
fn a_suspended_system_is_refused_kept_or_given_up() {
    let mut disk = disk(128, "TABLE 1+40:fs 41+30:fs");
    put_stub(&mut disk, 1, 40 * MIB, &[]);
    put(&mut disk, 41 * MIB + 4076, b"SWAPSPACE2S1SUSPEND\0");
    let choose = |hibernated| analyze(&[&disk], &Options { all: false, hibernated }, STUB);

    let error = choose(Hibernated::Refuse).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    for word in ["partition 2", "--hibernated=keep", "--hibernated=discard"] {
        assert!(error.chain().contains(word), "{}", error.chain());
    }

    let kept = choose(Hibernated::Keep).unwrap().pop().unwrap();
    assert!(in_state(&kept, State::Data).covers(0..71 * MIB) && kept.patches.is_empty());

    let layout = choose(Hibernated::Discard).unwrap().pop().unwrap();
    let mut data = in_state(&layout, State::Data);
    assert!(data.covers(41 * MIB..41 * MIB + 4096) && !data.covers(41 * MIB..41 * MIB + 4097));
    assert_eq!(layout.patches, [(41 * MIB + 4086, b"SWAPSPACE2".to_vec())]);
    let mut restored = vec![0xa5; 128 << 20];
    restore(&layout, &disk, &mut restored);
    let window = crate::adapt::Window::new(Disk(restored), 41 * MIB, 30 * MIB).unwrap();
    assert_eq!(probe(&window).unwrap().unwrap().condition, Condition::Clean);
}
