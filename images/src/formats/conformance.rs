// SPDX-License-Identifier: Apache-2.0
//! One suite for every format: what is written by several threads out of order is read back the same, by us and by QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::merkle::is_zero;
use crate::{ErrorKind, Extent, State};

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
    let cluster_size = Some(cluster_size).filter(|size| *size != 0);
    CreateOptions { size: size as u64, sector_size: 512, compression, cluster_size }
}

/// A folder for images.
pub(super) struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// For many small files that are written anew again and again: in memory, where there is such a place.
    pub(super) fn in_memory() -> Self {
        Self { dir: tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn raw(&self, disk: &[u8]) -> PathBuf {
        let path = self.path("disk.raw");
        std::fs::write(&path, disk).unwrap();
        path
    }

    /// `raw` as QEMU converts it to its format `format` with options `-o o`.
    pub(super) fn convert(&self, raw: &Path, format: &str, o: &str, name: &str) -> PathBuf {
        let image = self.path(name);
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        if !o.is_empty() {
            args.extend(["-o", o]);
        }
        args.extend([text(raw), text(&image)]);
        qemu("qemu-img", &args);
        image
    }
}

/// Kind and message of the refusal to open an image.
pub(super) fn fails(path: &Path, options: &OpenOptions) -> (ErrorKind, String) {
    let error = open(path, options).err().expect("it opened");
    (error.kind(), error.chain())
}

/// Does the disk read as QEMU reads the image? Its size too, in whole sectors.
pub(super) fn assert_reads_as_qemu_does(source: &dyn BlockSource, image: &Path, format: &str) {
    use std::os::unix::fs::FileExt;
    let flat = tempfile::NamedTempFile::new().unwrap();
    qemu("qemu-img", &["convert", "-f", format, "-O", "raw", text(image), text(flat.path())]);
    let file = flat.as_file();
    assert_eq!(source.size().next_multiple_of(512), file.metadata().unwrap().len(), "{}", image.display());
    let (mut ours, mut theirs) = (vec![0xEE; 1 << 20], vec![0; 1 << 20]);
    for at in (0..source.size()).step_by(1 << 20) {
        let len = (source.size() - at).min(1 << 20) as usize;
        source.read_at(&mut ours[..len], at).unwrap();
        file.read_exact_at(&mut theirs[..len], at).unwrap();
        assert!(ours[..len] == theirs[..len], "{} differs in the MiB at {at:#x}", image.display());
    }
}

/// Reads all that can be read of the first 16 MiB, ignoring errors; what matters is that it ends.
pub(super) fn read_some(path: &Path, format: Format) -> Result<()> {
    let source = open(path, &OpenOptions { format: Some(format), allow_backing: false })?.source;
    let size = source.size().min(16 << 20);
    let mut buf = vec![0; 1 << 20];
    for at in (0..size).step_by(1 << 20) {
        let part = &mut buf[..(size - at).min(1 << 20) as usize];
        let _ = source.read_at(part, at);
        let few = part.len().min(100);
        let _ = source.read_at(&mut part[..few], at);
    }
    let mut at = 0;
    for _ in 0..1000 {
        match source.extent_at(at, source.size().saturating_sub(at)) {
            Ok(extent) if extent.end() < source.size() => at = extent.end(),
            _ => break,
        }
    }
    Ok(())
}

/// Damages an image in 300 ways, most of them within `places` (first byte, length), and truncates it in 40. Neither panics, and
/// half an image is an error.
pub(super) fn survives_damage(
    image: &Path,
    format: Format,
    places: &[(usize, usize)],
    seal: impl Fn(&mut [u8]),
) {
    let room = Room::in_memory();
    let bad = room.path("bad");
    let good = std::fs::read(image).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    for round in 0..300 {
        let mut broken = good.clone();
        for _ in 0..=random(3) {
            let (from, len) = places.get(round % (places.len() + 1)).copied().unwrap_or((0, good.len()));
            let at = (from + random(len)).min(good.len() - 1);
            broken[at] = match random(3) {
                0 => broken[at] ^ 1 << random(8),
                1 => 0xff,
                _ => random(256) as u8,
            };
        }
        if round % 4 != 0 {
            seal(&mut broken);
        }
        std::fs::write(&bad, broken).unwrap();
        let _ = read_some(&bad, format);
    }
    for _ in 0..40 {
        std::fs::write(&bad, &good[..random(good.len())]).unwrap();
        let _ = read_some(&bad, format);
    }
    std::fs::write(&bad, &good[..good.len() / 2 / 65536 * 65536]).unwrap();
    let forced = OpenOptions { format: Some(format), allow_backing: false };
    let whole = open(&bad, &forced).and_then(|opened| {
        let mut disk = vec![0; opened.source.size() as usize];
        opened.source.read_at(&mut disk, 0)
    });
    assert!(whole.is_err(), "half of {} reads as a whole disk", image.display());
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
        let others = [
            (Format::Vmdk, &[(None, 0), (Zlib(6), 65536), (Zstd(-3), 0), (Zstd(9), 0), (Auto, 0)][..]),
            (Format::Vhdx, &[(None, 0), (None, 2 << 20), (None, 32 << 20)]),
        ];
        for (format, variants) in others {
            for &(kind, cluster) in variants {
                let image = room.path("disk");
                write(&image, format, &options(size, kind, cluster), &disk);
                let opened = open(&image, &OpenOptions::default()).unwrap();
                assert_eq!((opened.format, opened.warnings.len()), (format, 0));
                assert_reads(&*opened.source, &disk);
                let name = format.qemu_name();
                qemu("qemu-img", &["check", "-q", "-f", name, text(&image)]);
                qemu("qemu-img", &["compare", "-q", "-f", "raw", "-F", name, text(&raw), text(&image)]);
                std::fs::remove_file(&image).unwrap();
            }
        }
    }
}

#[test]
fn disks_of_every_odd_size_and_of_terabytes_are_written_and_read() {
    let sizes = [0, 1, 511, 512, 4096 + 512, 65536, 65536 * 3 + 100, (1 << 20) - 512, (1 << 20) + 4096];
    for (format, size) in [Format::Qcow2, Format::Vmdk, Format::Vhdx]
        .into_iter()
        .flat_map(|format| sizes.map(|size| (format, size)))
    {
        let room = Room::new();
        let image = room.path("disk");
        let disk = pattern(size, 77);
        write(&image, format, &options(size, Compression::Zstd(1), 0), &disk);
        let source = open(&image, &OpenOptions::default()).unwrap().source;
        assert_eq!(source.size(), size.next_multiple_of(512) as u64, "{format:?} of {size}");
        if size > 0 {
            assert_reads(&*source, &disk);
            assert_reads_as_qemu_does(&*source, &image, format.qemu_name());
        }
    }
    for format in [Format::Vmdk, Format::Vhdx] {
        let room = Room::new();
        let image = room.path("disk");
        let size = 8usize << 40;
        let sink = create(&image, format, &options(size, Compression::Zstd(1), 0)).unwrap();
        let places = [0, 5 << 30, (3 << 40) + (7 << 16), (8 << 40) - 65536];
        for (at, fill) in places.into_iter().zip(1..) {
            sink.write_at(&[fill; 65536], at).unwrap();
        }
        sink.write_zeros(1 << 40, 1 << 40).unwrap();
        let finished = sink.finish().unwrap();
        // One whole block of 8 MiB for each place, and 8 MiB of BAT: what an 8 TiB VHDX costs.
        assert!(finished.stored_bytes <= 64 << 20, "{format:?}: {} bytes", finished.stored_bytes);
        let source = open(&image, &OpenOptions::default()).unwrap().source;
        let mut found = Vec::new();
        let mut at = 0;
        while at < source.size() {
            let extent = source.extent_at(at, source.size() - at).unwrap();
            if extent.state == State::Data {
                found.push((extent.offset, extent.len));
            }
            at = extent.end();
        }
        assert_eq!(found, places.map(|at| (at, 65536)), "{format:?}");
        let mut byte = [0];
        for (at, fill) in places.into_iter().zip(1..) {
            source.read_at(&mut byte, at + 65535).unwrap();
            assert_eq!(byte, [fill]);
        }
        qemu("qemu-img", &["check", "-q", "-f", format.qemu_name(), text(&image)]);
    }
}

#[test]
fn formats_that_are_read_only_are_refused_with_what_serves_instead() {
    let room = Room::new();
    for (format, instead) in [(Format::Vhd, ".vhdx"), (Format::Vdi, ".vmdk")] {
        let error =
            create(&room.path("disk"), format, &options(1 << 20, Compression::None, 0)).err().unwrap();
        assert!(error.kind() == ErrorKind::Usage && error.chain().contains(instead), "{}", error.chain());
    }
    for (format, name) in
        [(Format::Vmdk, "vmdk"), (Format::Vhdx, "vhdx"), (Format::Vhd, "vpc"), (Format::Vdi, "vdi")]
    {
        let image = room.convert(&room.raw(&pattern(1 << 20, 3)), name, "", "disk");
        let error = Patcher::open(&image, format, false).err().unwrap();
        assert!(error.kind() == ErrorKind::Refused && error.chain().contains("qcow2"), "{}", error.chain());
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
    for (format, size, cluster) in [
        (Format::Vhdx, 1 << 20, 65536),
        (Format::Vhdx, 1 << 20, 3 << 20),
        (Format::Vhdx, 65 << 40, 0),
        (Format::Vhdx, 64 << 40, 1 << 20),
        (Format::Vmdk, 1 << 20, 4096),
        (Format::Vmdk, 65 << 40, 0),
    ] {
        let result = create(&room.path("bad"), format, &options(size, Compression::None, cluster));
        assert_eq!(result.err().unwrap().kind(), crate::ErrorKind::Usage, "{format:?} {size} {cluster}");
    }
}

#[test]
fn unfinished_images_are_not_taken_for_whole_ones() {
    let room = Room::new();
    for format in [Format::Vmdk, Format::Vhdx] {
        let image = room.path(format.name());
        let sink = create(&image, format, &options(3 << 20, Compression::Zstd(1), 0)).unwrap();
        sink.write_at(&pattern(2 << 20, 5), 0).unwrap();
        drop(sink);
        let forced = OpenOptions { format: Some(format), ..Default::default() };
        assert_eq!(fails(&image, &forced).0, ErrorKind::Malformed);
    }
}

#[test]
fn other_containers_are_refused_by_name_rather_than_taken_for_raw() {
    let room = Room::new();
    for (format, name) in [("qed", "QED"), ("parallels", "Parallels")] {
        let image = room.path(format);
        qemu("qemu-img", &["create", "-q", "-f", format, text(&image), "16M"]);
        let error = open(&image, &OpenOptions::default()).err().unwrap();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(error.chain().contains(name), "{}", error.chain());
    }
    assert_eq!(open(&room.raw(&[1; 5]), &OpenOptions::default()).unwrap().format, Format::Raw);
}
