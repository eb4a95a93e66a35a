// SPDX-License-Identifier: Apache-2.0
//! Clonezilla's image directories and partclone's images as disks, read only.
//!
//! ```text
//!   sda-mbr | sda-gpt-1st | sda-pt.sf (logical partitions) | sda-hidden-data-after-mbr --> table ----+
//!   sda1.ext4-ptcl-img.gz.aa .ab ... (formats/partclone) ---------------------------> partitions ---+--> Assembled
//!   swappt-sda2.info --------------------------------------------------------------> a swap header -+    (a BlockSource)
//!   lvm_vg_dev.list, lvm_VG.conf, VG-LV.xfs-ptcl-img.zst --> PV heads, logical volumes' extents -----+
//! ```
//!
//! What such a directory has are a disk's tables and the used blocks of its filesystems: all else reads as zeros. The
//! layout follows the scripts that write it (`ocs-functions`: `save_logv`, `image_save`, `output_swap_partition_uuid_label`).

mod assembled;
mod folder;
mod swap;
mod table;
#[cfg(test)]
mod tests;
mod volumes;

use std::path::Path;
use std::sync::Arc;

pub use assembled::{Assembled, Heads};
pub use folder::is_one;

use crate::formats::partclone::{self, PartcloneSource, Parts};
use crate::partition::Role;
use crate::{BlockSource, Error, Result, ResultExt};
use assembled::Builder;
use folder::{Folder, Saved};

/// One disk of an image.
pub struct ClonezillaDisk {
    /// As Clonezilla knew it: "sda".
    pub name: String,
    /// Its content.
    pub source: Assembled,
    /// What the administrator should know.
    pub warnings: Vec<String>,
}

/// A partclone image alone: a disk without a table, all of it the filesystem.
pub fn partition(path: &Path) -> Result<ClonezillaDisk> {
    let doing = || format!("opening {}", path.display());
    let source = Arc::new(PartcloneSource::new(Parts::of(path)?).doing(doing)?);
    let size = source.size().next_multiple_of(512);
    let mut disk = Builder::new(size, 512);
    let part = disk.part(source);
    disk.map(part, 0, 0, size).doing(doing)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ClonezillaDisk { name, source: disk.finish()?, warnings: Vec::new() })
}

/// The disks of the image directory `path`.
///
/// # Errors
///
/// `Unsupported` for what cannot be put together, by name: images of ntfsclone and partimage, encrypted images, LUKS
/// containers that were open, thin volumes and snapshots.
pub fn open(path: &Path) -> Result<Vec<ClonezillaDisk>> {
    let folder = Folder::open(path)?;
    folder.refuse_what_is_not_read()?;
    let doing = |disk: &str| format!("putting together {disk} of {}", path.display());
    let mut disks = Vec::new();
    for name in folder.disks()? {
        disks.push(take_apart(&folder, &name).doing(|| doing(&name))?);
    }
    if disks.is_empty() {
        return Err(Error::unsupported(format!("opening {}", path.display()), "there is no disk in it"));
    }
    volumes::map(&folder, &mut disks).doing(|| format!("opening {}", path.display()))?;
    disks.into_iter().map(Draft::finish).collect()
}

/// A disk before its volume groups are known.
struct Draft {
    name: String,
    disk: Builder,
    /// Its partitions, or the disk itself.
    devices: Vec<Device>,
    warnings: Vec<String>,
}

struct Device {
    name: String,
    /// First byte on the disk.
    start: u64,
    /// It is in the image.
    saved: bool,
}

impl Draft {
    fn finish(mut self) -> Result<ClonezillaDisk> {
        for device in self.devices.iter().filter(|device| !device.saved) {
            self.warnings.push(format!("{} is not in the image: it reads as zeros", device.name));
        }
        Ok(ClonezillaDisk { name: self.name, source: self.disk.finish()?, warnings: self.warnings })
    }
}

fn take_apart(folder: &Folder, name: &str) -> Result<Draft> {
    // A filesystem or a physical volume on a disk without partitions.
    let Some(table) = table::read(folder, name)? else {
        return bare(folder, name);
    };
    let mut draft = Draft {
        name: name.to_owned(),
        disk: Builder::new(table.size, table.sector_size),
        devices: Vec::new(),
        warnings: table.warnings,
    };
    for (at, bytes) in table.pieces {
        draft.disk.bytes(at, bytes)?;
    }
    for partition in table.partitions.iter().filter(|partition| partition.role != Role::Extended) {
        let device = partition_name(name, partition.number);
        let (start, len) = (partition.start, partition.len);
        let saved = fill(folder, &mut draft.disk, &device, start, len)?;
        draft.devices.push(Device { name: device, start, saved });
    }
    Ok(draft)
}

fn bare(folder: &Folder, name: &str) -> Result<Draft> {
    let size = match folder.saved(name)? {
        Saved::Partclone(parts) => PartcloneSource::new(parts)?.size(),
        Saved::Swap | Saved::Nothing => volumes::device_size(folder, name)?,
    };
    let mut draft = Draft {
        name: name.to_owned(),
        disk: Builder::new(size.next_multiple_of(512), 512),
        devices: Vec::new(),
        warnings: Vec::new(),
    };
    let saved = fill(folder, &mut draft.disk, name, 0, size)?;
    draft.devices.push(Device { name: name.to_owned(), start: 0, saved });
    Ok(draft)
}

/// Puts what was saved of a device at its place; false where there is nothing.
fn fill(folder: &Folder, disk: &mut Builder, device: &str, start: u64, len: u64) -> Result<bool> {
    let Some(part) = content(folder, disk, device, len)? else { return Ok(false) };
    disk.map(part, 0, start, len).doing(|| format!("placing {device}"))?;
    Ok(true)
}

/// What was saved of a device of `len` bytes, as a part of `disk`.
fn content(folder: &Folder, disk: &mut Builder, device: &str, len: u64) -> Result<Option<usize>> {
    let doing = || format!("opening the image of {device}");
    match folder.saved(device)? {
        Saved::Nothing => Ok(None),
        Saved::Swap => Ok(Some(disk.swap(swap::header(&folder.swap(device)?, len)?, len))),
        Saved::Partclone(parts) => {
            let source = PartcloneSource::new(parts).doing(doing)?;
            if source.size() > len.next_multiple_of(u64::from(source.header().block_size)) {
                let because = format!("it holds {} bytes, and {device} has {len}", source.size());
                return Err(Error::malformed(doing(), because));
            }
            Ok(Some(disk.part(Arc::new(source))))
        }
    }
}

/// `sda` and 1: `sda1`; `nvme0n1` and 1: `nvme0n1p1`.
fn partition_name(disk: &str, number: u32) -> String {
    let separator = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{separator}{number}")
}

/// A file's magic, for those who choose a reader.
pub fn is_partition(path: &Path) -> bool {
    partclone::is_one(path)
}
