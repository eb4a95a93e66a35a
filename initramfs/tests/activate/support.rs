// SPDX-License-Identifier: Apache-2.0
//! Disks made by real tools.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a tool, which must succeed; its standard output. A missing one fails the test and names its Debian package.
pub(crate) fn tool(package: &str, program: &str, arguments: &[&str]) -> String {
    tool_with_input(package, program, arguments, "")
}

pub(crate) fn tool_with_input(package: &str, program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; this test needs the Debian package {package}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether this process may make loop devices and mounts; says so where not.
pub(crate) fn may_mount() -> bool {
    let may = nix::unistd::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !may {
        println!("skipped: needs root and loop devices");
    }
    may
}

/// A sparse disk with a GPT of these partitions (MiB, sfdisk's type), one behind the other from 1 MiB on.
pub(crate) fn disk(folder: &Path, name: &str, partitions: &[(u64, &str)]) -> PathBuf {
    let path = folder.join(name);
    let size = partitions.iter().map(|(mib, _)| mib).sum::<u64>() + 2;
    File::create(&path).unwrap().set_len(size << 20).unwrap();
    let mut script = "label: gpt\n".to_owned();
    let mut start = 1;
    for (mib, kind) in partitions {
        script.push_str(&format!("start={start}MiB, size={mib}MiB, type={kind}\n"));
        start += mib;
    }
    tool_with_input("fdisk", "sfdisk", &["--quiet", path.to_str().unwrap()], &script);
    path
}

/// Puts a filesystem, made in a file of its own by `make`, at `mib` of the disk.
pub(crate) fn put(disk: &Path, mib: u64, len: u64, make: impl FnOnce(&str)) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len << 20).unwrap();
    let path = file.path().to_str().unwrap();
    make(path);
    let (from, to) = (format!("if={path}"), format!("of={}", disk.display()));
    tool("coreutils", "dd", &[&from, &to, "bs=1M", &format!("seek={mib}"), "conv=notrunc,sparse"]);
}

pub(crate) fn hash(path: &Path) -> String {
    tool("coreutils", "sha256sum", &[path.to_str().unwrap()])
}

/// Loop devices that have this file behind them.
pub(crate) fn loops_of(path: &Path) -> String {
    tool("mount", "losetup", &["-j", path.to_str().unwrap()])
}
