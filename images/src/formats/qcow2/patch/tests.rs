// SPDX-License-Identifier: Apache-2.0
//! Images of every kind, changed at random: against a model in memory, QEMU's checker and QEMU's reader.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::*;
use crate::ErrorKind;
use crate::formats::conformance::{assert_reads, pattern, qemu, text};
use crate::formats::{Compression, CreateOptions, Format, OpenOptions, Patcher, create, open};

thread_local! {
    /// Writes that this thread may still do.
    static WRITES: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Fails when the allowance is used up, as a machine that loses power does.
pub(super) fn may_write() -> Result<()> {
    WRITES.with(|left| match left.get() {
        0 => Err(Error::new(ErrorKind::Io, "losing power")),
        some => {
            left.set(if some == usize::MAX { some } else { some - 1 });
            Ok(())
        }
    })
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }

    /// (offset, bytes) of some size, some of them zeros.
    fn patches(&mut self, size: usize, count: usize) -> Vec<(u64, Vec<u8>)> {
        let mut patches = Vec::new();
        for _ in 0..count {
            let most = [1, 512, 4096, 70_000, 300_000][self.below(5)];
            let at = self.below(size);
            let len = (1 + self.below(most)).min(size - at);
            let seed = self.below(1 << 30) as u64;
            let zeros = self.below(4) == 0;
            patches.push((at as u64, if zeros { vec![0; len] } else { pattern(len, seed) }));
        }
        patches
    }
}

fn apply_to_model(model: &mut [u8], patches: &[(u64, Vec<u8>)]) {
    for (at, bytes) in patches {
        model[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
    }
}

fn patch(path: &Path, patches: &[(u64, Vec<u8>)], repair: bool) -> Result<()> {
    let mut patcher = Patcher::open(path, Format::Qcow2, repair)?;
    for (at, bytes) in patches {
        patcher.write_at(bytes, *at)?;
    }
    patcher.finish()
}

fn check(path: &Path) {
    qemu("qemu-img", &["check", "-q", text(path)]);
}

struct Room {
    dir: tempfile::TempDir,
    disk: Vec<u8>,
}

impl Room {
    fn new(size: usize, seed: u64) -> Self {
        let room = Self { dir: tempfile::tempdir().unwrap(), disk: pattern(size, seed) };
        std::fs::write(room.path("disk.raw"), &room.disk).unwrap();
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn convert(&self, o: &str, flags: &[&str]) -> PathBuf {
        let (raw, image) = (self.path("disk.raw"), self.path("disk.qcow2"));
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", o];
        args.extend(flags);
        args.extend([text(&raw), text(&image)]);
        qemu("qemu-img", &args);
        image
    }

    /// QEMU and we read the image as `model`.
    fn same(&self, image: &Path, model: &[u8], what: &str) {
        check(image);
        let raw = self.path("model.raw");
        std::fs::write(&raw, model).unwrap();
        qemu("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(image)]);
        let opened = open(image, &Default::default()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_reads(&*opened.source, model);
    }
}

#[test]
fn patched_images_of_every_kind_are_what_a_model_is_and_pass_qemu_s_check() {
    let room = Room::new((3 << 20) + 512 * 9, 4);
    let cases: [(&str, &[&str]); 15] = [
        ("compat=0.10", &[]),
        ("compat=0.10", &["-c"]),
        ("compat=1.1", &[]),
        ("compression_type=zstd", &["-c"]),
        ("compression_type=zstd,cluster_size=2M", &["-c"]),
        ("compression_type=zstd,cluster_size=512", &["-c"]),
        ("cluster_size=512", &[]),
        ("cluster_size=4k", &["-c"]),
        ("refcount_bits=1", &[]),
        ("refcount_bits=2", &[]),
        ("refcount_bits=8,cluster_size=512", &["-c"]),
        ("refcount_bits=64", &["-c"]),
        ("lazy_refcounts=on", &[]),
        ("preallocation=metadata", &[]),
        ("preallocation=full,cluster_size=1M", &[]),
    ];
    let mut random = Random(99);
    for (o, flags) in cases {
        let image = room.convert(o, flags);
        let mut model = room.disk.clone();
        for round in 0..3 {
            let patches = random.patches(model.len(), 12);
            patch(&image, &patches, round == 2).unwrap();
            apply_to_model(&mut model, &patches);
            room.same(&image, &model, o);
        }
    }
}

#[test]
fn our_own_compressed_images_are_patched_and_empty_ranges_get_tables() {
    let room = Room::new(2 << 20, 5);
    let path = room.path("own.qcow2");
    let size = 3u64 << 30;
    let options =
        CreateOptions { size, sector_size: 512, compression: Compression::Zstd(1), cluster_size: None };
    let sink = create(&path, Format::Qcow2, &options).unwrap();
    sink.write_at(&room.disk, 1 << 30).unwrap();
    sink.finish().unwrap();
    let mut random = Random(7);
    let patches: Vec<(u64, Vec<u8>)> = [0u64, (1 << 30) - 5000, (1 << 30) + 500_077, size - 100_000]
        .into_iter()
        .map(|at| (at, pattern(90_000, random.below(1 << 20) as u64)))
        .collect();
    patch(&path, &patches, false).unwrap();
    check(&path);
    let opened = open(&path, &Default::default()).unwrap();
    for (at, bytes) in &patches {
        let mut got = vec![0; bytes.len()];
        opened.source.read_at(&mut got, *at).unwrap();
        assert!(got == *bytes, "{at:#x}");
    }
    let mut got = vec![0; 1 << 20];
    opened.source.read_at(&mut got, (1 << 30) + (1 << 20)).unwrap();
    assert!(got == room.disk[1 << 20..2 << 20]);
}

#[test]
fn snapshots_keep_what_they_hold() {
    let room = Room::new(3 << 20, 6);
    for (o, flags) in [("cluster_size=4k", &[][..]), ("compression_type=zstd", &["-c"]), ("compat=0.10", &[])]
    {
        let image = room.convert(o, flags);
        qemu("qemu-img", &["snapshot", "-c", "before", text(&image)]);
        let mut random = Random(11);
        let mut model = room.disk.clone();
        for repair in [false, true] {
            let patches = random.patches(model.len(), 10);
            patch(&image, &patches, repair).unwrap();
            apply_to_model(&mut model, &patches);
            room.same(&image, &model, o);
        }
        qemu("qemu-img", &["snapshot", "-a", "before", text(&image)]);
        room.same(&image, &room.disk, o);
    }
}

#[test]
fn a_file_that_outgrows_its_refcount_table_gets_a_longer_one() {
    // A refcount block of 512 bytes counts 64 clusters with 64 bits, and a table of one cluster has 64 blocks: 2 MiB.
    let room = Room::new(8 << 20, 8);
    std::fs::write(room.path("disk.raw"), vec![0; 8 << 20]).unwrap();
    let image = room.convert("cluster_size=512,refcount_bits=64", &[]);
    let before = std::fs::metadata(&image).unwrap().len();
    patch(&image, &[(0, room.disk.clone())], false).unwrap();
    assert!(std::fs::metadata(&image).unwrap().len() > 2 * before.max(2 << 20));
    room.same(&image, &room.disk, "512");
    let mut model = room.disk.clone();
    let more = Random(3).patches(model.len(), 40);
    patch(&image, &more, true).unwrap();
    apply_to_model(&mut model, &more);
    room.same(&image, &model, "512 again");
}

#[test]
fn after_a_crash_at_any_write_the_image_reads_and_the_same_patches_complete_it() {
    let room = Room::new(1 << 20, 12);
    for (o, flags) in [("cluster_size=512,refcount_bits=64", &[][..]), ("cluster_size=4k", &["-c"])] {
        let whole = room.convert(o, flags);
        let patches = Random(21).patches(room.disk.len(), 6);
        let mut model = room.disk.clone();
        apply_to_model(&mut model, &patches);
        let image = room.path("crash.qcow2");
        std::fs::copy(&whole, &image).unwrap();
        const MANY: usize = 1 << 20;
        WRITES.set(MANY);
        patch(&image, &patches, false).unwrap();
        let total = MANY - WRITES.get();
        room.same(&image, &model, o);
        // All of the last writes, which are those of tables and refcounts, and some of the others.
        let early = (0..total - 12).step_by(total / 12);
        for writes in early.chain(total - 12..total) {
            std::fs::copy(&whole, &image).unwrap();
            WRITES.set(writes);
            patch(&image, &patches, false).unwrap_err();
            WRITES.set(usize::MAX);
            let opened = open(&image, &OpenOptions::default()).unwrap();
            let mut now = vec![0; model.len()];
            opened.source.read_at(&mut now, 0).unwrap();
            let wrong = (0..now.len()).find(|&at| {
                let meant = patches
                    .iter()
                    .any(|(start, bytes)| (*start..*start + bytes.len() as u64).contains(&(at as u64)));
                !meant && now[at] != room.disk[at]
            });
            assert_eq!(wrong, None, "{o}: after {writes} of {total} writes");
            // QEMU's checker takes what is lost (3), and nothing worse.
            let status = std::process::Command::new("qemu-img").args(["check", "-q", text(&image)]).status();
            assert!(matches!(status.unwrap().code(), Some(0 | 3)), "{o}: after {writes} of {total} writes");
            patch(&image, &patches, true).unwrap();
            room.same(&image, &model, o);
        }
    }
}

#[test]
fn what_cannot_be_changed_is_refused_and_left_alone() {
    let room = Room::new(1 << 20, 13);
    let refused = |image: &Path, word: &str| {
        let before = std::fs::read(image).unwrap();
        let error = Patcher::open(image, Format::Qcow2, false).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.chain().contains(word), "{}", error.chain());
        assert!(std::fs::read(image).unwrap() == before);
    };
    refused(&room.convert("extended_l2=on", &[]), "subclusters");
    let image = room.convert("compat=1.1", &[]);
    qemu("qemu-img", &["bitmap", "--add", text(&image), "b0"]);
    refused(&image, "bitmaps");
    let base = room.path("base.qcow2");
    std::fs::rename(room.convert("compat=1.1", &[]), &base).unwrap();
    let over = room.path("over.qcow2");
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&base), text(&over)]);
    refused(&over, "backing");
    let image = room.convert("compat=1.1", &[]);
    let mut patcher = Patcher::open(&image, Format::Qcow2, false).unwrap();
    assert!(patcher.write_at(&[1; 2], (1 << 20) - 1).is_err(), "beyond the end");
}

#[test]
fn damaged_images_are_no_harm() {
    let room = Room::new(1 << 20, 14);
    let image = room.convert("cluster_size=512", &["-c"]);
    qemu("qemu-img", &["snapshot", "-c", "s", text(&image)]);
    let whole = std::fs::read(&image).unwrap();
    let mut random = Random(5);
    let bad = room.path("bad.qcow2");
    for round in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(4) {
            // The header and the tables behind it more often than the rest.
            let most = if random.below(2) == 0 { 200 } else { bytes.len() };
            let at = random.below(most);
            bytes[at] ^= 1 << random.below(8);
        }
        if round % 9 == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        std::fs::write(&bad, &bytes).unwrap();
        let patches = Random(round as u64 + 1).patches(1 << 20, 4);
        // Success and failure are both answers.
        let _ = patch(&bad, &patches, round % 2 == 0);
        assert!(std::fs::metadata(&bad).unwrap().len() < 64 << 20, "round {round}");
    }
}
