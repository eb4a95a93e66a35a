// SPDX-License-Identifier: Apache-2.0
//! Images that QEMU made with each of its options, streams of ours read as a stream, and images that nobody should have made.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::sink::VmdkSink;
use crate::adapt::Memory;
use crate::copy;
use crate::formats::conformance::{
    Room, assert_reads, assert_reads_as_qemu_does, fails, pattern, qemu, survives_damage, text,
};
use crate::formats::{Compression, CreateOptions, Format, OpenOptions, open};
use crate::monitor::{Phase, Silent};
use crate::{BlockSink, BlockSource, ErrorKind, ExtentMap, RangeSet, State};

fn strict() -> OpenOptions {
    OpenOptions { allow_backing: false, format: Some(Format::Vmdk) }
}

#[test]
fn images_made_by_qemu_with_each_option_read_as_their_disk() {
    let cases = [
        "subformat=monolithicSparse",
        "subformat=monolithicSparse,zeroed_grain=on,hwversion=14",
        "subformat=monolithicSparse,compat6=on",
        "subformat=streamOptimized",
        "subformat=monolithicFlat",
        "subformat=twoGbMaxExtentSparse",
        "subformat=twoGbMaxExtentFlat",
    ];
    for size in [512, 65536, (1 << 20) + 65536 + 512, (6 << 20) + 512 * 77] {
        let disk = pattern(size, 19);
        for o in cases {
            let room = Room::new();
            let image = room.convert(&room.raw(&disk), "vmdk", o, "a disk.vmdk");
            let opened = open(&image, &OpenOptions::default()).unwrap();
            assert_eq!((opened.format, opened.warnings), (Format::Vmdk, vec![]), "{o}");
            assert_eq!(opened.source.size(), size as u64, "{o}");
            assert_reads(&*opened.source, &disk);
        }
    }
}

#[test]
fn split_disks_are_read_across_their_extents() {
    let room = Room::new();
    let size = (2u64 << 30) + (10 << 20);
    let raw = room.path("disk.raw");
    std::fs::File::create(&raw).unwrap().set_len(size).unwrap();
    let writes = ["write -P 1 0 70k", "write -P 2 2047M 3M", "write -P 4 2055M 600k"];
    for write in writes {
        qemu("qemu-io", &["-f", "raw", "-c", write, text(&raw)]);
    }
    for o in ["subformat=twoGbMaxExtentSparse", "subformat=twoGbMaxExtentFlat"] {
        let image = room.convert(&raw, "vmdk", o, "split.vmdk");
        let source = open(&image, &OpenOptions::default()).unwrap().source;
        assert_reads_as_qemu_does(&*source, &image, "vmdk");
        let first = source.extent_at(1 << 30, source.size()).unwrap();
        assert_eq!((first.state, first.end()), (State::Zero, 2047 << 20), "{o}");
        if o.ends_with("Sparse") {
            let (kind, message) = fails(&room.path("split-s002.vmdk"), &OpenOptions::default());
            assert!(kind == ErrorKind::Refused && message.contains("part of a split disk"), "{message}");
        }
    }
}

#[test]
fn snapshots_are_refused() {
    let room = Room::new();
    room.convert(&room.raw(&pattern(1 << 20, 5)), "vmdk", "", "base.vmdk");
    let child = room.path("child.vmdk");
    qemu("qemu-img", &["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", text(&child)]);
    let (kind, message) = fails(&child, &OpenOptions { allow_backing: true, format: None });
    assert!(kind == ErrorKind::Refused && message.contains("base.vmdk"), "{message}");
}

#[test]
fn extent_files_are_opened_only_beside_the_descriptor() {
    let room = Room::new();
    let disk = pattern(1 << 20, 5);
    let image = room.path("disk.vmdk");
    let inside = room.path("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("flat.bin"), &disk).unwrap();
    std::fs::write(room.path("flat.bin"), &disk).unwrap();
    std::os::unix::fs::symlink(room.path("flat.bin"), room.path("link.bin")).unwrap();
    nix::unistd::mkfifo(&room.path("pipe.bin"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let descriptor = |line: &str| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n{line}\n"
        );
        std::fs::write(&image, text).unwrap();
    };
    descriptor("RW 2048 FLAT \"flat.bin\" 0");
    assert_reads(&*open(&image, &OpenOptions::default()).unwrap().source, &disk);
    // From the middle, and zeros behind it.
    descriptor("RW 1024 FLAT \"flat.bin\" 1024\nRW 100 ZERO");
    let mut want = disk[512 << 10..].to_vec();
    want.resize(1124 * 512, 0);
    assert_reads(&*open(&image, &OpenOptions::default()).unwrap().source, &want);

    let absolute = room.path("flat.bin");
    for name in ["inside/flat.bin", "../flat.bin", text(&absolute), "link.bin", "..", "inside\\flat.bin"] {
        descriptor(&format!("RW 2048 FLAT \"{name}\" 0"));
        let (kind, message) = fails(&image, &strict());
        assert!(kind == ErrorKind::Refused && message.contains("--allow-backing"), "{name}: {message}");
    }
    for name in ["inside/flat.bin", text(&absolute), "link.bin"] {
        descriptor(&format!("RW 2048 FLAT \"{name}\" 0"));
        let opened = open(&image, &OpenOptions { allow_backing: true, format: None }).unwrap();
        assert_reads(&*opened.source, &disk);
    }
    for (name, want) in
        [("pipe.bin", ErrorKind::Refused), ("inside", ErrorKind::Refused), ("absent.bin", ErrorKind::Io)]
    {
        descriptor(&format!("RW 2048 FLAT \"{name}\" 0"));
        assert_eq!(fails(&image, &strict()).0, want, "{name}");
    }
    descriptor("RW 2049 FLAT \"flat.bin\" 0");
    assert!(fails(&image, &strict()).1.contains("cut short"));
    descriptor("RW 99999999999999999 FLAT \"flat.bin\" 0");
    assert_eq!(fails(&image, &strict()).0, ErrorKind::Unsupported);
    descriptor("");
    assert_eq!(fails(&image, &strict()).0, ErrorKind::Malformed);
}

#[test]
fn text_transfers_missing_footers_and_wrong_markers_are_found() {
    let room = Room::new();
    let disk = pattern(2 << 20, 5);
    let image = room.convert(&room.raw(&disk), "vmdk", "subformat=streamOptimized", "disk.vmdk");
    let good = std::fs::read(&image).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&image, bad).unwrap();
    };
    with(75, b"\n\n");
    assert!(fails(&image, &strict()).1.contains("copied as text"));
    with(4, &[4]);
    assert_eq!(fails(&image, &strict()).0, ErrorKind::Unsupported);
    with(77, &[2]);
    assert_eq!(fails(&image, &strict()).0, ErrorKind::Unsupported);
    with(72, &[1]);
    assert!(open(&image, &strict()).unwrap().warnings[0].contains("not closed cleanly"));
    with(56, &[0xff; 8]);
    assert!(fails(&image, &strict()).1.contains("cut short"));
    // The first grain's marker.
    let first = u64::from_le_bytes(good[64..72].try_into().unwrap()) as usize * 512;
    with(first, &[0x80]);
    let error = open(&image, &strict()).unwrap().source.read_at(&mut vec![0; 2 << 20], 0).unwrap_err();
    assert!(error.kind() == ErrorKind::Malformed && error.chain().contains("marker"), "{}", error.chain());
}

/// A pipe whose end can be looked at.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Pipe {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let take = data.len().min(100_000);
        self.0.lock().unwrap().extend_from_slice(&data[..take]);
        Ok(take)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A disk as a reader sees it that only goes forward, and nothing that it must not see.
fn read_stream(raw: &[u8]) -> Vec<u8> {
    let word = |at: usize, len: usize| {
        raw[at..at + len].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    assert_eq!((&raw[..4], word(4, 4), word(8, 4), word(56, 8)), (&b"KDMV"[..], 3, 0x3_0001, u64::MAX));
    let mut disk = vec![0; word(12, 8) as usize * 512];
    let mut at = word(64, 8) as usize * 512;
    let (mut next, mut kinds, mut tables) = (0, Vec::new(), Vec::new());
    loop {
        let (value, size) = (word(at, 8), word(at + 8, 4) as usize);
        if size > 0 {
            assert!(kinds.iter().all(|kind| *kind == 1), "a grain behind {kinds:?}");
            assert!(value >= next && value % 128 == 0, "sector {value} after {next}");
            next = value + 128;
            let mut grain = vec![0; 65536];
            let len = libdeflater::Decompressor::new()
                .zlib_decompress(&raw[at + 12..at + 12 + size], &mut grain)
                .unwrap();
            assert_eq!(len, 65536);
            let from = value as usize * 512;
            let len = 65536.min(disk.len() - from);
            disk[from..from + len].copy_from_slice(&grain[..len]);
            at += (12 + size).next_multiple_of(512);
            continue;
        }
        let kind = word(at + 12, 4);
        kinds.push(kind);
        at += 512;
        match kind {
            0 => break,
            // A table comes when its grains are complete, and nothing of the next one was seen.
            1 => tables.push((at as u64 / 512, next)),
            2 => {
                let directory: Vec<u64> =
                    (0..value as usize * 128).map(|index| word(at + index * 4, 4)).collect();
                let known: Vec<u64> = directory.iter().copied().filter(|sector| *sector != 0).collect();
                assert_eq!(known, tables.iter().map(|(sector, _)| *sector).collect::<Vec<_>>());
                for (sector, next) in &tables {
                    let index = directory.iter().position(|have| have == sector).unwrap() as u64;
                    assert!(
                        next.div_ceil(65536) == index + 1,
                        "table {index} came at sector {next} of the disk"
                    );
                }
            }
            3 => assert_eq!((&raw[at..at + 4], value), (&b"KDMV"[..], 1)),
            other => panic!("a marker of kind {other}"),
        }
        at += value as usize * 512;
    }
    assert_eq!((at, &kinds[kinds.len() - 3..]), (raw.len(), &[2, 3, 0][..]));
    disk
}

#[test]
fn a_copy_writes_grains_in_ascending_order_into_files_and_pipes() {
    let size = (70 << 20) + 512 * 9;
    let mut disk = pattern(size, 88);
    let mut used = RangeSet::of(5 << 20..7 << 20);
    used.insert((30 << 20) + 777..(34 << 20) + 5);
    used.insert(65 << 20..size as u64);
    let map = ExtentMap::from_data(size as u64, &mut used, State::Hole);
    let map = map.zero_holes(&mut RangeSet::of(40 << 20..50 << 20));
    // What the copy leaves out reads as zeros.
    for extent in map.iter().filter(|extent| extent.state != State::Data) {
        disk[extent.offset as usize..extent.end() as usize].fill(0);
    }
    let source = Memory::new(disk.clone());
    let options = CreateOptions {
        size: size as u64,
        sector_size: 512,
        compression: Compression::Zstd(1),
        cluster_size: None,
    };
    let run = copy::Options { threads: 7, disk: 0, phase: Phase::Capture, name: "disk".into() };
    let room = Room::new();
    let image = room.path("disk.vmdk");
    let pipe = Pipe::default();
    let sinks: [Box<dyn BlockSink>; 2] = [
        Box::new(VmdkSink::create(&image, &options).unwrap()),
        Box::new(VmdkSink::stream(Box::new(pipe.clone()), "disk.vmdk", &options).unwrap()),
    ];
    for sink in sinks {
        copy::copy(&source, &map, &*sink, &run, &Silent).unwrap();
        sink.finish().unwrap();
    }
    for raw in [std::fs::read(&image).unwrap(), pipe.0.lock().unwrap().clone()] {
        assert!(read_stream(&raw) == disk);
        std::fs::write(&image, raw).unwrap();
        assert_reads(&*open(&image, &strict()).unwrap().source, &disk);
        qemu("qemu-img", &["check", "-q", "-f", "vmdk", text(&image)]);
    }
}

#[test]
fn a_broken_pipe_ends_the_copy() {
    struct Broken;
    impl std::io::Write for Broken {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            // The header and the descriptor pass.
            if data.len() > 65536 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(data.len()) }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let size = 40u64 << 20;
    let mut disk = vec![0; size as usize];
    let mut state = 1u64;
    disk.iter_mut().for_each(|byte| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    });
    let options =
        CreateOptions { size, sector_size: 512, compression: Compression::Zstd(1), cluster_size: None };
    let sink = VmdkSink::stream(Box::new(Broken), "disk", &options).unwrap();
    let run = copy::Options { threads: 7, disk: 0, phase: Phase::Capture, name: "disk".into() };
    let map = ExtentMap::uniform(size, State::Data);
    let error = copy::copy(&Memory::new(disk), &map, &sink, &run, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{}", error.chain());
}

fn word(raw: &[u8], at: usize) -> usize {
    u64::from_le_bytes(raw[at..at + 8].try_into().unwrap()) as usize
}

#[test]
fn damaged_images_give_errors_or_bytes_and_truncated_ones_errors() {
    let room = Room::in_memory();
    let raw = room.raw(&pattern(2 << 20, 1234));
    for o in [
        "subformat=monolithicSparse",
        "subformat=streamOptimized",
        "subformat=monolithicSparse,zeroed_grain=on",
    ] {
        let image = room.convert(&raw, "vmdk", o, "disk.vmdk");
        let good = std::fs::read(&image).unwrap();
        let (directory, first) = (word(&good, 56) * 512, word(&good, 64) * 512);
        let table = (word(&good, directory) & 0xffff_ffff) * 512;
        survives_damage(
            &image,
            Format::Vmdk,
            &[(0, 80), (512, 400), (directory, 8), (table, 64), (first, 16)],
            |_| (),
        );
    }
    let flat = room.convert(&raw, "vmdk", "subformat=monolithicFlat", "flat.vmdk");
    damage_text(&flat);
}

/// A descriptor's text with bytes changed: each time an error, or a disk.
fn damage_text(descriptor: &Path) {
    let good = std::fs::read(descriptor).unwrap();
    for at in 0..good.len() {
        for byte in [0, b'"', b'=', b'\n', b'9', 0xff] {
            let mut bad = good.clone();
            bad[at] = byte;
            std::fs::write(descriptor, bad).unwrap();
            if let Ok(opened) = open(descriptor, &strict()) {
                let _ = opened.source.read_at(&mut [0; 512], 0);
            }
        }
    }
}
