// SPDX-License-Identifier: Apache-2.0
//! The operating systems on a machine's disks, found by reading files without mounting anything.
//!
//! ```text
//!   filesystems of all layouts --> which hold /etc and /usr: root --> release, fstab, kernels, init, architecture
//!                                                             |
//!   boot areas, EFI system partitions --> loaders, firmware --+--> OsFacts
//!                                         fstab names /boot --^
//! ```
//!
//! Nothing here fails: what cannot be read becomes a note.

mod boot;
mod linux;
mod release;
pub(crate) use release::architecture;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unmoor_images::adapt::Mapped;
use unmoor_images::filesystem::files::{self, Limited, Tree};
use unmoor_images::filesystem::{FilesystemFacts, FilesystemKind};
use unmoor_images::layout::{self, DiskLayout, Place};
use unmoor_images::{BlockSource, Monitor, Result};

/// What is read of one filesystem at most, in bytes: a few directories, files of at most 64 KiB, and a journal to replay, of
/// which mke2fs makes up to 1 GiB.
const MOST_READ: u64 = 2 << 30;
/// What is read of one file.
pub(crate) const MOST_FILE: usize = 64 << 10;

/// One operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OsFacts {
    /// Where its root filesystem lies.
    pub place: Place,
    /// Number of the disk under which that is listed, from 0.
    pub disk: usize,
    /// Root filesystem, as fstab names it: "ext4".
    pub filesystem: String,
    /// btrfs: the mount option that shows the root, such as "subvol=@".
    pub subvolume: Option<String>,
    /// PRETTY_NAME of os-release.
    pub name: Option<String>,
    /// ID of os-release: "debian".
    pub id: Option<String>,
    /// VERSION_ID of os-release.
    pub version_id: Option<String>,
    /// What programs are compiled for, as `uname -m` names it: "x86_64".
    pub architecture: Option<String>,
    /// As in /etc/hostname.
    pub hostname: Option<String>,
    /// As in /etc/machine-id.
    pub machine_id: Option<String>,
    /// Releases for which there is a kernel in /boot, else those that have modules.
    pub kernels: Vec<String>,
    /// "systemd", "sysvinit", "openrc", "busybox" or "upstart".
    pub init: Option<String>,
    /// What the machine's disks boot with: "GRUB (MBR)", "systemd-boot (EFI)".
    pub boot_loaders: Vec<String>,
    /// /etc/fstab without comments.
    pub fstab: Vec<FstabEntry>,
    /// How it is booted, if that can be told.
    pub firmware: Option<Firmware>,
    /// What could not be read, and why.
    pub notes: Vec<String>,
}

/// A line of fstab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FstabEntry {
    /// What is mounted: "UUID=...", "/dev/mapper/vg-root".
    pub spec: String,
    /// Where.
    pub mountpoint: String,
    /// Filesystem type.
    pub kind: String,
    /// Mount options.
    pub options: String,
}

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Firmware {
    Bios,
    Uefi,
}

/// A filesystem of the machine.
struct Found<'a> {
    disk: usize,
    place: &'a Place,
    facts: &'a FilesystemFacts,
    source: Mapped<'a>,
}

impl Found<'_> {
    /// What to call it in notes.
    fn name(&self) -> String {
        let place = match self.place {
            Place::Disk { partition: Some(number), .. } => {
                format!("in partition {number} of disk {}", self.disk + 1)
            }
            Place::Disk { .. } => format!("on disk {}", self.disk + 1),
            Place::LogicalVolume { vg, lv, .. } => format!("in {vg}/{lv}"),
            Place::Md { name, uuid, .. } => format!("in the md array {}", name.as_ref().unwrap_or(uuid)),
        };
        format!("the {} {place}", self.facts.kind.name())
    }

    /// Looks at its files. `look` gets the tree; an error becomes a note.
    fn look<T: Default>(&self, notes: &mut Vec<String>, look: impl FnOnce(&mut Tree<'_>) -> Result<T>) -> T {
        let limited = Limited::new(&self.source, MOST_READ);
        let found = files::open(&limited, self.facts.kind).and_then(|volume| look(&mut Tree::new(volume)));
        found.unwrap_or_else(|error| {
            notes.push(format!("{} could not be read: {}", self.name(), error.chain()));
            T::default()
        })
    }
}

/// Finds the operating systems of the machine whose disks are `sources`; `layouts` is what
/// [`unmoor_images::layout::analyze`] gave for them.
///
/// A filesystem that looks like none's root is left out; one that cannot be read is named in the notes of all systems found,
/// and to `monitor` where none was found.
/// Stops early, with what was found, where `monitor` says so.
pub fn find(layouts: &[DiskLayout], sources: &[&dyn BlockSource], monitor: &dyn Monitor) -> Vec<OsFacts> {
    let mut notes = Vec::new();
    let mut volumes = Vec::new();
    for (disk, layout) in layouts.iter().enumerate() {
        for region in layout.all_regions() {
            let Some(facts) = region.filesystem() else { continue };
            match layout::open(sources, layouts, disk, &region.place) {
                Ok(source) => volumes.push(Found { disk, place: &region.place, facts, source }),
                Err(error) => notes.push(error.chain()),
            }
        }
    }
    // The copies of a mirror are one system.
    let mut seen = std::collections::HashSet::new();
    volumes.retain(|found| match found.place {
        Place::Md { uuid, .. } => seen.insert(uuid.clone()),
        _ => true,
    });

    let mut systems = Vec::new();
    for found in &volumes {
        if monitor.cancelled() {
            return systems;
        }
        if is_readable(found.facts.kind) {
            systems.extend(linux::examine(found, &volumes, &mut notes));
        } else if found.facts.kind == FilesystemKind::Ntfs {
            notes.push(format!("{} is not read: whether Windows is on it is not known", found.name()));
        }
    }
    let (loaders, firmware) = boot::survey(layouts, sources, &volumes, &mut notes);
    if systems.is_empty() {
        notes.iter().for_each(|note| monitor.note(note.clone()));
        if !loaders.is_empty() {
            monitor
                .note(format!("no operating system was found; the disks boot with {}", loaders.join(", ")));
        }
    }
    for system in &mut systems {
        system.boot_loaders.clone_from(&loaders);
        system.firmware = firmware;
        system.notes.extend(notes.iter().cloned());
    }
    systems
}

/// Whether a root filesystem of this kind can be looked into.
fn is_readable(kind: FilesystemKind) -> bool {
    use FilesystemKind::{Btrfs, Ext2, Ext3, Ext4, Xfs};
    matches!(kind, Ext2 | Ext3 | Ext4 | Xfs | Btrfs)
}
