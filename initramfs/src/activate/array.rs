// SPDX-License-Identifier: Apache-2.0
//! md arrays, assembled by ioctl. The kernel reads the superblocks itself: which member is which, and which are behind.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result, ResultExt};

use super::disk::{device_number, wait_for_node, want_module};
use super::held::while_busy;
use crate::sys;

/// Levels that the kernel's md has; of multipath, containers and faulty ones nothing boots.
const LEVELS: [i32; 7] = [-1, 0, 1, 4, 5, 6, 10];

/// An array by its UUID.
pub(super) struct AssembledArray {
    pub(super) uuid: String,
    pub(super) path: PathBuf,
}

/// A running array; it is stopped when dropped.
#[derive(Debug)]
pub(super) struct Array {
    file: File,
    path: PathBuf,
    stopped: bool,
}

impl Array {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn close(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        while_busy(|| sys::md::stop(&self.file))
            .map_err(|error| Error::io("stopping", error).path(&self.path))
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Assembles and starts an array of the members that are there; also answers warnings.
///
/// It is read-only if a member's device is (drivers/md/md.c, `md_run`). With a bitmap, md takes members that it cannot write
/// to for broken; enough of them to read from remain.
///
/// # Errors
///
/// `Unsupported` where the level or the kernel's md is missing; `Io` where the kernel does not start it: too few members, a
/// dirty and degraded RAID5.
pub(super) fn assemble(
    uuid: &str,
    metadata: &str,
    level: i32,
    members: &[PathBuf],
    read_only: bool,
) -> Result<(Array, Vec<String>)> {
    let doing = || format!("assembling md array {uuid}");
    if !LEVELS.contains(&level) {
        return Err(Error::unsupported(doing(), format!("it is of level {level}")));
    }
    let version = match metadata {
        "0.90" => (0, 90),
        "1.0" => (1, 0),
        "1.1" => (1, 1),
        "1.2" => (1, 2),
        other => return Err(Error::unsupported(doing(), format!("its metadata is of version {other}"))),
    };
    let mut array = create().doing(doing)?;
    let mut warnings = Vec::new();
    let mut added = 0i64;
    sys::md::set_version(&array.file, version.0, version.1)
        .doing(|| "stating the version of its metadata")
        .doing(doing)?;
    for member in members {
        let (major, minor) = device_number(member)?;
        match sys::md::add(&array.file, major, minor) {
            Ok(()) => added += 1,
            Err(error) => {
                let member = member.display();
                warnings.push(format!("md array {uuid}: the kernel refuses the member {member}: {error}"));
            }
        }
    }
    if let Err(error) = sys::md::run(&array.file) {
        // One that never ran is given up by the same call.
        let _ = array.stop();
        return Err(Error::io("starting it", error)).doing(doing);
    }
    if let Ok(info) = sys::md::info(&array.file) {
        let active = if read_only { added } else { info.active_disks.into() };
        if active < info.raid_disks.into() {
            warnings.push(degraded(uuid, active, info.raid_disks.into()));
        }
    }
    Ok((array, warnings))
}

/// A warning.
pub(super) fn degraded(uuid: &str, active: i64, all: i64) -> String {
    format!("md array {uuid} is degraded: {active} of {all} members are active")
}

/// A new array without members, under a name that nobody uses.
fn create() -> Result<Array> {
    want_module("md_mod");
    let new = Path::new("/sys/module/md_mod/parameters/new_array");
    for number in 0..1024 {
        let name = format!("md_unmoor{number}");
        let block = Path::new("/sys/block").join(&name);
        if block.exists() {
            continue;
        }
        std::fs::write(new, &name).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::unsupported("making a new array", "this kernel has no md").source(error)
            }
            _ => Error::io("making a new array", error),
        })?;
        let text = std::fs::read_to_string(block.join("dev")).doing(|| "asking for the array's number")?;
        let numbers = text
            .trim()
            .split_once(':')
            .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
        let Some((major, minor)) = numbers else {
            return Err(Error::malformed("asking for the array's number", format!("it is {text:?}")));
        };
        let path = wait_for_node(major, minor)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| Error::io("opening", error).path(&path))?;
        return Ok(Array { file, path, stopped: false });
    }
    Err(Error::refused("making a new array", "there are too many"))
}
