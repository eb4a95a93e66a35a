// SPDX-License-Identifier: Apache-2.0
//! A guest captures its own disk while it is used, several times in a row; each image has what was on the disk before its instant, and
//! nothing begun after it; checkers find nothing, and the last one boots.

use crate::lab::guest::Built;
use crate::lab::listing::{check_checkers, list};
use crate::lab::qemu::{Disk, Writes};
use crate::lab::{Scratch, boot, guests};
use crate::run::{Failure, Result, While, as_root, output};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SCRIPT: &str = include_str!("../../../tests/lab/live.sh");
const LIMIT: Duration = Duration::from_secs(2700);
/// Bytes of the disk that the store is on.
const TARGET: u64 = 6 << 30;

/// Whose disk, and how often.
#[derive(Clone, Copy)]
pub(crate) struct Live {
    pub(crate) name: &'static str,
    pub(crate) guest: &'static str,
    captures: u32,
}

/// Kernels 5.10, 6.1 and 6.12; IDE, AHCI and virtio; ext4, XFS on LVM, btrfs.
pub(crate) const LIVES: &[Live] = &[
    Live { name: "live-ahci", guest: "ahci", captures: 20 },
    Live { name: "live-bullseye", guest: "bullseye", captures: 5 },
    Live { name: "live-virtio", guest: "virtio", captures: 5 },
    Live { name: "live-lvm", guest: "dracut", captures: 5 },
    Live { name: "live-btrfs", guest: "sdboot", captures: 5 },
];

/// What a capture said.
struct Image {
    name: String,
    /// Milliseconds since 1970.
    instant: u64,
    frozen: u64,
    freezing: u64,
    passes: u64,
    last_bytes: u64,
}

impl Live {
    /// A line for a person.
    pub(crate) fn title(&self) -> String {
        format!("{}: {} is captured {} times while it is used", self.name, self.guest, self.captures)
    }

    /// Runs the cell.
    pub(crate) fn run(&self, guest: &Built, unmoor: &Path) -> Result {
        let row = guests::guest(self.guest)?;
        let scratch = Scratch::new(self.name)?;
        let path = |name: &str| scratch.path().join(name);
        let (disk, tools, target) = (path("disk.qcow2"), path("tools.raw"), path("target.raw"));
        let backing = format!("backing_file={},backing_fmt=raw", guest.disk.display());
        output(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &backing]).arg(&disk))?;
        let content = path("content");
        std::fs::create_dir(&content).while_doing("making a folder")?;
        std::fs::copy(unmoor, content.join("unmoor")).while_doing("copying unmoor")?;
        std::fs::write(content.join("captures"), self.captures.to_string()).while_doing("writing a file")?;
        filesystem(&tools, 96 << 20, Some(&content))?;
        filesystem(&target, TARGET, None)?;

        let mut machine = row.machine(&disk, Writes::Kept);
        machine.disks.push(Disk::new(&tools, "TOOLS0", Writes::Dropped));
        machine.disks.push(Disk::new(&target, "TARGET0", Writes::Kept));
        let captured = boot::start(&machine, Some(SCRIPT))?.proof(LIMIT);
        let work = Mount::new(&target, &path("work"))?;
        let said = || std::fs::read_to_string(work.0.join("said")).unwrap_or_default();
        captured.while_doing(format_args!(
            "capturing in the guest, which said {:?}",
            said().lines().next_back()
        ))?;

        let images = results(&work.0.join("results"))?;
        if images.len() != self.captures as usize {
            return Err(Failure::new(format!("{} images instead of {}", images.len(), self.captures)));
        }
        self.report(&images);
        let left = std::fs::read_to_string(work.0.join("instances")).unwrap_or_default();
        if left.contains("unmoor") {
            return Err(Failure::new(format!("a trace instance was left: {left}")));
        }
        let acknowledged = acknowledged(&work.0.join("acknowledged"))?;
        let store = format!("dir:{}/store", work.0.display());
        let root = |arguments: &[&str]| output(as_root("env").arg(unmoor).args(arguments));
        for image in &images {
            let name = format!("{store}/machine@{}", image.name);
            root(&["verify", &name]).while_doing(format_args!("verifying {name}"))?;
            numbers(unmoor, &name, &path("files"), image, &acknowledged)?;
        }
        let Some(last) = images.last() else { return Err(Failure::new("there is no image")) };
        let restored = path("restored.raw");
        let name = format!("{store}/machine@{}", last.name);
        output(as_root("env").arg(unmoor).args(["restore", "--yes", &name]).arg(&restored))?;
        // Its own boot mounts it and recovers; checkers are asked after that.
        boot::boot(&row.machine(&restored, Writes::Kept))?.check(row)?;
        check_checkers(&list(&restored)?)
    }

    fn report(&self, images: &[Image]) {
        let mut frozen: Vec<u64> = images.iter().map(|image| image.frozen).collect();
        frozen.sort_unstable();
        let (median, most) = (frozen.get(frozen.len() / 2), frozen.last());
        println!(
            "    {}: writers waited {} ms (median), {} ms at most; freezing itself at most {} ms; at most {} passes, {} KiB under the freeze",
            self.name,
            median.unwrap_or(&0),
            most.unwrap_or(&0),
            images.iter().map(|image| image.freezing).max().unwrap_or(0),
            images.iter().map(|image| image.passes).max().unwrap_or(0),
            images.iter().map(|image| image.last_bytes).max().unwrap_or(0) >> 10,
        );
    }
}

fn filesystem(path: &Path, size: u64, content: Option<&Path>) -> Result {
    std::fs::File::create(path).and_then(|file| file.set_len(size)).while_doing("making a disk")?;
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file"]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    output(command.arg(path)).map(drop)
}

/// An image that is mounted until it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at).while_doing("making a folder")?;
        output(as_root("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = output(as_root("umount").arg(&self.0));
    }
}

fn results(path: &Path) -> Result<Vec<Image>> {
    let text = std::fs::read_to_string(path).while_doing("reading the captures' results")?;
    let results = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let image = |result: Value| {
        let live = result.get("live")?;
        let number = |name: &str| live.get(name)?.as_u64();
        let name = result.get("stored")?.get("image")?.as_str()?.rsplit_once('@')?.1.to_owned();
        let instant = live.get("instant")?.as_str()?;
        Some(Image {
            name,
            instant: milliseconds(instant)?,
            frozen: number("frozen_milliseconds")?,
            freezing: number("freezing_milliseconds")?,
            passes: number("passes")?,
            last_bytes: number("last_pass_bytes")?,
        })
    };
    Ok(results.filter(|result| result.get("live").is_some()).filter_map(image).collect())
}

/// Of `2026-11-25T16:38:02.861Z`.
fn milliseconds(instant: &str) -> Option<u64> {
    let seconds = output(Command::new("date").args(["--date", instant, "+%s%3N"])).ok()?;
    seconds.trim().parse().ok()
}

/// Each number and when it was on the disk for sure.
fn acknowledged(path: &Path) -> Result<Vec<(u64, u64)>> {
    let text = std::fs::read_to_string(path).while_doing("reading what was acknowledged")?;
    let pair = |line: &str| {
        let (number, time) = line.split_once(' ')?;
        Some((number.parse().ok()?, time.parse().ok()?))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// The numbers that an image has are all that were acknowledged before its instant, and at most the two that were under way.
fn numbers(unmoor: &Path, name: &str, at: &Path, image: &Image, acknowledged: &[(u64, u64)]) -> Result {
    std::fs::create_dir_all(at).while_doing("making a folder")?;
    let mut mounting = as_root("env")
        .arg(unmoor)
        .args(["images", "mount", name])
        .arg(at)
        .spawn()
        .while_doing("mounting the image's files")?;
    let find = || -> Option<String> {
        for entry in std::fs::read_dir(at).ok()?.flatten() {
            for root in ["", "@", "root", "@rootfs"] {
                if let Ok(text) = std::fs::read_to_string(entry.path().join(root).join("var/live-numbers")) {
                    return Some(text);
                }
            }
        }
        None
    };
    let mut found = None;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(100));
        found = find();
        if found.is_some() || mounting.try_wait().is_ok_and(|status| status.is_some()) {
            break;
        }
    }
    let _ = output(as_root("umount").arg(at));
    let _ = mounting.wait();
    let text = found.ok_or_else(|| Failure::new(format!("{name} has no file of numbers")))?;
    let have: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let before = acknowledged
        .iter()
        .filter(|(_, time)| *time < image.instant)
        .map(|(number, _)| *number)
        .max()
        .unwrap_or(0);
    let last = have.last().copied().unwrap_or(0);
    let whole = have.iter().zip(1..).all(|(have, want)| *have == want);
    if !whole || last < before || last > before + 2 {
        return Err(Failure::new(format!(
            "{name} has {} numbers up to {last}; {before} were on the disk before its instant",
            have.len()
        )));
    }
    Ok(())
}
