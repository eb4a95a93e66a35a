// SPDX-License-Identifier: Apache-2.0
//! Held against sgdisk, sfdisk, parted, partx (packages gdisk, fdisk, parted, util-linux) and the crates gptman and mbrman.

mod extend;
mod gpt;
mod hostile;
mod mbr;
mod rewrite;
mod whole_disk;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Gap, GapKind, PartitionTable, Role, gaps, read};
use crate::{BlockSource, Error, RangeSet, Result};

const MIB: u64 = 1 << 20;

/// A disk image in a file of its own, removed with it.
struct Disk {
    folder: tempfile::TempDir,
    sector_size: u32,
}

impl Disk {
    fn new(size: u64, sector_size: u32) -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap(), sector_size };
        disk.resize(size);
        disk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn resize(&self, size: u64) {
        let file = File::options().create(true).truncate(false).write(true).open(self.path()).unwrap();
        file.set_len(size).unwrap();
    }

    fn copy(&self) -> Self {
        let copy = Self { folder: tempfile::tempdir().unwrap(), sector_size: self.sector_size };
        run("cp", &[text(&self.path()), text(&copy.path())], "");
        copy
    }

    fn write(&self, offset: u64, data: &[u8]) {
        File::options().write(true).open(self.path()).unwrap().write_all_at(data, offset).unwrap();
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        {
            let mut data = vec![0; len];
            self.read_at(&mut data, offset).unwrap();
            data
        }
    }

    fn flip(&self, offset: u64) {
        let byte = self.bytes(offset, 1)[0];
        self.write(offset, &[byte ^ 0x10]);
    }

    /// Runs a partitioner on the image.
    fn sgdisk(&self, arguments: &[&str]) -> String {
        let path = self.path();
        run("sgdisk", &[arguments, &[text(&path)]].concat(), "")
    }

    fn sfdisk(&self, script: &str) {
        run("sfdisk", &["--quiet", "--no-reread", text(&self.path())], script);
    }

    fn parted(&self, commands: &[&str]) -> String {
        let path = self.path();
        run("parted", &[&["-s", "-m", text(&path)], commands].concat(), &self.sector_size.to_string())
    }

    fn read(&self) -> PartitionTable {
        let table = read(self).unwrap();
        check_cover(&table, self.size());
        table
    }
}

impl BlockSource for Disk {
    fn size(&self) -> u64 {
        std::fs::metadata(self.path()).unwrap().len()
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let file = File::open(self.path()).unwrap();
        file.read_exact_at(buf, offset).map_err(|error| Error::io("reading", error).at(offset))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a tool and gives its output; `input` is its standard input, or for parted the sector size.
fn run(tool: &str, arguments: &[&str], input: &str) -> String {
    let (status, output) = attempt(tool, arguments, input);
    assert!(status, "{tool} {arguments:?}: {output}");
    output
}

fn attempt(tool: &str, arguments: &[&str], input: &str) -> (bool, String) {
    use std::io::Write;
    let mut command = Command::new(tool);
    command.args(arguments).env("LC_ALL", "C");
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    if tool == "parted" {
        command.env("PARTED_SECTOR_SIZE", input);
    }
    let pipe = std::process::Stdio::piped;
    let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap_or_else(|error| {
        let package = match tool {
            "sgdisk" => "gdisk",
            "sfdisk" => "fdisk",
            "mkfs.fat" => "dosfstools",
            "mkntfs" => "ntfs-3g",
            "mke2fs" => "e2fsprogs",
            "losetup" => "mount",
            "partx" => "util-linux",
            other => other,
        };
        panic!("{tool}: {error}: install the package {package}")
    });
    // A tool that needs no input may end before it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let all = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&all).into_owned())
}

/// Partitions lie on the disk, and with the gaps they cover it; gaps are in order and disjoint.
fn check_cover(table: &PartitionTable, size: u64) {
    let gaps = gaps(table, size);
    assert!(gaps.is_sorted_by(|a, b| a.range.end <= b.range.start), "{gaps:?}");
    let mut covered = RangeSet::new();
    for gap in &gaps {
        covered.insert(gap.range.clone());
    }
    for partition in &table.partitions {
        let end = partition.start.checked_add(partition.len).unwrap();
        assert!(partition.len > 0 && end <= size, "{partition:?}");
        if partition.role != Role::Extended {
            let inside = |gap: &&Gap| gap.kind == GapKind::Gap && gap.range.start < end;
            assert!(gaps.iter().filter(inside).all(|gap| gap.range.end <= partition.start));
            covered.insert(partition.start..end);
        }
    }
    if !gaps.is_empty() {
        assert_eq!(covered.gaps(size), []);
        assert!(covered.ranges().last().unwrap().end <= size);
    }
    for &(start, len) in &table.metadata {
        assert!(start.checked_add(len).unwrap() <= size);
    }
}

/// A partition as both sides see it: number, start and length in bytes, type, PARTUUID, name.
type Seen = (u32, u64, u64, String, Option<String>, Option<String>);

fn ours(table: &PartitionTable) -> Vec<Seen> {
    let mut seen: Vec<Seen> = table
        .partitions
        .iter()
        .cloned()
        .map(|part| (part.number, part.start, part.len, part.type_id, part.partuuid, part.name))
        .collect();
    seen.sort();
    seen
}

/// The same by `sfdisk --json`, which knows 512-byte sectors only.
fn sfdisk_sees(disk: &Disk) -> Vec<Seen> {
    let json = run("sfdisk", &["--json", text(&disk.path())], "");
    // Behind the JSON it may complain of the disk's size.
    let table: serde_json::Value =
        serde_json::Deserializer::from_str(&json).into_iter().next().unwrap().unwrap();
    let table = &table["partitiontable"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_lowercase);
    let mut seen: Vec<Seen> = table["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            let node = part["node"].as_str().unwrap();
            let number: u32 = node[node.rfind(|c: char| !c.is_ascii_digit()).unwrap() + 1..].parse().unwrap();
            let kind = text(&part["type"]).unwrap();
            let (kind, uuid) = if table["label"] == "gpt" {
                (kind, text(&part["uuid"]))
            } else {
                let id = table["id"].as_str().unwrap().trim_start_matches("0x").to_owned();
                (
                    format!("{:#04x}", u8::from_str_radix(&kind, 16).unwrap()),
                    Some(format!("{id}-{number:02x}")),
                )
            };
            let name = part["name"].as_str().map(str::to_owned);
            let sectors = |key: &str| part[key].as_u64().unwrap() * 512;
            (number, sectors("start"), sectors("size"), kind, uuid, name)
        })
        .collect();
    seen.sort();
    seen
}

/// Number, start and length by parted, for any sector size.
fn parted_sees(disk: &Disk) -> Vec<(u32, u64, u64)> {
    let output = disk.parted(&["unit", "B", "print"]);
    let bytes = |field: &str| field.trim_end_matches('B').parse::<u64>().ok();
    let mut seen: Vec<(u32, u64, u64)> = output
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            Some((fields.first()?.parse().ok()?, bytes(fields.get(1)?)?, bytes(fields.get(3)?)?))
        })
        .collect();
    seen.sort_unstable();
    seen
}

fn places(table: &PartitionTable) -> Vec<(u32, u64, u64)> {
    ours(table).into_iter().map(|(number, start, len, ..)| (number, start, len)).collect()
}

fn warned(table: &PartitionTable, word: &str) {
    assert!(table.warnings.iter().any(|warning| warning.contains(word)), "{word}: {:?}", table.warnings);
}

/// The layout of Ubuntu's cloud images, whose numbers are not in order of address, and a name beyond ASCII: 100 MiB.
fn cloud() -> Disk {
    const ENDS: u64 = 64 * 1024;
    const SIZE: u64 = 100 * MIB;
    // Made once: sgdisk sleeps for a second whenever it has written.
    static MADE: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
    let [head, tail] = MADE.get_or_init(|| {
        let disk = Disk::new(SIZE, 512);
        disk.sgdisk(&[
            "-n14:2048:+4M",
            "-t14:ef02",
            "-n15:0:+16M",
            "-t15:ef00",
            "-n3:0:+8M",
            "-t3:8200",
            "-n1:0:+32M",
            "-t1:8300",
            "-c1:Wurzel ä€",
            "-c15:UEFI",
            "-A1:set:2",
            "-A1:set:60",
        ]);
        [disk.bytes(0, ENDS as usize), disk.bytes(SIZE - ENDS, ENDS as usize)]
    });
    let disk = Disk::new(SIZE, 512);
    disk.write(0, head);
    disk.write(SIZE - ENDS, tail);
    disk
}
