// SPDX-License-Identifier: Apache-2.0
//! One suite for every format: what is written by several threads out of order is read back the same, by us and by QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::merkle::is_zero;
use crate::{Extent, State};

/// Runs a tool of QEMU's; its standard output.
pub(super) fn qemu(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}; install the package qemu-utils"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{tool} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk with text, noise, constant bytes, zeros and holes in ranges of every size, reproducible from `seed`.
pub(super) fn pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut disk = vec![0; size];
    let mut at = 0;
    while at < size {
        let kind = next() % 6;
        let len = (512 << (next() % 11)).min((size - at) as u64) as usize;
        let part = &mut disk[at..at + len];
        match kind {
            0 | 1 => part.iter_mut().for_each(|byte| *byte = b'a' + (next() % 7) as u8),
            2 => part.iter_mut().for_each(|byte| *byte = next() as u8),
            3 => part.fill(next() as u8),
            _ => {}
        }
        at += len;
    }
    disk
}

/// Every granule of `disk` in calls of at most `slab` bytes: (offset, length, zeros).
fn calls(disk: &[u8], granule: usize, slab: usize) -> Vec<(usize, usize, bool)> {
    let mut calls: Vec<(usize, usize, bool)> = Vec::new();
    for (index, part) in disk.chunks(granule).enumerate() {
        let zero = is_zero(part);
        match calls.last_mut() {
            Some((_, len, was)) if *was == zero && *len + part.len() <= slab.max(granule) => {
                *len += part.len();
            }
            _ => calls.push((index * granule, part.len(), zero)),
        }
    }
    calls
}

/// Writes `disk` from four threads, calls in a shuffled order; ranges of zeros alternate between zero and hole.
fn write(path: &Path, format: Format, options: &CreateOptions, disk: &[u8]) {
    let sink = create(path, format, options).unwrap();
    let mut calls = calls(disk, sink.granule() as usize, 512 << 10);
    let len = calls.len();
    for index in 0..len {
        calls.swap(index, (index * 7 + 3) % len);
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(&(at, len, zero)) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match zero {
                        false => sink.write_at(&disk[at..at + len], at as u64).unwrap(),
                        true if at / 4096 % 2 == 0 => sink.write_zeros(at as u64, len as u64).unwrap(),
                        true => {}
                    }
                }
            });
        }
    });
    let finished = sink.finish().unwrap();
    assert_eq!(finished.stored_bytes, std::fs::metadata(path).unwrap().len());
}

/// Reads all of it: whole, then in odd pieces from three threads, and checks what the extents promise.
pub(super) fn assert_reads(source: &dyn BlockSource, disk: &[u8]) {
    assert!(source.size() >= disk.len() as u64);
    let mut whole = vec![0xEE; disk.len()];
    source.read_at(&mut whole, 0).unwrap();
    if let Some(at) = (0..disk.len()).find(|&at| whole[at] != disk[at]) {
        panic!("byte {at:#x} differs: {:#x} instead of {:#x}", whole[at], disk[at]);
    }
    std::thread::scope(|scope| {
        for step in [12_345usize, 70_001, 1_048_577] {
            scope.spawn(move || {
                let mut at = step % 1000;
                while at < disk.len() {
                    let mut part = vec![0xEE; step.min(disk.len() - at)];
                    source.read_at(&mut part, at as u64).unwrap();
                    assert!(part == disk[at..at + part.len()], "{} bytes at {at:#x} differ", part.len());
                    at += step * 3;
                }
            });
        }
    });
    let mut last: Option<Extent> = None;
    let mut at = 0;
    while at < source.size() {
        let extent = source.extent_at(at, source.size() - at).unwrap();
        assert!(extent.offset == at && extent.len > 0 && extent.end() <= source.size(), "{extent:?}");
        let range = (at as usize).min(disk.len())..(extent.end() as usize).min(disk.len());
        assert!(extent.state != State::Zero || is_zero(&disk[range]), "{extent:?} is not zeros");
        assert!(last.is_none_or(|last| last.state != extent.state), "{last:?} and {extent:?} are not merged");
        last = Some(extent);
        at = extent.end();
    }
    assert!(source.read_at(&mut [0; 2], source.size() - 1).is_err());
}

fn options(size: usize, compression: Compression, cluster_size: u32) -> CreateOptions {
    CreateOptions { size: size as u64, compression, cluster_size }
}

struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn raw(&self, disk: &[u8]) -> PathBuf {
        let path = self.path("disk.raw");
        std::fs::write(&path, disk).unwrap();
        path
    }
}

#[test]
fn what_four_threads_write_out_of_order_qemu_and_we_read_back() {
    use Compression::{Auto, None, Zlib, Zstd};
    let sizes = [6 << 20, (9 << 20) + 512 * 77];
    let kinds = [None, Zlib(6), Zstd(1), Zstd(-3), Zstd(7), Auto];
    let clusters = [512, 4096, 65536, 2 << 20];
    for (number, size) in sizes.into_iter().enumerate() {
        let disk = pattern(size, 41 + number as u64);
        let room = Room::new();
        let raw = room.raw(&disk);
        let copy = room.path("copy.raw");
        write(&copy, Format::Raw, &options(size, None, 0), &disk);
        assert!(std::fs::read(&copy).unwrap() == disk);
        assert_reads(&*open(&copy, &OpenOptions::default()).unwrap().source, &disk);
        for cluster in clusters {
            for kind in kinds {
                if cluster != 65536 && matches!(kind, Zstd(7 | -3) | Auto) {
                    continue;
                }
                let image = room.path("disk.qcow2");
                write(&image, Format::Qcow2, &options(size, kind, cluster), &disk);
                let opened = open(&image, &OpenOptions::default()).unwrap();
                assert_eq!((opened.format, opened.warnings.len()), (Format::Qcow2, 0));
                assert_reads(&*opened.source, &disk);
                qemu("qemu-img", &["check", "-q", text(&image)]);
                qemu("qemu-img", &["compare", "-q", "-f", "raw", "-F", "qcow2", text(&raw), text(&image)]);
                std::fs::remove_file(&image).unwrap();
            }
        }
    }
}

#[test]
fn zeros_are_explicit_holes_are_not_and_a_disk_of_8_tib_of_zeros_stays_small() {
    let room = Room::new();
    let image = room.path("zero.qcow2");
    let size = 8usize << 40;
    let sink = create(&image, Format::Qcow2, &options(size, Compression::Zstd(1), 65536)).unwrap();
    sink.write_zeros(1 << 20, 1 << 20).unwrap();
    sink.write_at(&[7; 65536], 4 << 20).unwrap();
    // All of it in one call, and as the copy would in small ones.
    sink.write_zeros(1 << 40, 6 << 40).unwrap();
    for at in (0..2u64 << 30).step_by(1 << 20) {
        sink.write_zeros((7 << 40) + at, 1 << 20).unwrap();
    }
    let finished = sink.finish().unwrap();
    assert!(finished.stored_bytes < 2 << 20, "{} bytes", finished.stored_bytes);
    qemu("qemu-img", &["check", "-q", text(&image)]);
    let map = qemu("qemu-img", &["map", "--output=json", text(&image)]);
    let line = |text: &str| assert!(map.contains(text), "no {text} in {map}");
    line(r#""start": 1048576, "length": 1048576, "depth": 0, "present": true, "zero": true"#);
    line(r#""start": 2097152, "length": 2097152, "depth": 0, "present": false, "zero": true"#);
    let source = open(&image, &OpenOptions::default()).unwrap().source;
    assert_eq!(source.extent_at(0, source.size()).unwrap().len, 4 << 20);
    let rest = source.extent_at((4 << 20) + 65536, source.size()).unwrap();
    assert_eq!((rest.end(), rest.state), (source.size(), State::Zero));
}

#[test]
fn an_unfinished_qcow2_is_none_and_nothing_is_overwritten() {
    let room = Room::new();
    let image = room.path("disk.qcow2");
    let make = || create(&image, Format::Qcow2, &options(1 << 20, Compression::Zstd(1), 65536));
    let sink = make().unwrap();
    sink.write_at(&[7; 65536], 0).unwrap();
    assert!(make().is_err());
    drop(sink);
    let forced = OpenOptions { format: Some(Format::Qcow2), ..Default::default() };
    assert!(open(&image, &forced).is_err());
    for (size, cluster) in [(1 << 20, 1000), (1 << 20, 256), (1 << 20, 4 << 20), (1 << 40, 512)] {
        let result =
            create(&room.path("bad.qcow2"), Format::Qcow2, &options(size, Compression::None, cluster));
        assert_eq!(result.err().unwrap().kind(), crate::ErrorKind::Usage);
    }
}

#[test]
fn other_containers_are_refused_by_name_rather_than_taken_for_raw() {
    let room = Room::new();
    for (format, name) in [("vmdk", "VMDK"), ("vhdx", "VHDX"), ("vdi", "VDI"), ("vpc", "VHD"), ("qed", "QED")]
    {
        let image = room.path(format);
        qemu("qemu-img", &["create", "-q", "-f", format, text(&image), "16M"]);
        let error = open(&image, &OpenOptions::default()).err().unwrap();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(error.chain().contains(name), "{}", error.chain());
    }
    assert_eq!(open(&room.raw(&[1; 5]), &OpenOptions::default()).unwrap().format, Format::Raw);
}
