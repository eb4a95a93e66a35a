// SPDX-License-Identifier: Apache-2.0
//! What the black-box tests share: the program, disks to capture, and mounts that end with the test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]
#![allow(dead_code, reason = "each test file is a program of its own and uses a part")]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program under test.
pub(crate) fn unmoor() -> Command {
    Command::new(env!("CARGO_BIN_EXE_unmoor"))
}

/// What a run of the program did.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// Asserts the exit status, showing what was printed otherwise.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that standard error has all these words.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing in:\n{}", self.stderr);
        }
        self
    }
}

/// Runs unmoor.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Run {
    unmoor().args(arguments).output().unwrap().into()
}

/// Runs another program that a test cannot do without.
#[track_caller]
pub(crate) fn tool<S: AsRef<std::ffi::OsStr>>(package: &str, program: &str, arguments: &[S]) -> Run {
    match Command::new(program).args(arguments).output() {
        Ok(output) => output.into(),
        Err(error) => panic!("this test needs {program} (package {package}): {error}"),
    }
}

/// A folder for one test.
pub(crate) struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A disk that is one ext4 with a few files, and garbage where files were deleted.
    pub(crate) fn ext4(&self, name: &str, mib: u64) -> PathBuf {
        let content = self.path(&format!("{name}.content"));
        fs::create_dir_all(content.join("folder")).unwrap();
        fs::write(content.join("folder/text"), "some text\n".repeat(50_000)).unwrap();
        fs::write(content.join("noise"), noise(5 << 20, 7)).unwrap();
        let disk = self.path(name);
        let mut file = File::create(&disk).unwrap();
        file.set_len(mib << 20).unwrap();
        file.seek(SeekFrom::Start((mib / 2) << 20)).unwrap();
        file.write_all(&noise((mib as usize / 4) << 20, 8)).unwrap();
        drop(file);
        let arguments = ["-q", "-F", "-t", "ext4", "-E", "nodiscard", "-d"];
        let mut command: Vec<&std::ffi::OsStr> = arguments.iter().map(|word| word.as_ref()).collect();
        command.extend([content.as_os_str(), disk.as_os_str()]);
        tool("e2fsprogs", "mke2fs", &command).expect(0);
        disk
    }

    /// All names in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".content"));
        names.sort();
        names
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

pub(crate) fn hash(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut File::open(path).unwrap(), &mut hasher).unwrap();
    hasher.finalize()
}

/// A mounted filesystem; unmounted, and its loop device released, when the test ends, however it does.
pub(crate) struct Mounted {
    at: tempfile::TempDir,
}

impl Mounted {
    /// None where this process may not mount.
    pub(crate) fn new(arguments: &[&str]) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let output = Command::new("mount").args(arguments).arg(at.path()).output().ok()?;
        output.status.success().then_some(Self { at })
    }

    pub(crate) fn path(&self) -> &Path {
        self.at.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.at.path()).status();
    }
}

/// A loop device, released when it is dropped.
pub(crate) struct Loop(String);

impl Loop {
    #[track_caller]
    pub(crate) fn new(file: &Path, options: &[&str]) -> Self {
        let line = [&["--find", "--show"], options, &[file.to_str().unwrap()]].concat();
        Self(tool("mount", "losetup", &line).expect(0).stdout.trim().to_owned())
    }

    pub(crate) fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}
