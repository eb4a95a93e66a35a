// SPDX-License-Identifier: Apache-2.0
//! Images that QEMU made, footers of other programs, and images that nobody should have made.

use std::path::{Path, PathBuf};

use crate::formats::conformance::{
    Room, assert_reads, assert_reads_as_qemu_does, fails, pattern, qemu, survives_damage, text,
};
use crate::formats::{Format, OpenOptions, open};
use crate::{BlockSource, ErrorKind, State};

/// Puts the checksum right that stands at `at` of `raw`.
fn seal(raw: &mut [u8], at: usize) {
    raw[at..at + 4].fill(0);
    let sum = raw.iter().fold(0u32, |sum, byte| sum.wrapping_add((*byte).into()));
    raw[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Changes all footers of an image, with their checksums.
fn change(image: &Path, change: impl Fn(&mut [u8])) {
    let mut raw = std::fs::read(image).unwrap();
    let last = raw.len() - 512;
    for at in [0, last] {
        let footer = &mut raw[at..at + 512];
        if footer.starts_with(b"conectix") {
            change(footer);
            seal(footer, 64);
        }
    }
    std::fs::write(image, raw).unwrap();
}

#[test]
fn fixed_and_dynamic_images_of_qemu_read_as_their_disk() {
    for size in [512, 1 << 20, (2 << 20) - 512, (9 << 20) + 512 * 77] {
        let room = Room::new();
        let disk = pattern(size, 31);
        let raw = room.raw(&disk);
        for kind in ["fixed", "dynamic"] {
            for exact in ["on", "off"] {
                let o = format!("subformat={kind},force_size={exact}");
                let image = room.convert(&raw, "vpc", &o, "disk.vhd");
                let opened = open(&image, &OpenOptions::default()).unwrap();
                assert_eq!((opened.format, opened.warnings.len()), (Format::Vhd, 0), "{o}");
                assert_reads(&*opened.source, &disk);
                assert_reads_as_qemu_does(&*opened.source, &image, "vpc");
                if exact == "on" {
                    assert_eq!(opened.source.size(), size as u64);
                }
            }
        }
    }
}

#[test]
fn a_disk_of_nearly_two_terabytes_is_read_where_qemu_wrote() {
    let room = Room::new();
    let image = room.path("disk.vhd");
    qemu("qemu-img", &["create", "-q", "-f", "vpc", "-o", "force_size=on", text(&image), "2040G"]);
    qemu("qemu-io", &["-f", "vpc", "-c", "write -P 1 2039G 4k", "-c", "write -P 2 5M 100k", text(&image)]);
    let source = open(&image, &OpenOptions::default()).unwrap().source;
    assert_eq!(source.size(), 2040 << 30);
    for (at, want) in [(2039u64 << 30, 1), ((2039 << 30) + 4096, 0), (5 << 20, 2), (80 << 20, 0)] {
        let mut byte = [9];
        source.read_at(&mut byte, at).unwrap();
        assert_eq!(byte, [want], "at {at:#x}");
    }
    let rest = source.extent_at(1 << 30, source.size()).unwrap();
    assert!(rest.state == State::Zero && rest.len > 2000 << 30, "{rest:?}");
}

#[test]
fn the_size_is_the_geometrys_or_the_footers_as_the_program_means_that_made_it() {
    let room = Room::new();
    let size = (100 << 20) + 512 * 5;
    let raw = room.path("disk.raw");
    std::fs::File::create(&raw).unwrap().set_len(size).unwrap();
    let image = room.convert(&raw, "vpc", "subformat=dynamic,force_size=on", "disk.vhd");
    for creator in [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS"] {
        change(&image, |footer| footer[28..32].copy_from_slice(creator));
        let opened = open(&image, &OpenOptions::default()).unwrap();
        // QEMU's own answer.
        assert_reads_as_qemu_does(&*opened.source, &image, "vpc");
        assert_eq!(opened.source.size() == size, opened.warnings.is_empty(), "{:?}", opened.warnings);
    }
    // QEMU would cut VirtualBox's disk off at its geometry.
    change(&image, |footer| footer[28..32].copy_from_slice(b"vbox"));
    assert_eq!(open(&image, &OpenOptions::default()).unwrap().source.size(), size);
    // The largest geometry says nothing.
    change(&image, |footer| {
        footer[28..32].copy_from_slice(b"vpc ");
        footer[56..60].copy_from_slice(&[0xff, 0xff, 16, 255]);
    });
    assert_eq!(open(&image, &OpenOptions::default()).unwrap().source.size(), size);
}

/// A dynamic image, where its first block's bitmap begins, and its disk.
fn dynamic(room: &Room) -> (PathBuf, usize, Vec<u8>) {
    let disk = pattern(8 << 20, 8);
    let image = room.convert(&room.raw(&disk), "vpc", "subformat=dynamic,force_size=on", "disk.vhd");
    let raw = std::fs::read(&image).unwrap();
    let word = |at: usize| u32::from_be_bytes(raw[at..at + 4].try_into().unwrap()) as usize;
    let table = word(512 + 20);
    let bitmap = word(table) * 512;
    (image, bitmap, disk)
}

#[test]
fn sectors_that_a_bitmap_says_are_not_there_are_zeros() {
    let room = Room::new();
    let (image, bitmap, mut disk) = dynamic(&room);
    let mut raw = std::fs::read(&image).unwrap();
    assert!(raw[bitmap..bitmap + 512].iter().all(|byte| *byte == 0xff));
    // Sectors 0 to 3, 77, and 1000 to 1999.
    let mut clear = |sector: usize| {
        raw[bitmap + sector / 8] &= !(0x80 >> (sector % 8));
        disk[sector * 512..(sector + 1) * 512].fill(0);
    };
    (0..4).chain([77]).chain(1000..2000).for_each(&mut clear);
    std::fs::write(&image, raw).unwrap();
    assert_reads(&*open(&image, &OpenOptions::default()).unwrap().source, &disk);
}

#[test]
fn either_footer_suffices_and_one_of_511_bytes_too() {
    let room = Room::new();
    let (image, _, disk) = dynamic(&room);
    let good = std::fs::read(&image).unwrap();
    let read = |raw: &[u8]| {
        std::fs::write(&image, raw).unwrap();
        assert_reads(
            &*open(&image, &OpenOptions { format: Some(Format::Vhd), allow_backing: false }).unwrap().source,
            &disk,
        );
    };
    let mut raw = good.clone();
    raw[40] ^= 1;
    read(&raw);
    let mut raw = good.clone();
    let last = raw.len() - 512;
    raw[last + 40] ^= 1;
    read(&raw);
    raw[40] ^= 1;
    std::fs::write(&image, raw).unwrap();
    let (kind, message) = fails(&image, &OpenOptions::default());
    assert!(kind == ErrorKind::Malformed && message.contains("checksum"), "{message}");

    let fixed = room.convert(&room.path("disk.raw"), "vpc", "subformat=fixed,force_size=on", "fixed.vhd");
    let mut raw = std::fs::read(&fixed).unwrap();
    raw.pop();
    std::fs::write(&fixed, &raw).unwrap();
    let opened = open(&fixed, &OpenOptions::default()).unwrap();
    assert_eq!(opened.format, Format::Vhd);
    assert_reads(&*opened.source, &disk);
}

#[test]
fn only_a_whole_footer_of_a_fixed_disk_makes_a_raw_file_a_vhd() {
    let room = Room::new();
    let fixed =
        room.convert(&room.raw(&pattern(1 << 20, 3)), "vpc", "subformat=fixed,force_size=on", "fixed.vhd");
    let detected = |image: &Path| open(image, &OpenOptions::default()).map(|opened| opened.format);
    assert_eq!(detected(&fixed).unwrap(), Format::Vhd);
    let good = std::fs::read(&fixed).unwrap();
    let last = good.len() - 512;
    for at in [last, last + 40, last + 63] {
        let mut raw = good.clone();
        raw[at] ^= 8;
        std::fs::write(&fixed, raw).unwrap();
        assert_eq!(detected(&fixed).unwrap(), Format::Raw, "byte {at:#x}");
    }
    // A footer whose disk does not fit in front of it belongs to another file.
    std::fs::write(&fixed, &good).unwrap();
    change(&fixed, |footer| footer[54] = 0x20);
    let error = detected(&fixed).unwrap_err();
    assert!(error.kind() == ErrorKind::Malformed && error.chain().contains("cut short"), "{}", error.chain());
}

#[test]
fn children_are_refused_and_a_suspended_machine_is_told() {
    let room = Room::new();
    let (image, ..) = dynamic(&room);
    change(&image, |footer| footer[84] = 1);
    assert!(open(&image, &OpenOptions::default()).unwrap().warnings[0].contains("suspended"));
    change(&image, |footer| footer[63] = 4);
    let (kind, message) = fails(&image, &OpenOptions::default());
    assert!(kind == ErrorKind::Refused && message.contains("Merge-VHD"), "{message}");
    change(&image, |footer| footer[63] = 7);
    assert_eq!(fails(&image, &OpenOptions::default()).0, ErrorKind::Unsupported);
}

#[test]
fn damaged_images_give_errors_or_bytes_and_truncated_ones_errors() {
    let room = Room::in_memory();
    let (image, bitmap, _) = dynamic(&room);
    let last = std::fs::metadata(&image).unwrap().len() as usize - 512;
    let places = [(0, 512), (512, 64), (1536, 64), (bitmap, 512), (last, 100)];
    survives_damage(&image, Format::Vhd, &places, |raw| {
        seal(&mut raw[..512], 64);
        seal(&mut raw[512..1536], 36);
        seal(&mut raw[last..], 64);
    });
    let fixed = room.convert(&room.path("disk.raw"), "vpc", "subformat=fixed,force_size=on", "fixed.vhd");
    let last = std::fs::metadata(&fixed).unwrap().len() as usize - 512;
    survives_damage(&fixed, Format::Vhd, &[(last, 100)], |raw| seal(&mut raw[last..], 64));
}
