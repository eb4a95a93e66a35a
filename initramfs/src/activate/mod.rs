// SPDX-License-Identifier: Apache-2.0
//! Block devices for what lies on disks: partitions, md arrays, logical volumes, LUKS; and mounts of what is in them.
//!
//! ```text
//!   disks --layout::analyze--> places --+-- partition: the kernel's node, or a loop device at its offset
//!     ^                                 +-- md array: SET_ARRAY_INFO, ADD_NEW_DISK, RUN_ARRAY
//!     |                                 +-- logical volume: device-mapper, from the metadata text
//!     +--- one more disk for each ------+-- LUKS: volume key by images::volume::luks, device-mapper
//!
//!   nodes --mount--> root, then what fstab names, each inside the root
//! ```
//!
//! There is no userland in this: no lvm, mdadm, cryptsetup or udev. The guest's own LVM configuration (devices file,
//! filters) plays no role. What is opened is closed in reverse order, by [`Activated::finish`] or when dropped.

mod array;
mod builder;
mod disk;
mod encrypted;
mod held;
mod mapping;
mod mount;
mod partition;
mod volume;

use std::path::{Path, PathBuf};

use unmoor_images::layout::{DiskLayout, Place};
use unmoor_images::{Error, Result};
use zeroize::Zeroizing;

pub use held::LoopDevice;
pub use mapping::{Mapping, MappingLine, mapper_obstacle};
pub use mount::{Filesystem, Mounted, mount_guest};

use held::Stack;

/// A secret that may open LUKS containers. It is wiped when dropped, and no debug output shows it.
#[derive(Clone)]
pub struct Key {
    /// UUID of the container that it is for; `None` tries it on all.
    pub uuid: Option<String>,
    /// The passphrase without a line end, or the key file's bytes.
    pub secret: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

/// What the caller may choose.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Nothing is written to the disks, whatever is mounted: all nodes stand on read-only loop devices.
    pub read_only: bool,
    /// For LUKS.
    pub keys: Vec<Key>,
    /// Logical sector of disks that are image files, in bytes; 0 is 512.
    pub sector_size: u32,
}

/// A block device for a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number of the disk under which the place is listed.
    pub disk: usize,
    /// The place.
    pub place: Place,
    /// Its device.
    pub path: PathBuf,
}

/// What one of the further disks is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inner {
    /// The content of an opened LUKS container.
    Luks {
        /// As the header states it.
        uuid: Option<String>,
    },
    /// An md array whose content the layout does not show on its members: any level but RAID1, or a RAID1 in rebuilding.
    Md {
        /// As `mdadm --detail` prints it.
        uuid: String,
        /// RAID level; -1 is linear.
        level: i32,
    },
}

/// A disk that was found inside others: it has a number behind theirs, and a layout of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub disk: usize,
    /// Where it lies: disk and place; for an array its first member.
    pub inside: (usize, Place),
    /// What it is.
    pub inner: Inner,
    /// Its device.
    pub path: PathBuf,
}

/// A place that has no node, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Number of the disk under which the place is listed.
    pub disk: usize,
    /// The place.
    pub place: Place,
    /// The whole reason, as an error would say it.
    pub reason: String,
}

/// The disks of a machine, taken apart, with a block device for everything that can be mounted.
#[derive(Debug)]
#[must_use = "the devices are taken down when this is dropped"]
pub struct Activated {
    /// Of the disks as given, then of [`opened`](Self::opened) ones. Their extent maps say nothing: all is data.
    pub layouts: Vec<DiskLayout>,
    /// Devices for filesystems, swap, and closed LUKS containers.
    pub nodes: Vec<Node>,
    /// The further disks.
    pub opened: Vec<Opened>,
    /// What could not be activated.
    pub missing: Vec<Missing>,
    /// What the administrator should know, missing places included.
    pub warnings: Vec<String>,
    stack: Stack,
}

impl Activated {
    /// The block device for a place that is listed in the layout of disk number `disk`.
    ///
    /// # Errors
    ///
    /// `Unsupported` where it is of a kind that is not activated (thin, cache, RAID volumes, snapshots); `Refused` where a key
    /// is missing; and so on: it says why.
    pub fn node(&self, disk: usize, place: &Place) -> Result<&Path> {
        if let Some(node) = self.nodes.iter().find(|node| node.disk == disk && node.place == *place) {
            return Ok(&node.path);
        }
        let why = self.missing.iter().find(|missing| missing.disk == disk && missing.place == *place);
        let why = why.map_or("there is nothing that can be mounted", |missing| &*missing.reason);
        Err(Error::unsupported(format!("looking for {}", describe(place)), why.to_owned()))
    }

    /// Takes all devices down again.
    ///
    /// # Errors
    ///
    /// The first failure; the rest is taken down all the same. A device that is still in use is waited for, for some seconds.
    pub fn finish(mut self) -> Result<()> {
        self.stack.close()
    }
}

/// Makes block devices for all that lies on `disks` (block devices, or raw image files): see the head of this module.
///
/// What cannot be activated is no error but [`Activated::missing`], and is said in the warnings.
///
/// # Errors
///
/// `Refused` where a disk is in use and is not to be opened read-only, or where a key that names its container does not open
/// it; `Io`.
pub fn activate(disks: &[PathBuf], options: &Options) -> Result<Activated> {
    builder::Builder::new(disks, options)?.run()
}

/// What to call a place in a message.
pub(crate) fn describe(place: &Place) -> String {
    match place {
        Place::Disk { partition: Some(number), .. } => format!("partition {number}"),
        Place::Disk { .. } => "the disk".into(),
        Place::LogicalVolume { vg, lv, .. } => format!("logical volume {vg}/{lv}"),
        Place::Md { name: Some(name), .. } => format!("md array {name}"),
        Place::Md { uuid, .. } => format!("md array {uuid}"),
    }
}
