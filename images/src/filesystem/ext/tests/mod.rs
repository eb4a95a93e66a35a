// SPDX-License-Identifier: Apache-2.0
//! Held against e2fsprogs and the kernel. Packages: e2fsprogs, util-linux.

mod damage;
mod journal;
mod matrix;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::filesystem::loops::wait_until_gone;
use crate::filesystem::{FilesystemFacts, Used};
use crate::{BlockSource, Error, RangeSet, Result};

/// Runs a program in `dir`; a missing program is a failure that names its package.
fn run(dir: &Path, program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("E2FSPROGS_FAKE_TIME", "1700000000")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; install the packages e2fsprogs and util-linux"))
}

fn run_ok(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = run(dir, program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A temporary folder, in memory where there is room: each unmounting waits for the disk otherwise.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    match nix::sys::statvfs::statvfs(memory) {
        Ok(room) if room.blocks_available() * room.fragment_size() > 2 << 30 => {
            tempfile::tempdir_in(memory).unwrap()
        }
        _ => tempfile::tempdir().unwrap(),
    }
}

/// An image file as a disk.
struct FileSource(File, u64);

impl FileSource {
    fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Self(file, size)
    }
}

impl BlockSource for FileSource {
    fn size(&self) -> u64 {
        self.1
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        crate::source::check_range(self.1, offset, buf.len())?;
        self.0.read_exact_at(buf, offset).map_err(|error| Error::io("reading", error))
    }
}

/// Bytes in memory as a disk.
struct MemorySource(Vec<u8>);

impl BlockSource for MemorySource {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        crate::source::check_range(self.size(), offset, buf.len())?;
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// A folder with one filesystem image, `fs.img`.
struct Lab(TempDir);

impl Lab {
    /// Makes a filesystem of `size` KiB that holds some files.
    fn new(size: u64, mke2fs: &[&str]) -> Self {
        let lab = Self(folder());
        let content = lab.dir().join("content");
        fs::create_dir_all(content.join("a/b")).unwrap();
        for (name, length) in [("empty", 0), ("tiny", 40), ("a/small", 5000), ("a/b/big", 1_500_000)] {
            fs::write(content.join(name), pattern(name, length)).unwrap();
        }
        for number in 0..60 {
            fs::write(content.join(format!("a/b/{number}")), pattern("many", number * 37)).unwrap();
        }
        std::os::unix::fs::symlink("a/b/big", content.join("link")).unwrap();
        std::os::unix::fs::symlink("x".repeat(200), content.join("long-link")).unwrap();
        File::create(lab.image()).unwrap().set_len(size * 1024).unwrap();
        let mut args = vec!["-q", "-F", "-d", "content"];
        args.extend(mke2fs);
        args.push("fs.img");
        run_ok(lab.dir(), "mke2fs", &args);
        if mke2fs.iter().any(|arg| arg.contains("quota")) {
            // mke2fs does not count what -d copied.
            lab.check("-fy");
        }
        lab
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn image(&self) -> PathBuf {
        self.dir().join("fs.img")
    }

    fn source(&self) -> FileSource {
        FileSource::open(&self.image())
    }

    /// Mounts it; `None` only where the machine cannot mount anything.
    fn mount(&self, options: &str) -> Option<Mounted> {
        if run_ok(self.dir(), "id", &["-u"]).trim() != "0" || !Path::new("/dev/loop-control").exists() {
            println!("skipped: needs root and loop devices to mount an image");
            return None;
        }
        Some(self.try_mount(options).unwrap_or_else(|why| panic!("mounting with {options}: {why}")))
    }

    /// Mounts it, if the kernel knows its features and block size.
    fn try_mount(&self, options: &str) -> std::result::Result<Mounted, String> {
        let at = self.dir().join("mnt");
        fs::create_dir_all(&at).unwrap();
        let output = run(self.dir(), "mount", &["-o", &format!("loop,{options}"), "fs.img", "mnt"]);
        if output.status.success() {
            return Ok(Mounted(at));
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// The copy of a machine that has only the used bytes: everything else is 0xA5.
    fn restored(&self, used: &mut Used) -> Self {
        let copy = Self(folder());
        let source = self.source();
        let file = File::create(copy.image()).unwrap();
        let filler = vec![0xa5; 1 << 20];
        for gap in used.ranges.gaps(source.size()) {
            for at in gap.clone().step_by(filler.len()) {
                file.write_all_at(&filler[..(gap.end - at).min(filler.len() as u64) as usize], at).unwrap();
            }
        }
        file.set_len(source.size()).unwrap();
        let mut buffer = vec![0; 1 << 20];
        for range in used.ranges.ranges() {
            for at in range.clone().step_by(buffer.len()) {
                let part = &mut buffer[..(range.end - at).min(1 << 20) as usize];
                source.read_at(part, at).unwrap();
                if part.iter().any(|byte| *byte != 0) {
                    file.write_all_at(part, at).unwrap();
                }
            }
        }
        copy
    }

    /// What the checker says and how it ends. The image has the same name in every folder.
    fn check(&self, option: &str) -> (Option<i32>, String) {
        let output = run(self.dir(), "e2fsck", &[option, "fs.img"]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Every file's content and every link's target, as debugfs reads them.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let out = self.dir().join("dump");
        fs::create_dir_all(&out).unwrap();
        run_ok(self.dir(), "debugfs", &["-c", "-R", "rdump / dump", "fs.img"]);
        let mut files = BTreeMap::new();
        let mut todo = vec![out.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()) {
                let path = entry.path();
                let kind = entry.file_type().unwrap();
                let content = if kind.is_dir() {
                    todo.push(path.clone());
                    Vec::new()
                } else if kind.is_symlink() {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                } else {
                    blake3::hash(&fs::read(&path).unwrap()).as_bytes().to_vec()
                };
                files.insert(path.strip_prefix(&out).unwrap().to_owned(), content);
            }
        }
        fs::remove_dir_all(&out).unwrap();
        assert!(files.len() > 20, "debugfs found only {} files", files.len());
        files
    }

    /// What dumpe2fs says is allocated, and its bytes of metadata that are in no bitmap.
    fn truth(&self) -> RangeSet {
        self.try_truth().unwrap()
    }

    /// `None` where dumpe2fs cannot read the bitmaps.
    fn try_truth(&self) -> Option<RangeSet> {
        let output = run(self.dir(), "dumpe2fs", &["fs.img"]);
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success()
            || String::from_utf8_lossy(&output.stderr).contains("error reading bitmaps")
        {
            return None;
        }
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
        };
        let block_size = field("Block size:").unwrap();
        let blocks = field("Block count:").unwrap();
        let first = field("First block:").unwrap();
        let cluster = field("Cluster size:").unwrap_or(block_size) / block_size;
        let mut free = RangeSet::new();
        for list in text.lines().filter_map(|line| line.strip_prefix("  Free blocks:")) {
            for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
                let (start, end) = item.split_once('-').unwrap_or((item, item));
                let (start, end): (u64, u64) = (start.parse().unwrap(), end.parse().unwrap());
                free.insert(start * block_size..(end + cluster).min(blocks) * block_size);
            }
        }
        let mut used = RangeSet::of(0..2048.max(first * block_size));
        for gap in free.gaps(blocks * block_size) {
            used.insert(gap);
        }
        Some(used)
    }
}

/// Unmounts when it goes.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let device = self.0.metadata().map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata));
        // A process that another test is just starting may still hold our files for a moment.
        for _ in 0..200 {
            let done = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
            if done.is_ok_and(|status| status.success()) {
                return device.map(wait_until_gone).unwrap_or_default();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Content that differs by name and by place.
fn pattern(name: &str, length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut content);
    content
}

/// Writes, grows, cuts and deletes until free and used space are mixed.
fn age(root: &Path, rounds: usize) {
    fs::create_dir_all(root.join("aged")).unwrap();
    for number in 0..rounds {
        let name = |number: usize| root.join(format!("aged/{number}-{}", "n".repeat(number % 90)));
        // A full disk is welcome, too.
        let _ = fs::write(name(number), pattern("aged", (number * 7919) % 60_000));
        if number >= 3 && number % 3 != 0 {
            let _ = fs::remove_file(name(number - 2));
        }
        if number % 7 == 0
            && let Ok(file) = File::options().write(true).open(name(number))
        {
            let _ = file.write_all_at(b"far", 300_000 + number as u64 * 1000);
            let _ = file.set_len(400_000);
        }
    }
    let _ = fs::remove_dir_all(root.join("a/b"));
    let _ = fs::create_dir_all(root.join("a/b"));
}

/// Probes and maps through the public door.
fn read(source: &dyn BlockSource) -> Result<Option<(FilesystemFacts, Used)>> {
    match crate::filesystem::probe(source)? {
        Some(facts) => {
            let used = crate::filesystem::used(source, &facts)?;
            Ok(Some((facts, used)))
        }
        None => Ok(None),
    }
}

/// The first range of `truth` that `ours` lacks.
fn missing(ours: &mut RangeSet, truth: &mut RangeSet) -> Option<std::ops::Range<u64>> {
    truth.ranges().iter().find(|range| !ours.covers((*range).clone())).cloned()
}
