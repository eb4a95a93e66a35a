// SPDX-License-Identifier: Apache-2.0
//! Disks to restore: filesystems of other people's mkfs, put together under a table of sfdisk.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Loop, MIB, Mounted, noise, read_range, run, text, tool};

/// A folder for one test.
pub(crate) struct Scene(tempfile::TempDir);

/// A disk in a file.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// First byte and length of each partition that holds something.
    pub(crate) parts: Vec<(&'static str, (u64, u64))>,
}

/// A partition to make: "ext4", "xfs", "btrfs", "swap" or "noise", and its size in MiB.
pub(crate) type Part = (&'static str, u64);

impl Scene {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An empty sparse file.
    pub(crate) fn sparse(&self, name: &str, len: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(len).unwrap();
        path
    }

    /// A GPT disk with `parts` one after the other from 1 MiB on, and `slack` MiB behind them.
    pub(crate) fn gpt(&self, name: &str, parts: &[Part], slack: u64) -> Disk {
        let mut script = "label: gpt\n".to_owned();
        let (mut at, mut places) = (MIB, Vec::new());
        for (kind, mib) in parts {
            let letter = if *kind == "swap" { "S" } else { "L" };
            script += &format!("start={}, size={}, type={letter}\n", at / 512, mib * MIB / 512);
            places.push((*kind, (at, mib * MIB)));
            at += mib * MIB;
        }
        self.disk(name, &script, places, at + (slack + 1) * MIB)
    }

    /// An MBR disk: the first part is primary, the others are logical, each 1 MiB behind its EBR.
    pub(crate) fn mbr(&self, name: &str, parts: &[Part], slack: u64) -> Disk {
        let (mut script, mut at, mut places) = ("label: dos\n".to_owned(), MIB, Vec::new());
        let logical: u64 = parts.iter().skip(1).map(|(_, mib)| (mib + 1) * MIB).sum();
        for (index, (kind, mib)) in parts.iter().enumerate() {
            let id = if *kind == "swap" { "82" } else { "83" };
            script += &format!("start={}, size={}, type={id}\n", at / 512, mib * MIB / 512);
            places.push((*kind, (at, mib * MIB)));
            at += mib * MIB;
            if index == 0 && logical > 0 {
                script += &format!("start={}, size={}, type=5\n", at / 512, logical / 512);
            }
            at += MIB;
        }
        self.disk(name, &script, places, at + slack * MIB)
    }

    fn disk(&self, name: &str, script: &str, parts: Vec<(&'static str, (u64, u64))>, size: u64) -> Disk {
        let path = self.sparse(name, size);
        partition(&path, script);
        let disk = File::options().write(true).open(&path).unwrap();
        for (index, (kind, (start, len))) in parts.iter().enumerate() {
            let part = self.sparse(&format!("{name}.part"), *len);
            fill(&part, kind, *len, index as u64 + 1);
            copy_sparse(&part, &disk, *start);
            fs::remove_file(part).unwrap();
        }
        Disk { path, parts }
    }
}

impl Disk {
    /// The place of the partition that holds `kind`.
    pub(crate) fn part(&self, kind: &str) -> (u64, u64) {
        self.parts.iter().find(|(own, _)| *own == kind).unwrap().1
    }

    pub(crate) fn size(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    /// Captured beside itself under this name.
    pub(crate) fn captured(&self, name: &str) -> PathBuf {
        let image = self.path.with_file_name(name);
        run(&["capture", text(&self.path), text(&image)]).expect(0);
        image
    }
}

/// Runs sfdisk on a file or device.
pub(crate) fn partition(path: &Path, script: &str) {
    let mut child = Command::new("/usr/sbin/sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel", text(path)])
        .stdin(Stdio::piped())
        .spawn()
        .expect("sfdisk (Debian package fdisk)");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
}

/// The partitions as sfdisk finds them: (first byte, length).
pub(crate) fn partitions(path: &Path, sector: u64) -> Vec<(u64, u64)> {
    let json = tool("fdisk", "sfdisk", &["--json", text(path)]).expect(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let number = |part: &serde_json::Value, key: &str| part[key].as_u64().unwrap() * sector;
    let parts = json["partitiontable"]["partitions"].as_array().unwrap();
    parts.iter().map(|part| (number(part, "start"), number(part, "size"))).collect()
}

pub(crate) fn fill(part: &Path, kind: &str, len: u64, seed: u64) {
    let tree = tempfile::tempdir().unwrap();
    plant(tree.path(), seed, (len / 16).min(3 * MIB) as usize);
    match kind {
        "ext4" | "ext4-1k" => {
            let block = if kind == "ext4" { "4096" } else { "1024" };
            let arguments = ["-q", "-F", "-t", "ext4", "-b", block, "-d", text(tree.path()), text(part)];
            tool("e2fsprogs", "mke2fs", &arguments).expect(0);
        }
        "xfs" => {
            tool("xfsprogs", "mkfs.xfs", &["-q", "-f", text(part)]).expect(0);
            let device = Loop::new(part, &[]);
            let mounted = Mounted::new(&["-t", "xfs", text(device.path())]);
            plant(mounted.path(), seed, 2 * MIB as usize);
        }
        "btrfs" => {
            // Under about 118 MiB it would make the file larger than it is.
            tool("btrfs-progs", "mkfs.btrfs", &["-q", "--rootdir", text(tree.path()), text(part)]).expect(0);
            assert_eq!(fs::metadata(part).unwrap().len(), len);
        }
        "swap" => {
            tool("util-linux", "mkswap", &["-q", text(part)]).expect(0);
        }
        "noise" => {
            let file = File::options().write(true).open(part).unwrap();
            for mib in 0..len / MIB {
                file.write_all_at(&noise(MIB as usize, seed * 1000 + mib), mib * MIB).unwrap();
            }
        }
        "lvm" | "lvm-two" => crate::volumes::fill(part, len, kind == "lvm-two", seed),
        kind => panic!("no mkfs of {kind}"),
    }
}

/// A few files of every kind.
fn plant(folder: &Path, seed: u64, bytes: usize) {
    fs::create_dir_all(folder.join("a/b c")).unwrap();
    fs::write(folder.join("a/noise"), noise(bytes, seed)).unwrap();
    fs::write(folder.join("a/b c/text"), "some text\n".repeat(5000)).unwrap();
    symlink("b c/text", folder.join("a/link")).unwrap();
    fs::hard_link(folder.join("a/noise"), folder.join("twin")).unwrap();
    for number in 0..20 {
        fs::write(folder.join(format!("small-{number}")), noise(number * 37, number as u64)).unwrap();
    }
    let sparse = File::create(folder.join("sparse")).unwrap();
    sparse.set_len(9 * MIB).unwrap();
    sparse.write_all_at(b"in the middle", 5 * MIB).unwrap();
}

pub(crate) fn copy_sparse(from: &Path, to: &File, at: u64) {
    const PIECE: u64 = 64 << 10;
    let len = fs::metadata(from).unwrap().len();
    for start in (0..len).step_by(PIECE as usize) {
        let piece = read_range(from, start, PIECE.min(len - start));
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(&piece, at + start).unwrap();
        }
    }
}
