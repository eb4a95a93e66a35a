// SPDX-License-Identifier: Apache-2.0
//! Images that QEMU made with each of its options, logs that QEMU replays too, and images that nobody should have made.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{checksum, header, region};
use crate::formats::conformance::{
    Room, assert_reads, assert_reads_as_qemu_does, fails, pattern, qemu, survives_damage, text,
};
use crate::formats::{Compression, CreateOptions, Format, OpenOptions, create, open};
use crate::{BlockSource, ErrorKind, State};

const LOG: usize = 1 << 20;
const GUID: [u8; 16] = *b"the log's guid..";

/// Puts the checksum at byte 4 right.
fn seal(raw: &mut [u8]) {
    let sum = checksum(raw, 4).to_le_bytes();
    raw[4..8].copy_from_slice(&sum);
}

fn seal_all(raw: &mut [u8]) {
    header::PLACES.into_iter().for_each(|at| seal(&mut raw[at as usize..at as usize + header::LEN]));
    region::PLACES.into_iter().for_each(|at| seal(&mut raw[at as usize..at as usize + region::LEN]));
}

fn strict() -> OpenOptions {
    OpenOptions { allow_backing: false, format: Some(Format::Vhdx) }
}

#[test]
fn images_made_by_qemu_with_each_option_read_as_their_disk() {
    let cases = [
        "subformat=dynamic",
        "subformat=dynamic,block_size=1M",
        "subformat=dynamic,block_size=2M,block_state_zero=off",
        "subformat=dynamic,block_size=256M",
        "subformat=fixed",
        "subformat=fixed,block_size=1M,log_size=4M",
    ];
    for size in [512, 1 << 20, (9 << 20) + 512 * 77] {
        let disk = pattern(size, 19);
        for o in cases {
            let room = Room::new();
            let image = room.convert(&room.raw(&disk), "vhdx", o, "disk.vhdx");
            let opened = open(&image, &OpenOptions::default()).unwrap();
            assert_eq!((opened.format, opened.warnings), (Format::Vhdx, vec![]), "{o}");
            assert_eq!((opened.source.size(), opened.source.sector_size()), (size as u64, 512), "{o}");
            assert_reads(&*opened.source, &disk);
        }
    }
}

#[test]
fn blocks_behind_the_first_bitmap_entry_of_the_bat_are_found() {
    let room = Room::new();
    let image = room.path("disk.vhdx");
    // A chunk of 4096 blocks of 1 MiB is 4 GiB.
    qemu("qemu-img", &["create", "-q", "-f", "vhdx", "-o", "block_size=1M", text(&image), "9T"]);
    let places = [4 << 30, (4u64 << 30) - (1 << 20), 9000 << 20, (9 << 40) - 4096];
    for (at, fill) in places.into_iter().zip(1..) {
        qemu("qemu-io", &["-f", "vhdx", "-c", &format!("write -P {fill} {at} 4k"), text(&image)]);
    }
    let source = open(&image, &OpenOptions::default()).unwrap().source;
    for (at, fill) in places.into_iter().zip(1..) {
        let mut byte = [0];
        source.read_at(&mut byte, at + 4095).unwrap();
        assert_eq!(byte, [fill], "at {at:#x}");
    }
    let rest = source.extent_at(9001 << 20, source.size()).unwrap();
    assert!(rest.state == State::Zero && rest.len > 8 << 40, "{rest:?}");
}

/// What a descriptor changes.
enum Change {
    Page(u64, Vec<u8>),
    Zeros(u64, u64),
}

/// A log entry ([MS-VHDX], section 2.3.1).
fn entry(sequence: u64, tail: usize, file: u64, changes: &[Change]) -> Vec<u8> {
    let pages = changes.iter().filter(|change| matches!(change, Change::Page(..))).count();
    let first = (64 + 32 * changes.len()).div_ceil(4096);
    let mut raw = b"loge\0\0\0\0".to_vec();
    raw.extend((((first + pages) * 4096) as u32).to_le_bytes());
    raw.extend(((tail * 4096) as u32).to_le_bytes());
    raw.extend(sequence.to_le_bytes());
    raw.extend((changes.len() as u32).to_le_bytes());
    raw.extend([0; 4]);
    raw.extend(GUID);
    raw.extend(file.to_le_bytes());
    raw.extend(file.to_le_bytes());
    let mut data = Vec::new();
    for change in changes {
        match change {
            Change::Page(at, page) => {
                raw.extend(b"desc");
                raw.extend(&page[4092..]);
                raw.extend(&page[..8]);
                raw.extend(at.to_le_bytes());
                data.extend(b"data");
                data.extend(((sequence >> 32) as u32).to_le_bytes());
                data.extend(&page[8..4092]);
                data.extend((sequence as u32).to_le_bytes());
            }
            Change::Zeros(at, len) => {
                raw.extend(b"zero\0\0\0\0");
                raw.extend(len.to_le_bytes());
                raw.extend(at.to_le_bytes());
            }
        }
        raw.extend(sequence.to_le_bytes());
    }
    raw.resize(first * 4096, 0);
    raw.extend(data);
    seal(&mut raw);
    raw
}

/// An image of QEMU's, and where its BAT is.
fn image(room: &Room) -> (PathBuf, Vec<u8>, usize) {
    let image = room.convert(&room.raw(&pattern(12 << 20, 6)), "vhdx", "block_size=1M", "disk.vhdx");
    let raw = std::fs::read(&image).unwrap();
    let table = region::PLACES[0] as usize + 16;
    let word = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().unwrap()) as usize;
    let bat = (0..2).map(|index| table + index * 32).find(|at| raw[*at] == 0x66).unwrap();
    let bat = word(bat + 16);
    (image, raw, bat)
}

/// Writes `entries` into the image's log, the first at sector `at`, and says in the headers that it is in use.
fn put_log(raw: &mut [u8], at: usize, entries: &[Vec<u8>]) {
    for place in header::PLACES {
        raw[place as usize + 48..place as usize + 64].copy_from_slice(&GUID);
    }
    seal_all(raw);
    let sectors = LOG / 4096;
    for (index, sector) in entries.iter().flat_map(|entry| entry.chunks(4096)).enumerate() {
        let place = LOG + (at + index) % sectors * 4096;
        raw[place..place + 4096].copy_from_slice(sector);
    }
}

/// A BAT page with two blocks' entries exchanged.
fn exchanged(raw: &[u8], bat: usize, one: usize, two: usize) -> Vec<u8> {
    let mut page = raw[bat..bat + 4096].to_vec();
    for byte in 0..8 {
        page.swap(one * 8 + byte, two * 8 + byte);
    }
    page
}

/// Reads the image with its log, lets QEMU replay a copy's, and compares. The image stays as it is.
fn assert_replays_as_qemu_does(image: &Path, raw: &[u8], entries: usize) {
    std::fs::write(image, raw).unwrap();
    let opened = open(image, &OpenOptions::default()).unwrap();
    assert!(opened.warnings[0].contains(&format!("{entries} entries")), "{:?}", opened.warnings);
    let copy = image.with_extension("copy");
    std::fs::copy(image, &copy).unwrap();
    qemu("qemu-img", &["check", "-q", "-f", "vhdx", "-r", "all", text(&copy)]);
    assert!(std::fs::read(&copy).unwrap() != raw, "QEMU replayed nothing");
    assert_reads_as_qemu_does(&*opened.source, &copy, "vhdx");
    assert!(std::fs::read(image).unwrap() == raw, "the source was written to");
    let replayed = open(&copy, &OpenOptions::default()).unwrap();
    assert!(replayed.warnings.is_empty(), "{:?}", replayed.warnings);
}

#[test]
fn a_log_is_replayed_in_memory_as_qemu_replays_it_in_the_file() {
    let room = Room::new();
    let (image, good, bat) = image(&room);
    let (file, at) = (good.len() as u64, bat as u64);
    let block = u64::from_le_bytes(good[bat..bat + 8].try_into().unwrap()) & !0xf_ffff;

    let mut raw = good.clone();
    put_log(&mut raw, 0, &[entry(7, 0, file, &[Change::Page(at, exchanged(&good, bat, 0, 3))])]);
    assert_replays_as_qemu_does(&image, &raw, 1);

    // Three entries across the ring's end; later ones change what earlier ones did. Zeros over a part of a block.
    let mut raw = good.clone();
    let one = exchanged(&good, bat, 1, 2);
    let mut two = one.clone();
    two[..8].fill(0);
    let start = 253;
    let entries = [
        entry(u64::MAX - 9, start, file, &[Change::Page(at, one), Change::Zeros(block + 4096, 64 << 10)]),
        entry(u64::MAX - 8, start, file, &[Change::Zeros(block + 8192, 8192)]),
        entry(u64::MAX - 7, start, file, &[Change::Page(at, two), Change::Page(block, vec![0xA5; 4096])]),
    ];
    put_log(&mut raw, start, &entries);
    assert_replays_as_qemu_does(&image, &raw, 3);
}

#[test]
fn only_the_last_complete_sequence_of_a_log_counts() {
    let room = Room::new();
    let (image, good, bat) = image(&room);
    let (file, at) = (good.len() as u64, bat as u64);
    let page = |one, two| vec![Change::Page(at, exchanged(&good, bat, one, two))];
    let read = |raw: &[u8]| {
        std::fs::write(&image, raw).unwrap();
        let opened = open(&image, &OpenOptions::default()).unwrap();
        let mut disk = vec![0; opened.source.size() as usize];
        opened.source.read_at(&mut disk, 0).unwrap();
        (disk, opened.warnings)
    };
    let (plain, _) = read(&good);
    let swapped = |one: usize, two: usize| {
        let mut disk = plain.clone();
        for byte in 0..1 << 20 {
            disk.swap((one << 20) + byte, (two << 20) + byte);
        }
        disk
    };
    // An older sequence before and behind; an entry whose tail was overwritten; a torn one at the end.
    let mut raw = good.clone();
    put_log(&mut raw, 0, &[entry(3, 0, file, &page(0, 1))]);
    put_log(&mut raw, 10, &[entry(8, 10, file, &page(4, 5)), entry(9, 10, file, &page(6, 7))]);
    put_log(&mut raw, 20, &[entry(5, 20, file, &page(2, 3))]);
    put_log(&mut raw, 30, &[entry(50, 29, file, &page(2, 3))]);
    let mut torn = entry(10, 10, file, &page(2, 3));
    torn[4096 + 99] ^= 1;
    put_log(&mut raw, 14, &[torn]);
    let (disk, warnings) = read(&raw);
    assert!(disk == swapped(6, 7) && warnings[0].contains("2 entries"), "{warnings:?}");
    // Another log's entries are none; neither are those that were there before the log was emptied.
    let mut raw = good.clone();
    let mut other = entry(8, 0, file, &page(4, 5));
    other[32] ^= 1;
    seal(&mut other);
    put_log(&mut raw, 0, &[other]);
    let (disk, warnings) = read(&raw);
    assert!(disk == plain && warnings[0].contains("no complete entry"), "{warnings:?}");
    put_log(&mut raw, 0, &[entry(8, 0, file, &page(4, 5))]);
    for place in header::PLACES {
        raw[place as usize + 48..place as usize + 64].fill(0);
    }
    seal_all(&mut raw);
    assert_eq!(read(&raw), (plain, vec![]));
    // The file was longer when the entry was written.
    put_log(&mut raw, 0, &[entry(8, 0, file + 4096, &page(4, 5))]);
    std::fs::write(&image, &raw).unwrap();
    assert!(fails(&image, &strict()).1.contains("cut short"));
}

#[test]
fn entries_that_lie_over_each_other_and_endless_zeros_do_not_keep_a_reader_busy() {
    let room = Room::new();
    let (image, good, bat) = image(&room);
    let file = good.len() as u64;
    // Every sector claims an entry of nearly the whole ring, with a wrong checksum.
    let mut raw = good.clone();
    put_log(&mut raw, 0, &[]);
    for sector in 0..256 {
        let mut head = entry(7, 0, file, &[]);
        head[8..12].copy_from_slice(&(255u32 * 4096).to_le_bytes());
        raw[LOG + sector * 4096..LOG + sector * 4096 + 4096].copy_from_slice(&head);
    }
    std::fs::write(&image, &raw).unwrap();
    assert!(fails(&image, &strict()).1.contains("over each other"));
    let zeros: Vec<Change> = (0..20_000)
        .map(|index| Change::Zeros(bat as u64 + index * 8192 * 4096, u64::MAX << 13 >> 1))
        .collect();
    let mut raw = good;
    put_log(&mut raw, 0, &[entry(7, 0, file, &zeros)]);
    std::fs::write(&image, &raw).unwrap();
    assert_eq!(fails(&image, &strict()).0, ErrorKind::Malformed);
}

#[test]
fn the_newer_whole_header_and_a_whole_region_table_suffice() {
    let room = Room::new();
    let (image, good, _) = image(&room);
    let disk = pattern(12 << 20, 6);
    let with = |places: &[u64]| {
        let mut raw = good.clone();
        places.iter().for_each(|at| raw[*at as usize + 9] ^= 1);
        std::fs::write(&image, raw).unwrap();
        open(&image, &strict())
    };
    let ([one, two], [three, four]) = (header::PLACES, region::PLACES);
    for places in [&[one][..], &[two], &[three], &[four], &[one, four], &[two, three]] {
        assert_reads(&*with(places).unwrap().source, &disk);
    }
    for places in [[one, two], [three, four]] {
        let error = with(&places).err().unwrap();
        assert!(
            error.kind() == ErrorKind::Malformed && error.chain().contains("checksum"),
            "{}",
            error.chain()
        );
    }
    // Disk2vhd writes the same header twice; two that differ leave it open which counts.
    let mut raw = good.clone();
    raw.copy_within(one as usize..one as usize + 4096, two as usize);
    std::fs::write(&image, &raw).unwrap();
    assert_reads(&*open(&image, &strict()).unwrap().source, &disk);
    raw[two as usize + 16] ^= 1;
    seal_all(&mut raw);
    std::fs::write(&image, &raw).unwrap();
    assert!(fails(&image, &strict()).1.contains("same sequence number"));
}

#[test]
fn children_and_what_is_required_and_not_known_are_refused() {
    let room = Room::new();
    let (image, good, bat) = image(&room);
    let table = region::PLACES[0] as usize;
    let find = |needle: &[u8]| (table..good.len()).find(|at| good[*at..].starts_with(needle)).unwrap();
    let metadata = find(b"metadata");
    let parameters = metadata + (64 << 10);
    let with = |at: usize, bytes: &[u8]| {
        let mut raw = good.clone();
        raw[at..at + bytes.len()].copy_from_slice(bytes);
        seal_all(&mut raw);
        std::fs::write(&image, raw).unwrap();
        match open(&image, &strict()) {
            Err(error) => (error.kind(), error.chain()),
            Ok(opened) => {
                let error = opened.source.read_at(&mut [0; 512], 0).unwrap_err();
                (error.kind(), error.chain())
            }
        }
    };
    let item = |id: u128| find(&super::guid_raw(id));
    let block = u32::from_le_bytes(good[parameters..parameters + 4].try_into().unwrap());
    assert_eq!(block, 1 << 20, "the file parameters lie elsewhere");
    let (kind, message) = with(parameters + 4, &[2]);
    assert!(kind == ErrorKind::Refused && message.contains("Merge-VHD"), "{message}");
    assert_eq!(with(item(super::id::PAGE83), &[1; 16]).0, ErrorKind::Unsupported);
    assert_eq!(with(item(super::id::DISK_SIZE), &super::guid_raw(super::id::PAGE83)).0, ErrorKind::Malformed);
    assert_eq!(with(parameters, &(3u32 << 20).to_le_bytes()).0, ErrorKind::Malformed);
    assert_eq!(with(bat, &[7]).0, ErrorKind::Malformed);
    assert_eq!(with(bat, &[6, 0, 0, 0, 0, 0xff]).0, ErrorKind::Malformed);
    assert_eq!(with(bat, &[6, 0, 0, 0, 0, 0, 0, 0]).0, ErrorKind::Malformed);
}

#[test]
fn disks_with_sectors_of_4096_bytes_say_so() {
    let room = Room::new();
    let image = room.path("disk.vhdx");
    let disk = pattern(40 << 20, 3);
    let options = CreateOptions {
        size: disk.len() as u64,
        sector_size: 4096,
        compression: Compression::None,
        cluster_size: None,
    };
    let sink = create(&image, Format::Vhdx, &options).unwrap();
    sink.write_at(&disk, 0).unwrap();
    sink.finish().unwrap();
    let source = open(&image, &OpenOptions::default()).unwrap().source;
    assert_eq!((source.size(), source.sector_size()), (disk.len() as u64, 4096));
    assert_reads(&*source, &disk);
    // QEMU takes the number of sectors for one of 512 bytes (vhdx_open in block/vhdx.c), so that another reader has to tell.
    let output = Command::new("vhdiinfo").arg(&image).output();
    let output =
        output.unwrap_or_else(|error| panic!("vhdiinfo: {error}; install the package libvhdi-utils"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("(41943040 bytes)") && said.contains("4096"), "{said}");
    let strange = CreateOptions { sector_size: 520, ..options };
    assert_eq!(create(&room.path("bad"), Format::Vhdx, &strange).err().unwrap().kind(), ErrorKind::Usage);
}

#[test]
fn damaged_images_give_errors_or_bytes_and_truncated_ones_errors() {
    let room = Room::new();
    let (image, mut raw, bat) = image(&room);
    let metadata = (LOG..raw.len()).find(|at| raw[*at..].starts_with(b"metadata")).unwrap();
    let (file, page) = (raw.len() as u64, exchanged(&raw, bat, 0, 3));
    put_log(&mut raw, 0, &[entry(7, 0, file, &[Change::Page(bat as u64, page), Change::Zeros(0, 4096)])]);
    std::fs::write(&image, &raw).unwrap();
    let places = [
        (65536, 80),
        (131_072, 80),
        (196_608, 80),
        (LOG, 160),
        (metadata, 200),
        (metadata + 65536, 40),
        (bat, 96),
    ];
    survives_damage(&image, Format::Vhdx, &places, |raw| {
        seal_all(raw);
        seal(&mut raw[LOG..LOG + 8192]);
    });
}
