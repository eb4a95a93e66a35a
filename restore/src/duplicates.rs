// SPDX-License-Identifier: Apache-2.0
//! Disks of this host that already carry an identity that a restore is about to make a second time.
//!
//! ```text
//!   /sys/block: every disk but the targets --> partition table, LVM labels, md superblocks --+
//!   the images' regions -----------------------------------------------------------------------> same id: refuse
//! ```
//!
//! Two disks with one GUID, volume group or array on one machine are mixed up: which of them `/dev/disk/by-partuuid`
//! or LVM takes is chance, and md assembles one array of halves that differ.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use unmoor_images::adapt::Window;
use unmoor_images::formats::{self, Format};
use unmoor_images::layout::{Content, Region};
use unmoor_images::partition::{self, Role};
use unmoor_images::volume::{lvm, md};
use unmoor_images::{BlockSource, Error, Monitor, Result};

use crate::plan::{DiskPlan, Plan, Target};

/// What must not be twice on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A GPT's disk GUID, or an MBR's disk signature.
    Disk(String),
    /// The UUID of an LVM volume group.
    VolumeGroup(String),
    /// The UUID of an md array.
    Array(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(id) => write!(f, "the disk identifier {id}"),
            Self::VolumeGroup(id) => write!(f, "the volume group {id}"),
            Self::Array(id) => write!(f, "the md array {id}"),
        }
    }
}

/// Compares the plan's images with the disks of this host, if a target is a device.
///
/// # Errors
///
/// `Refused` where one identity would be there twice, unless `allow`: then a warning.
pub fn check(plan: &Plan, allow: bool, monitor: &dyn Monitor) -> Result<()> {
    let targets: Vec<&DiskPlan> =
        plan.disks.iter().filter(|disk| matches!(disk.target, Target::Device { .. })).collect();
    if targets.is_empty() {
        return Ok(());
    }
    let coming: HashSet<Identity> = targets.iter().flat_map(|disk| of_image(disk)).collect();
    let own = Own::of(&targets);
    let mut found = Vec::new();
    for (name, path) in disks() {
        if monitor.cancelled() || coming.is_empty() {
            break;
        }
        if own.includes(&name) {
            continue;
        }
        let here = of_disk(&path).into_iter().filter(|identity| coming.contains(identity));
        found.extend(here.map(|identity| format!("{identity} is on {} already", path.display())));
    }
    if found.is_empty() {
        return Ok(());
    }
    found.dedup();
    let because = format!(
        "{}; one machine cannot tell the two apart: detach that disk, or give --allow-duplicates and detach one of them before the next boot",
        found.join(", ")
    );
    if allow {
        monitor.warn(because);
        return Ok(());
    }
    Err(Error::refused("restoring", because))
}

/// What an image's disk will carry.
fn of_image(disk: &DiskPlan) -> Vec<Identity> {
    let mut found: Vec<Identity> =
        disk.image.table.disk_id.clone().and_then(disk_identity).into_iter().collect();
    for region in disk.image.regions.iter().flat_map(Region::walk) {
        match &region.content {
            Content::PhysicalVolume { vg_uuid: Some(uuid), .. } => {
                found.push(Identity::VolumeGroup(uuid.clone()));
            }
            Content::MdMember { array_uuid, .. } => found.push(Identity::Array(array_uuid.clone())),
            _ => {}
        }
    }
    found
}

/// None for the MBR signature of zeros, which means that there is none.
fn disk_identity(id: String) -> Option<Identity> {
    id.chars().any(|digit| !matches!(digit, '0' | '-')).then_some(Identity::Disk(id))
}

/// What a disk of this host carries. What cannot be read carries nothing: it is no reason not to restore.
fn of_disk(path: &Path) -> Vec<Identity> {
    let options = formats::OpenOptions { format: Some(Format::Raw), ..Default::default() };
    let Ok(opened) = formats::open(path, &options) else { return Vec::new() };
    let disk = &*opened.source;
    let Ok(table) = partition::read(disk) else { return Vec::new() };
    let mut found: Vec<Identity> = table.disk_id.and_then(disk_identity).into_iter().collect();
    let parts = table.partitions.iter().filter(|partition| partition.role != Role::Extended);
    let parts = parts.filter_map(|partition| Window::new(disk, partition.start, partition.len).ok());
    found.extend(of_volume(disk));
    parts.for_each(|part| found.extend(of_volume(&part)));
    found
}

fn of_volume(part: &dyn BlockSource) -> Vec<Identity> {
    let group = lvm::probe(part).ok().flatten().and_then(|volume| volume.group);
    let member = md::probe(part).ok().flatten();
    group
        .map(|group| Identity::VolumeGroup(group.id))
        .into_iter()
        .chain(member.map(|member| Identity::Array(member.array_uuid)))
        .collect()
}

/// The kernel's disks that have a medium, by name and node.
///
/// Device-mapper nodes show parts of the others; memory, floppies and optical media carry no machine's disk, and
/// reading an empty drive takes seconds.
fn disks() -> Vec<(String, PathBuf)> {
    const SKIPPED: [&str; 5] = ["dm-", "ram", "zram", "fd", "sr"];
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut disks: Vec<(String, PathBuf)> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !SKIPPED.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|name| number(name, "size").is_some_and(|sectors| sectors > 0))
        // The paths of a multipath NVMe namespace are shown as hidden devices of their own.
        .filter(|name| number(name, "hidden") != Some(1))
        .map(|name| {
            // sysfs writes the slashes of a device name (cciss/c0d0) as exclamation marks.
            let path = Path::new("/dev").join(name.replace('!', "/"));
            (name, path)
        })
        .filter(|(_, path)| fs::metadata(path).is_ok_and(|node| node.file_type().is_block_device()))
        .collect();
    disks.sort();
    disks
}

fn text(name: &str, file: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/sys/block").join(name).join(file)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(name: &str, file: &str) -> Option<u64> {
    text(name, file)?.parse().ok()
}

/// The targets under all their names: what they hold now will be gone.
struct Own {
    names: HashSet<String>,
    /// World-wide names: the other paths to a multipath disk.
    wwids: HashSet<String>,
    /// Files behind targets that are loop devices.
    files: HashSet<(u64, u64)>,
}

impl Own {
    fn of(targets: &[&DiskPlan]) -> Self {
        let mut own = Self { names: HashSet::new(), wwids: HashSet::new(), files: HashSet::new() };
        for target in targets {
            let Ok(metadata) = fs::metadata(target.target.path()) else { continue };
            let rdev = metadata.rdev();
            let folder = format!("/sys/dev/block/{}:{}", libc::major(rdev), libc::minor(rdev));
            if let Ok(folder) = fs::canonicalize(folder) {
                own.add(&folder, 0);
            }
        }
        let names: Vec<String> = own.names.iter().cloned().collect();
        for name in names {
            own.wwids.extend(wwid(&name));
            own.files.extend(backing(&name));
        }
        own
    }

    /// A device, the disk that it is a partition of, and what lies beneath and above it.
    fn add(&mut self, folder: &Path, depth: usize) {
        const DEEPEST: usize = 16;
        let Some(name) = folder.file_name().map(|name| name.to_string_lossy().into_owned()) else { return };
        if depth > DEEPEST || !self.names.insert(name) {
            return;
        }
        let mut next: Vec<PathBuf> = ["slaves", "holders"]
            .iter()
            .flat_map(|links| fs::read_dir(folder.join(links)).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        if folder.join("partition").exists() {
            next.extend(folder.parent().map(Path::to_owned));
        }
        for path in next {
            if let Ok(path) = fs::canonicalize(path) {
                self.add(&path, depth + 1);
            }
        }
    }

    fn includes(&self, name: &str) -> bool {
        self.names.contains(name)
            || wwid(name).is_some_and(|wwid| self.wwids.contains(&wwid))
            || backing(name).is_some_and(|file| self.files.contains(&file))
    }
}

fn wwid(name: &str) -> Option<String> {
    text(name, "wwid").or_else(|| text(name, "device/wwid"))
}

/// The file behind a loop device.
fn backing(name: &str) -> Option<(u64, u64)> {
    let metadata = fs::metadata(text(name, "loop/backing_file")?).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_of_zeros_is_none() {
        assert_eq!(disk_identity("00000000".into()), None);
        assert_eq!(disk_identity("0000000a".into()), Some(Identity::Disk("0000000a".into())));
    }
}
