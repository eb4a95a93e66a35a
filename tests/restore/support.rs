// SPDX-License-Identifier: Apache-2.0
//! The program, other programs, loop devices and mounts that end with their test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) const MIB: u64 = 1 << 20;

/// What a run of a program did.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Run {
    /// Asserts the exit status.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that the output has all these words.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            let found = self.stderr.contains(word) || self.stdout.contains(word);
            assert!(found, "{word:?} is missing in:\n{}\n{}", self.stdout, self.stderr);
        }
        self
    }

    /// The last line of JSON.
    pub(crate) fn result(&self) -> serde_json::Value {
        serde_json::from_str(self.stdout.lines().last().unwrap()).unwrap()
    }
}

pub(crate) fn unmoor() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unmoor"));
    // Records of restores that have no other place; not the machine's own.
    command.env("XDG_STATE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/state")).stdin(Stdio::null());
    command
}

/// Runs unmoor.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Run {
    unmoor().args(arguments).output().unwrap().into()
}

/// Runs another program, which must be there.
#[track_caller]
pub(crate) fn tool<S: AsRef<OsStr>>(package: &str, program: &str, arguments: &[S]) -> Run {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.exists());
    let found = found.unwrap_or_else(|| panic!("this test needs {program} (Debian package {package})"));
    let mut command = Command::new(found);
    // mkfs.xfs makes filesystems under 300 MiB for its own tests only, which it knows by these.
    command.env("PATH", path).envs([("TEST_DIR", "x"), ("TEST_DEV", "x"), ("QA_CHECK_FS", "x")]);
    command.args(arguments).stdin(Stdio::null()).output().unwrap().into()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// False, with a line that says so, where this process may not make loop devices.
pub(crate) fn can_loop() -> bool {
    let id: Run = Command::new("id").arg("-u").output().unwrap().into();
    let can = id.stdout.trim() == "0" && Path::new("/dev/loop-control").exists();
    if !can {
        println!("skipped: needs root to make loop devices");
    }
    can
}

/// A loop device, released when it is dropped.
pub(crate) struct Loop(PathBuf);

impl Loop {
    pub(crate) fn new(file: &Path, options: &[&str]) -> Self {
        let arguments = [&["--find", "--show"], options, &[text(file)]].concat();
        // Another test may take the free one first.
        for _ in 0..20 {
            let run = tool("mount", "losetup", &arguments);
            if run.code == Some(0) {
                return Self(run.stdout.trim().into());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("losetup {arguments:?} fails");
    }

    /// A part of a file.
    pub(crate) fn part(file: &Path, (start, len): (u64, u64)) -> Self {
        Self::new(file, &["--offset", &start.to_string(), "--sizelimit", &len.to_string()])
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A mounted filesystem, unmounted when it is dropped.
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    #[track_caller]
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let at = tempfile::tempdir().unwrap();
        let run = tool("mount", "mount", &[arguments, &[text(at.path())]].concat());
        assert_eq!(run.code, Some(0), "mount {arguments:?}: {}", run.stderr);
        Self(at)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A program that another thread starts holds our open files for a moment, between fork and exec.
        for _ in 0..100 {
            let umount = Command::new("umount").arg(self.0.path()).stderr(Stdio::null()).status();
            if umount.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Bytes that do not compress, always the same (xorshift64).
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn read_range(path: &Path, start: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    File::open(path).unwrap().read_exact_at(&mut bytes, start).unwrap();
    bytes
}

/// Changes one byte.
pub(crate) fn flip(path: &Path, at: u64) {
    let byte = read_range(path, at, 1)[0];
    File::options().write(true).open(path).unwrap().write_all_at(&[byte ^ 0x10], at).unwrap();
}

/// All that probing finds on a device or file, without its name.
pub(crate) fn signatures(device: &Path) -> String {
    let columns = "OFFSET,TYPE,UUID,LABEL";
    let list = ["--no-act", "--noheadings", "--output", columns, text(device)];
    let wipefs = tool("util-linux", "wipefs", &list).expect(0).stdout;
    let blkid = tool("util-linux", "blkid", &["-p", "-o", "export", text(device)]).stdout;
    let blkid = blkid.lines().filter(|line| !line.starts_with("DEVNAME")).collect::<Vec<_>>().join("\n");
    format!("{wipefs}{blkid}")
}

/// Every file of a filesystem: kind, mode, owner, links, times and content by name.
pub(crate) fn files(device: &Path, kind: &str) -> BTreeMap<PathBuf, String> {
    let options = if kind == "xfs" { "ro,nouuid" } else { "ro" };
    let mounted = Mounted::new(&["-t", kind, "-o", options, text(device)]);
    let mut found = BTreeMap::new();
    let mut waiting = vec![mounted.path().to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            blake3::hash(&fs::read(&path).unwrap()).to_string()
        };
        let facts = (metadata.mode(), metadata.uid(), metadata.gid(), metadata.nlink(), metadata.ino());
        let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
        let name = path.strip_prefix(mounted.path()).unwrap().to_owned();
        found.insert(name, format!("{facts:?} {} {times:?} {content}", metadata.len()));
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

/// What the filesystem's own checker says, without the device's name.
pub(crate) fn checked(device: &Path, kind: &str) -> String {
    let run = match kind {
        "ext4" => tool("e2fsprogs", "e2fsck", &["-fn", text(device)]),
        "xfs" => tool("xfsprogs", "xfs_repair", &["-n", text(device)]),
        "btrfs" => tool("btrfs-progs", "btrfs", &["check", "--readonly", text(device)]),
        "swap" => tool("util-linux", "swaplabel", &[text(device)]),
        kind => panic!("no checker of {kind}"),
    };
    let said = format!("{}{}", run.stdout, run.stderr).replace(text(device), "DEVICE");
    assert_eq!(run.code, Some(0), "{said}");
    // xfs_repair looks at allocation groups in parallel.
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// True if the kernel can mount it.
pub(crate) fn kernel_has(filesystem: &str) -> bool {
    fs::read_to_string("/proc/filesystems").unwrap().lines().any(|line| line.trim() == filesystem)
}
