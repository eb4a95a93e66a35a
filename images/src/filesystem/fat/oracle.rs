// SPDX-License-Identifier: Apache-2.0
//! What the tests of FAT, exFAT and NTFS share: images, other people's tools, and restored copies.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::filesystem::{FilesystemFacts, Used, probe, used};
use crate::source::check_range;
use crate::{BlockSource, Error, RangeSet, Result};

/// An image file in a directory of its own.
pub(crate) struct Image {
    file: File,
    size: u64,
    pub(crate) path: PathBuf,
    pub(crate) dir: tempfile::TempDir,
}

impl Image {
    pub(crate) fn new(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        Self { file, size, path, dir }
    }

    pub(crate) fn write(&self, data: &[u8], at: u64) {
        self.file.write_all_at(data, at).unwrap();
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.file.read_exact_at(&mut data, at).unwrap();
        data
    }

    pub(crate) fn bytes_len(&self) -> u64 {
        self.size
    }

    pub(crate) fn facts(&self) -> FilesystemFacts {
        probe(self).unwrap().expect("a filesystem should have been found")
    }

    pub(crate) fn used(&self) -> Used {
        used(self, &self.facts()).unwrap()
    }

    /// What a restore makes of it on a disk that was full of 0xA5: only the used ranges are copied.
    pub(crate) fn restored(&self, ranges: &mut RangeSet) -> Self {
        let copy = Self::new(self.size);
        for range in ranges.gaps(self.size) {
            (range.start..range.end).step_by(1 << 20).for_each(|at| {
                copy.write(&vec![0xA5; (range.end - at).min(1 << 20) as usize], at);
            });
        }
        for range in ranges.ranges() {
            (range.start..range.end).step_by(1 << 20).for_each(|at| {
                let data = self.bytes(at, (range.end - at).min(1 << 20) as usize);
                // What is zero stays a hole of the file: the images are sparse.
                if data.iter().any(|byte| *byte != 0) {
                    copy.write(&data, at);
                }
            });
        }
        copy
    }
}

impl BlockSource for Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.file.read_exact_at(buf, offset).map_err(|error| Error::io("reading the test image", error))
    }
}

/// An image in memory, some bytes of it changed.
pub(crate) struct Changed<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) changes: &'a [(u64, u8)],
}

impl BlockSource for Changed<'_> {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        buf.copy_from_slice(&self.data[offset as usize..offset as usize + buf.len()]);
        for (at, byte) in self.changes {
            if let Some(place) = at.checked_sub(offset).and_then(|index| buf.get_mut(index as usize)) {
                *place = *byte;
            }
        }
        Ok(())
    }
}

/// Asserts that every answer about damaged bytes is an error, another filesystem or none, all data, or a map that
/// covers `truth`.
pub(crate) fn assert_never_less(source: &Changed<'_>, truth: &RangeSet) {
    let Ok(Some(facts)) = probe(source) else { return };
    let Ok(mut found) = used(source, &facts) else { return };
    for range in truth.clone().ranges() {
        assert!(
            found.ranges.covers(range.clone()),
            "{range:x?} is missing after {:x?}; {facts:?}",
            source.changes
        );
    }
}

/// Runs a tool; it must exist.
pub(crate) fn output(package: &str, program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("{program} is missing: install the Debian package {package}"),
            _ => panic!("running {program}: {error}"),
        })
}

/// Runs a tool that must succeed, and returns what it printed.
pub(crate) fn run(package: &str, program: &str, args: &[&str]) -> String {
    let output = output(package, program, args);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

/// A checker's verdict: exit status and output without the path of the image.
pub(crate) fn verdict(package: &str, program: &str, args: &[&str], image: &Image) -> (Option<i32>, String) {
    let path = image.path.to_str().unwrap();
    let output = output(package, program, &[args, &[path]].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stdout).replace(path, "IMAGE"))
}

/// The used ranges as partclone sees them.
pub(crate) fn partclone(program: &str, image: &Image) -> RangeSet {
    let map = image.dir.path().join("map");
    let _ = fs::remove_file(&map);
    run(
        "partclone",
        program,
        &["-D", "-q", "-s", image.path.to_str().unwrap(), "-o", map.to_str().unwrap(), "-L", "/dev/null"],
    );
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let mut found = RangeSet::new();
    for line in fs::read_to_string(map).unwrap().lines().filter(|line| line.ends_with('+')) {
        let mut words = line.split_whitespace();
        let (start, len) = (number(words.next().unwrap()), number(words.next().unwrap()));
        found.insert(start..start + len);
    }
    found.truncate(image.size);
    found
}

/// Asserts that `ours` covers `truth` and is at most 1 % and `metadata` bytes larger.
pub(crate) fn assert_close(ours: &mut RangeSet, truth: &mut RangeSet, metadata: u64) {
    for range in truth.ranges() {
        assert!(ours.covers(range.clone()), "{range:x?} is used and not in our map");
    }
    let (ours, truth) = (ours.bytes(), truth.bytes());
    assert!(ours <= truth + truth / 100 + metadata, "our map has {ours} bytes, the truth {truth}");
}

/// A loop device over an image, for drivers that want a block device.
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    /// `None` (with a line that says so) where this process may not.
    pub(crate) fn new(image: &Image) -> Option<Self> {
        let output = output("mount", "losetup", &["-f", "--show", image.path.to_str().unwrap()]);
        if !output.status.success() {
            println!("skipped: needs root to make a loop device");
            return None;
        }
        Some(Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = File::open(&self.0).and_then(|device| device.sync_all());
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A filesystem mounted by a FUSE driver.
pub(crate) struct Mount(pub(crate) PathBuf);

impl Mount {
    /// `None` (with a line that says so) where this process may not.
    pub(crate) fn new(package: &str, program: &str, options: &str, what: &str, at: PathBuf) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            println!("skipped: needs root to mount by FUSE");
            return None;
        }
        fs::create_dir_all(&at).unwrap();
        run(package, program, &["-o", options, what, at.to_str().unwrap()]);
        Some(Self(at))
    }

    /// Unmounts and waits until the driver has written everything.
    pub(crate) fn unmount(self) {}
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        // umount returns before the driver of a FUSE filesystem has ended; the driver holds a lock meanwhile.
        for _ in 0..3000 {
            let held = fs::read_dir("/proc").into_iter().flatten().flatten().any(|process| {
                fs::read(process.path().join("cmdline")).is_ok_and(|line| {
                    let at = self.0.as_os_str().as_encoded_bytes();
                    line.split(|byte| *byte == 0).any(|word| word == at)
                })
            });
            if !held {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Writes files of many sizes below `dir`, deletes some, lets others grow: about `bytes` remain, and at most half of `files`.
pub(crate) fn age(dir: &Path, bytes: usize, files: usize, mut seed: u64) {
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let most = files;
    let mut files: Vec<PathBuf> = Vec::new();
    let mut left = bytes as i64 * 2;
    for number in 0..most {
        if left <= 0 {
            break;
        }
        let len = random([600, 5000, 70_000, bytes / 8][number % 4]);
        left -= len as i64 + 2048;
        let parent = dir.join(format!("directory {}", number % 7.min(most / 4)));
        fs::create_dir_all(&parent).unwrap();
        let path = parent.join(format!("file number {number}"));
        fs::write(&path, vec![number as u8 | 1; len]).unwrap();
        files.push(path);
        if number % 2 == 1 {
            fs::remove_file(files.swap_remove(random(files.len()))).unwrap();
        }
        if number % 5 == 4 {
            let path = &files[random(files.len())];
            let grown = [fs::read(path).unwrap(), vec![number as u8; 9000]].concat();
            fs::write(path, grown).unwrap();
        }
    }
}

/// Every file below `dir`: name and content's hash.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(here) = todo.pop() {
        for entry in fs::read_dir(here).unwrap() {
            let entry = entry.unwrap();
            let hash = if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
                "directory".into()
            } else {
                blake3::hash(&fs::read(entry.path()).unwrap()).to_string()
            };
            found.insert(entry.path().strip_prefix(dir).unwrap().to_owned(), hash);
        }
    }
    found
}
