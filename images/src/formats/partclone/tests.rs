// SPDX-License-Identifier: Apache-2.0
//! Images that partclone has made, against what partclone restores from them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sum::crc32_more;
use super::{PartcloneSource, Parts, is_one};
use crate::copy::{self, copy};
use crate::monitor::{Phase, Silent};
use crate::sink::Finished;
use crate::{BlockSink, BlockSource, ErrorKind, ExtentMap, Result, State};

pub(crate) fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
    text
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A filesystem of `mib` MiB with files in it, and garbage where nothing is.
pub(crate) fn volume(dir: &Path, kind: &str, mib: u64) -> PathBuf {
    let content = dir.join("content");
    std::fs::create_dir_all(content.join("folder")).unwrap();
    std::fs::write(content.join("noise"), noise(3 << 20, 5)).unwrap();
    std::fs::write(content.join("folder/text"), "some text\n".repeat(90_000)).unwrap();
    let path = dir.join(format!("volume.{kind}"));
    let mut file = File::create(&path).unwrap();
    // What mkfs leaves as it was must not come along.
    let garbage = noise(1 << 20, 6);
    (0..mib).for_each(|_| file.write_all(&garbage).unwrap());
    drop(file);
    let (volume, content) = (text(&path), text(&content));
    match kind {
        "ext4" => {
            run("e2fsprogs", "mke2fs", &["-q", "-F", "-t", "ext4", "-E", "nodiscard", "-d", content, volume])
        }
        "ext4-1k" => {
            run("e2fsprogs", "mke2fs", &["-q", "-F", "-b", "1024", "-E", "nodiscard", "-d", content, volume])
        }
        "xfs" => run("xfsprogs", "mkfs.xfs", &["-q", "-f", "-K", volume]),
        "btrfs" => run("btrfs-progs", "mkfs.btrfs", &["-q", "-f", "-K", "--rootdir", content, volume]),
        "ntfs" => run(
            "ntfs-3g",
            "mkntfs",
            &["-q", "-F", "-Q", "-s", "512", "-p", "0", "-H", "16", "-S", "63", volume],
        ),
        "fat32" => run("dosfstools", "mkfs.vfat", &["-F", "32", volume]),
        _ => String::new(),
    };
    path
}

/// The image that `partclone.TOOL` makes of `volume`.
pub(crate) fn save(dir: &Path, tool: &str, volume: &Path, options: &[&str]) -> PathBuf {
    let image = dir.join(format!("{tool}.img"));
    let log = dir.join("log");
    let mut arguments = vec!["-c", "-s", text(volume), "-O", text(&image), "-L", text(&log), "-q"];
    arguments.extend(options);
    run("partclone", &format!("partclone.{tool}"), &arguments);
    image
}

/// What partclone itself makes of an image.
fn restored(dir: &Path, image: &Path, size: u64) -> Vec<u8> {
    let out = dir.join("restored.raw");
    File::create(&out).unwrap().set_len(size).unwrap();
    let log = dir.join("log");
    run(
        "partclone",
        "partclone.restore",
        &["-C", "-s", text(image), "-O", text(&out), "-L", text(&log), "-q"],
    );
    std::fs::read(&out).unwrap()
}

fn open(image: &Path) -> PartcloneSource {
    PartcloneSource::new(Parts::of(image).unwrap()).unwrap()
}

fn all(source: &PartcloneSource) -> Vec<u8> {
    let mut bytes = vec![0xEE; source.size() as usize];
    source.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// All bytes and extents, in one piece, in odd ones, and from the back.
fn assert_same(source: &PartcloneSource, want: &[u8]) {
    let whole = all(source);
    let differs = whole.iter().zip(want).position(|(one, two)| one != two);
    assert!(whole.len() == want.len() && differs.is_none(), "differs at {differs:?} of {}", want.len());
    let mut at = 0;
    for step in [1, 511, 4096, 300_000, 77, 1 << 20].into_iter().cycle() {
        let len = step.min(want.len() - at);
        let mut part = vec![0xEE; len];
        source.read_at(&mut part, at as u64).unwrap();
        assert!(part == want[at..at + len], "{len} bytes at {at:#x}");
        at += len;
        if at == want.len() {
            break;
        }
    }
    for at in [want.len() - 5000, want.len() / 2, 1000, 0] {
        let mut part = [0xEE; 4000];
        source.read_at(&mut part, at as u64).unwrap();
        assert!(part == want[at..at + 4000]);
    }
    assert!(source.read_at(&mut [0; 2], source.size() - 1).is_err());
    let mut at = 0;
    while at < source.size() {
        let extent = source.extent_at(at, source.size() - at).unwrap();
        assert!(extent.offset == at && extent.len > 0 && extent.end() <= source.size(), "{extent:?}");
        let part = &want[at as usize..extent.end() as usize];
        assert!(extent.state == State::Data || part.iter().all(|byte| *byte == 0), "{extent:?}");
        at = extent.end();
    }
}

#[test]
fn every_filesystems_image_reads_as_partclone_restores_it() {
    for (kind, tool, mib, options) in [
        ("ext4", "ext4", 40, &[][..]),
        ("ext4", "ext4", 40, &["-a0"]),
        ("ext4-1k", "ext2", 24, &["-k64"]),
        ("ext4", "ext4", 40, &["-K", "-k128"]),
        ("xfs", "xfs", 320, &[]),
        ("btrfs", "btrfs", 128, &[]),
        ("ntfs", "ntfs", 24, &[]),
        ("fat32", "vfat", 48, &[]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let volume = volume(dir.path(), kind, mib);
        let image = save(dir.path(), tool, &volume, options);
        assert!(is_one(&image) && !is_one(&volume));
        let source = open(&image);
        assert_eq!(source.size(), mib << 20, "{kind}");
        let want = restored(dir.path(), &image, mib << 20);
        assert_same(&source, &want);
        assert!(source.used_bytes() < (mib << 20) / 2, "{kind}: {} bytes are used", source.used_bytes());
    }
}

#[test]
fn strips_of_any_length_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path(), "ext4-1k", 24);
    let want = all(&open(&save(dir.path(), "ext2", &volume, &[])));
    // partclone 0.3.23 crashes when it restores some of these, so that it cannot be asked.
    for options in [&["-k1"][..], &["-k7"], &["-k5000"], &["-K", "-k7"], &["-a0"]] {
        assert!(all(&open(&save(dir.path(), "ext2", &volume, options))) == want, "{options:?}");
    }
}

#[test]
fn compressed_and_split_images_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path(), "ext4", 24);
    let image = save(dir.path(), "ext4", &volume, &[]);
    let want = all(&open(&image));
    for (package, program, options, end) in [
        ("gzip", "gzip", &["-1", "-c"][..], "gz"),
        ("zstd", "zstd", &["-q", "-1", "-c"], "zst"),
        ("xz-utils", "xz", &["-0", "-T2", "-c"], "xz"),
        ("xz-utils", "xz", &["-0", "--format=lzma", "-c"], "lzma"),
        ("lz4", "lz4", &["-q", "-1", "-c"], "lz4"),
        ("bzip2", "bzip2", &["-1", "-c"], "bz2"),
    ] {
        let packed = dir.path().join(format!("sda1.ext4-ptcl-img.{end}"));
        let line = [options, &[text(&image)]].concat();
        let output = Command::new(program).args(&line).output();
        let output = output.unwrap_or_else(|error| panic!("{program} is needed ({package}): {error}"));
        std::fs::write(&packed, &output.stdout).unwrap();
        assert!(is_one(&packed), "{end}");
        assert!(all(&open(&packed)) == want, "{end}");
        let parts = format!("{}.", text(&packed));
        run("coreutils", "split", &["-b", "100000", "-a", "2", text(&packed), &parts]);
        let first = PathBuf::from(format!("{parts}aa"));
        assert!(is_one(&first) && PathBuf::from(format!("{parts}ac")).exists(), "{end}");
        assert!(all(&open(&first)) == want, "{end} in parts");
        std::fs::remove_file(format!("{parts}ab")).unwrap();
        assert!(Parts::of(&first).unwrap_err().chain().contains("part 1 is missing"));
    }
    // Compressors with several threads write several frames.
    let twice = dir.path().join("frames.zst");
    let raw = std::fs::read(&image).unwrap();
    let (one, two) = raw.split_at(raw.len() / 3);
    let frames: Vec<u8> = [one, two].iter().flat_map(|part| zstd::bulk::compress(part, 1).unwrap()).collect();
    std::fs::write(&twice, frames).unwrap();
    assert!(all(&open(&twice)) == want);
}

/// Version 1's image of `data`, as partclone wrote it before 2016; with checksums of 4 bytes, or 8 as on 64-bit machines.
pub(crate) fn version_1(data: &[u8], used: &[bool], block: usize, width: usize) -> Vec<u8> {
    let mut image = b"partclone-image".to_vec();
    image.extend(b"EXTFS\0\0\0\0\0\0\0\0\0\0");
    image.extend(b"0001\0\0");
    image.extend((block as u32).to_le_bytes());
    image.extend((data.len() as u64).to_le_bytes());
    image.extend(((data.len() / block) as u64).to_le_bytes());
    image.extend((used.iter().filter(|used| **used).count() as u64).to_le_bytes());
    image.resize(4160, 0);
    image.extend(used.iter().map(|used| u8::from(*used)));
    image.extend(b"BiTmAgIc");
    let mut crc = !0;
    for (block, _) in data.chunks(block).zip(used).filter(|(_, used)| **used) {
        image.extend(block);
        crc = crc32_more(crc, &vec![block[0]; block.len()]);
        image.extend(crc.to_le_bytes());
        image.resize(image.len() + width - 4, 0);
    }
    image
}

#[test]
fn images_of_version_1_read_as_partclone_restores_them() {
    const BLOCK: usize = 1024;
    let used: Vec<bool> = (0..600u64).map(|block| block % 7 < 3 || (100..200).contains(&block)).collect();
    let mut data = noise(used.len() * BLOCK, 9);
    data.chunks_mut(BLOCK).zip(&used).filter(|(_, used)| !**used).for_each(|(block, _)| block.fill(0));
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("old.img");
    for width in [4, 8] {
        std::fs::write(&image, version_1(&data, &used, BLOCK, width)).unwrap();
        assert_same(&open(&image), &data);
        // Later versions of partclone read those with 8 bytes no longer.
        if width == 4 {
            assert!(restored(dir.path(), &image, data.len() as u64) == data);
        }
    }
}

#[test]
fn images_with_xxhash_are_read_and_damage_is_noticed() {
    use std::hash::Hasher;
    // partclone of Debian 12 makes none: what its sources say (checksum.c) is put together here.
    let blocks: Vec<Vec<u8>> = (0..10).map(|block| noise(512, block)).collect();
    for (mode, size) in [(0x30u16, 8u16), (0x31, 16)] {
        let mut image = b"partclone-image\0".to_vec();
        image.extend(b"0.3.40\0\0\0\0\0\0\0\x000002");
        image.extend(0xC0DEu16.to_le_bytes());
        image.extend(b"raw\0\0\0\0\0\0\0\0\0\0\0\0\0");
        for number in [5120u64, 10, 10, 10] {
            image.extend(number.to_le_bytes());
        }
        image.extend(512u32.to_le_bytes());
        image.extend(18u32.to_le_bytes());
        for number in [2u16, 64, mode, size] {
            image.extend(number.to_le_bytes());
        }
        image.extend(4u32.to_le_bytes());
        image.extend([1, 0]);
        image.extend((crc32_more(!0, &image)).to_le_bytes());
        for strip in blocks.chunks(4) {
            let strip = strip.concat();
            image.extend(&strip);
            if mode == 0x30 {
                let mut hasher = twox_hash::XxHash64::with_seed(0);
                hasher.write(&strip);
                image.extend(hasher.finish().to_le_bytes());
            } else {
                image.extend(twox_hash::XxHash3_128::oneshot(&strip).to_le_bytes());
            }
        }
        let source = PartcloneSource::of_bytes(image.clone()).unwrap();
        assert!(all(&source) == blocks.concat());
        let last = image.len() - 1;
        for at in [last, last - 700, 200, 2200] {
            let mut bad = image.clone();
            bad[at] ^= 4;
            let source = PartcloneSource::of_bytes(bad).unwrap();
            let error = source.read_at(&mut vec![0; 5120], 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{at}");
        }
    }
}

/// Takes everything.
struct Nowhere;

impl BlockSink for Nowhere {
    fn granule(&self) -> u64 {
        crate::LEAF
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        Ok(())
    }
    fn write_zeros(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
    fn written_bytes(&self) -> u64 {
        0
    }
    fn finish(self: Box<Self>) -> Result<Finished> {
        Ok(Finished::default())
    }
}

#[test]
fn a_copy_with_eight_threads_passes_the_stream_once() {
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path(), "ext4", 96);
    let image = save(dir.path(), "ext4", &volume, &[]);
    let (opened, parts) = (Arc::new(AtomicUsize::new(0)), Parts::of(&image).unwrap());
    let count = Arc::clone(&opened);
    let source = PartcloneSource::of(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        parts.open()
    }))
    .unwrap();
    let map = ExtentMap::uniform(source.size(), State::Data);
    let options = copy::Options { threads: 8, disk: 0, phase: Phase::Import, name: "test".into() };
    let copied = copy(&source, &map, &Nowhere, &options, &Silent).unwrap();
    // What no filesystem uses is zeros in the image, whatever the volume has there.
    std::fs::write(&volume, all(&open(&image))).unwrap();
    let plain =
        copy(&crate::formats::raw::RawSource::open(&volume).unwrap(), &map, &Nowhere, &options, &Silent);
    assert_eq!(copied.leaves.root(), plain.unwrap().leaves.root());
    assert_eq!(opened.load(Ordering::Relaxed), 1);
}

#[test]
fn no_damage_panics_and_all_damage_of_blocks_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path(), "ext4-1k", 12);
    let image = std::fs::read(save(dir.path(), "ext2", &volume, &[])).unwrap();
    let whole = |bytes: Vec<u8>| -> Result<()> {
        let source = PartcloneSource::of_bytes(bytes)?;
        let len = source.size().min(16 << 20) as usize;
        source.read_at(&mut vec![0; len], 0)
    };
    whole(image.clone()).unwrap();
    let first = 110 + (12 << 10) / 8 + 4;
    for at in (0..first).chain((first..image.len()).step_by(9973)) {
        let mut bad = image.clone();
        bad[at] ^= 1 << (at % 8);
        // What of the header is not used may be anything, but its checksum covers it.
        assert!(whole(bad).is_err(), "byte {at}");
    }
    for len in (0..first).step_by(7).chain((first..image.len()).step_by(50_021)) {
        assert!(whole(image[..len].to_vec()).is_err(), "{len} bytes");
    }
    let used = vec![true; 20];
    let old = version_1(&noise(20 * 512, 1), &used, 512, 4);
    for at in 0..old.len() {
        let mut bad = old.clone();
        bad[at] ^= 0x41;
        let _ = whole(bad);
    }
}
