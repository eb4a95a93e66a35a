// SPDX-License-Identifier: Apache-2.0
//! Test support: filesystems made by their own tools in sparse files, lived in through loop mounts of the host's
//! kernel, and copies of which only the used bytes are true.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::source::check_range;
use crate::{BlockSource, Error, RangeSet, Result};

/// Runs a tool; a missing one fails the test and names its Debian package.
pub(super) fn tool(package: &str, program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; this test needs the Debian package {package}"))
}

/// As [`tool`], which must succeed; its standard output.
pub(super) fn tool_text(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = tool(package, program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A disk in a sparse temporary file.
pub(super) struct Disk {
    file: File,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Disk {
    pub(super) fn new(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        Self { file, path, _folder: folder }
    }

    pub(super) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(super) fn write(&self, data: &[u8], at: u64) {
        self.file.write_all_at(data, at).unwrap();
    }

    /// As it would be found after a power cut.
    pub(super) fn snapshot(&self) -> Self {
        let copy = Self::new(self.size());
        tool_text("coreutils", "cp", &["--sparse=always", self.path(), copy.path()]);
        copy
    }

    /// What a restore leaves: the used bytes, and 0xA5 where the map calls bytes unused. Long gaps get it at
    /// both ends only, for speed; zeros are no more the truth there.
    pub(super) fn only(&self, used: &mut RangeSet) -> Self {
        let copy = Self::new(self.size());
        let mut buffer = vec![0; 1 << 20];
        let junk = vec![0xa5; 1 << 20];
        for range in used.ranges().to_vec() {
            for at in range.clone().step_by(1 << 20) {
                let len = (range.end - at).min(1 << 20) as usize;
                self.read_at(&mut buffer[..len], at).unwrap();
                if buffer[..len].iter().any(|&byte| byte != 0) {
                    copy.write(&buffer[..len], at);
                }
            }
        }
        for range in used.gaps(self.size()) {
            let len = (range.end - range.start).min(1 << 20);
            copy.write(&junk[..len as usize], range.start);
            copy.write(&junk[..len as usize], range.end - len);
        }
        copy
    }

    /// Mounts it; `None`, said on standard output, where the host does not let us.
    pub(super) fn mount(&self, kind: &str, options: &str) -> Option<Mounted> {
        if nix::unistd::geteuid().as_raw() != 0 || !Path::new("/dev/loop-control").exists() {
            println!("skipped: needs root to mount {kind} through a loop device");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let options = format!("loop,{options}");
        let output = tool(
            "mount",
            "mount",
            &["-t", kind, "-o", &options, self.path(), folder.path().to_str().unwrap()],
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mounting {kind} -o {options}: {said}");
        Some(Mounted { folder: Some(folder) })
    }
}

impl BlockSource for Disk {
    fn size(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        self.file.read_exact_at(buf, offset).map_err(|error| Error::io("reading the test disk", error))
    }
}

/// A mounted disk, unmounted when dropped.
pub(super) struct Mounted {
    folder: Option<tempfile::TempDir>,
}

impl Mounted {
    pub(super) fn path(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    /// Writes `count` files in some folders, then deletes two of three and cuts holes into some of the rest.
    pub(super) fn live_in(&self, count: usize, seed: u64) {
        let mut random = Random(seed);
        for index in 0..count {
            let folder = self.path().join(format!("{seed}-{}", index % 17));
            fs::create_dir_all(&folder).unwrap();
            let len = random.below(24_000) as usize + 1;
            fs::write(folder.join(index.to_string()), random.bytes(len)).unwrap();
        }
        self.sync();
        for index in (0..count).filter(|index| index % 3 != 0) {
            fs::remove_file(self.path().join(format!("{seed}-{}/{index}", index % 17))).unwrap();
        }
        for index in (0..count).step_by(9) {
            let path = self.path().join(format!("{seed}-{}/{index}", index % 17));
            File::options().write(true).open(path).unwrap().write_all_at(&random.bytes(5000), 8192).unwrap();
        }
        self.sync();
    }

    /// All of this filesystem to its disk.
    pub(super) fn sync(&self) {
        tool_text("coreutils", "sync", &["-f", self.path().to_str().unwrap()]);
    }

    /// Every path with mode, owner, size and content hash.
    pub(super) fn listing(&self) -> BTreeMap<PathBuf, String> {
        let mut listing = BTreeMap::new();
        list(self.path(), Path::new(""), &mut listing);
        listing
    }
}

fn list(root: &Path, folder: &Path, listing: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        let facts = fs::symlink_metadata(root.join(&path)).unwrap();
        let hash = match facts.is_file() {
            true => blake3::hash(&fs::read(root.join(&path)).unwrap()).to_string(),
            false => String::new(),
        };
        listing.insert(path.clone(), format!("{:o} {} {} {hash}", facts.mode(), facts.uid(), facts.mtime()));
        if facts.is_dir() {
            list(root, &path, listing);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        // A filesystem that was shut down answers nothing, not even its number.
        let device = folder.path().metadata().map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata));
        // A process that another test thread forks holds our open files until its exec: "target is busy".
        for _ in 0..50 {
            if Command::new("umount")
                .arg("-q")
                .arg(folder.path())
                .status()
                .is_ok_and(|status| status.success())
            {
                return device.map(wait_until_gone).unwrap_or_default();
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = Command::new("umount").arg("--lazy").arg(folder.path()).status();
        assert!(std::thread::panicking(), "{} stays busy", folder.path().display());
    }
}

/// Waits until the filesystem that had device number `device` is really gone: `umount` returns while another mount
/// namespace still holds a copy of the mount, and the filesystem stays dirty until that ends. Its loop device goes last.
pub(super) fn wait_until_gone(device: u64) {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let autoclear = std::path::PathBuf::from(format!("/sys/dev/block/{major}:{minor}/loop/autoclear"));
    for _ in 0..600 {
        // One that was attached for longer than the mount does not go with it.
        if !std::fs::read_to_string(&autoclear).is_ok_and(|text| text.trim() == "1") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// xorshift64*: the same numbers in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = (self.0 ^ 0x9e37_79b9_7f4a_7c15).rotate_left(1) | 1;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

/// A disk with other bytes in some places, the disk itself left as it is.
pub(super) struct Damaged<'a> {
    pub(super) disk: &'a Disk,
    /// Address and what stands there instead.
    pub(super) patches: Vec<(u64, Vec<u8>)>,
}

impl<'a> Damaged<'a> {
    /// One to three random bits of random places.
    pub(super) fn flipped(disk: &'a Disk, places: &[Range<u64>], random: &mut Random) -> Self {
        let flips = (0..random.below(3) + 1).map(|_| {
            let place = &places[random.below(places.len() as u64) as usize];
            let at = place.start + random.below(place.end - place.start);
            let mut byte = [0];
            disk.read_at(&mut byte, at).unwrap();
            (at, vec![byte[0] ^ 1 << random.below(8)])
        });
        Self { disk, patches: flips.collect() }
    }
}

impl BlockSource for Damaged<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_at(buf, offset)?;
        for (at, patch) in &self.patches {
            for (at, new) in (*at..).zip(patch) {
                if let Some(byte) = at.checked_sub(offset).and_then(|index| buf.get_mut(index as usize)) {
                    *byte = *new;
                }
            }
        }
        Ok(())
    }
}
