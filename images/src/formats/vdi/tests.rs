// SPDX-License-Identifier: Apache-2.0
//! Images that QEMU made, and images that nobody should have made.

use crate::formats::conformance::{
    Room, assert_reads, assert_reads_as_qemu_does, fails, pattern, qemu, survives_damage, text,
};
use crate::formats::{Format, OpenOptions, open};
use crate::{BlockSource, ErrorKind, State};

#[test]
fn dynamic_and_static_images_of_qemu_read_as_their_disk() {
    for size in [512, (1 << 20) - 512, 1 << 20, (5 << 20) + 512 * 77] {
        let room = Room::new();
        let disk = pattern(size, 99);
        let raw = room.raw(&disk);
        for o in ["static=off", "static=on"] {
            let image = room.convert(&raw, "vdi", o, "disk.vdi");
            let opened = open(&image, &OpenOptions::default()).unwrap();
            assert_eq!((opened.format, opened.source.size()), (Format::Vdi, size as u64));
            assert_reads(&*opened.source, &disk);
        }
    }
}

#[test]
fn what_qemu_writes_here_and_there_is_read_and_the_rest_is_zero() {
    let room = Room::new();
    let image = room.path("disk.vdi");
    qemu("qemu-img", &["create", "-q", "-f", "vdi", text(&image), "300G"]);
    let writes = ["-c", "write -P 1 299G 4k", "-c", "write -P 2 5M 100k", "-c", "write -P 3 77M 2M"];
    qemu("qemu-io", &[&writes[..], &[text(&image)]].concat());
    let source = open(&image, &OpenOptions::default()).unwrap().source;
    let mut data = 0;
    let mut at = 0;
    while at < source.size() {
        let extent = source.extent_at(at, source.size() - at).unwrap();
        data += if extent.state == State::Data { extent.len } else { 0 };
        at = extent.end();
    }
    assert!((2 << 20..8 << 20).contains(&data), "{data} bytes of data");
    for (at, want) in [(299 << 30, 1), ((299 << 30) + 4096, 0), (5 << 20, 2), (78 << 20, 3), (80 << 20, 0)] {
        let mut byte = [9];
        source.read_at(&mut byte, at).unwrap();
        assert_eq!(byte, [want], "at {at:#x}");
    }
}

#[test]
fn bytes_in_front_of_blocks_and_discarded_blocks_are_respected() {
    let room = Room::new();
    let disk = pattern(3 << 20, 4);
    let image = room.convert(&room.raw(&disk), "vdi", "static=on", "disk.vdi");
    let old = std::fs::read(&image).unwrap();
    let data = u32::from_le_bytes(old[0x158..0x15c].try_into().unwrap()) as usize;
    // As VirtualBox would lay it out with 512 bytes in front of each block, and the second block discarded.
    let mut new = old[..data].to_vec();
    new[0x17c..0x180].copy_from_slice(&512u32.to_le_bytes());
    let map = u32::from_le_bytes(old[0x154..0x158].try_into().unwrap()) as usize;
    new[map + 4..map + 8].copy_from_slice(&0xffff_fffeu32.to_le_bytes());
    for block in old[data..].chunks(1 << 20) {
        new.extend([0xEE; 512]);
        new.extend(block);
    }
    std::fs::write(&image, new).unwrap();
    let mut want = disk;
    want[1 << 20..2 << 20].fill(0);
    assert_reads(&*open(&image, &OpenOptions::default()).unwrap().source, &want);
}

#[test]
fn children_of_other_images_and_unknown_kinds_are_refused() {
    let room = Room::new();
    let image = room.convert(&room.raw(&pattern(1 << 20, 4)), "vdi", "", "disk.vdi");
    let good = std::fs::read(&image).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        std::fs::write(&image, bad).unwrap();
        fails(&image, &OpenOptions::default())
    };
    for (at, byte) in [(76, 4), (76, 3), (0x1a8, 1), (0x1b8, 1)] {
        let (kind, message) = with(at, byte);
        assert!(kind == ErrorKind::Refused && message.contains("clonemedium"), "{message}");
    }
    assert_eq!(with(76, 9).0, ErrorKind::Unsupported);
    assert_eq!(with(70, 2).0, ErrorKind::Unsupported);
    assert_eq!(with(0x178, 3).0, ErrorKind::Malformed);
    assert_eq!(with(0x176, 0xff).0, ErrorKind::Malformed);
}

#[test]
fn damaged_images_give_errors_or_bytes_and_truncated_ones_errors() {
    let room = Room::new();
    let image = room.convert(&room.raw(&pattern(3 << 20, 4)), "vdi", "static=on", "disk.vdi");
    survives_damage(&image, Format::Vdi, &[(64, 400), (0x150, 64), (512, 12)], |_| ());
    let source = open(&image, &OpenOptions::default()).unwrap().source;
    assert_reads_as_qemu_does(&*source, &image, "vdi");
}
