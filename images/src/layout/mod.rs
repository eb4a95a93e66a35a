// SPDX-License-Identifier: Apache-2.0
//! A machine's disks taken apart: table, partitions, volumes, filesystems, and from them every byte's state.
//!
//! ```text
//!   disk -> table -> partition --+-> filesystem, swap ------------------> used ranges --+
//!     |       |        |         +-> md RAID1 member -> content -> (the same again)      |
//!     |       |        |         +-> LVM2 PV --+                                         v
//!     |       +-> gaps           other PVs ----+-> logical volume -> filesystem -> Ledger (per disk: data, zero)
//!     +-> no table: as a partition                                                       |
//!                                                            ExtentMap, regions <--------+
//! ```
//!
//! What is not understood is data. A reader's error never ends the analysis: what it was to read is kept whole, and a warning says why.

mod contents;
mod device;
mod groups;
mod ledger;
mod open;
mod regions;
pub mod signatures;
mod tables;
mod walk;

#[cfg(test)]
pub(crate) mod tests;

pub use open::open;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::filesystem::FilesystemFacts;
use crate::partition::PartitionTable;
use crate::{BlockSource, ExtentMap, Monitor, Result};

/// What to do where swap or a filesystem holds a suspended system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hibernated {
    /// Refuse, and say so.
    #[default]
    Refuse,
    /// Swap and the filesystems of the suspended system are all data.
    Keep,
    /// The suspended state is given up: the swap's content is not kept.
    Discard,
}

/// What the user may choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keep every byte, used or not.
    pub all: bool,
    /// Hibernation images.
    pub hibernated: Hibernated,
}

/// Where a region lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Bytes of one disk; `partition` is its number, absent for a whole disk or a gap.
    #[allow(missing_docs)]
    Disk { offset: u64, len: u64, partition: Option<u32> },
    /// An LVM logical volume.
    #[allow(missing_docs)]
    LogicalVolume { vg: String, lv: String, len: u64 },
    /// The content of an md RAID1 member: `offset` is the first byte on the disk under which it is listed.
    #[allow(missing_docs)]
    Md { uuid: String, name: Option<String>, offset: u64, len: u64 },
}

/// What a region holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A filesystem or swap.
    Filesystem(FilesystemFacts),
    /// An LVM2 physical volume; its logical volumes are listed as children on the disk where the group's first PV lies.
    #[allow(missing_docs)]
    PhysicalVolume { pv_uuid: String, vg: Option<String>, vg_uuid: Option<String> },
    /// A member of an md array.
    #[allow(missing_docs)]
    MdMember { array_uuid: String, name: Option<String>, level: i32, metadata: String },
    /// LUKS: all data.
    #[allow(missing_docs)]
    Luks { version: u16, uuid: Option<String> },
    /// MBR, gap to the first partition, BIOS boot partition.
    BootArea,
    /// An extended partition.
    Extended,
    /// Nothing that is known; all data.
    Unknown,
}

/// How a region's bytes are treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// The used bytes only.
    Used,
    /// Every byte; the text says why.
    Everything(String),
    /// No bytes of its own.
    Nothing,
}

/// One node of the tree of what is where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Region {
    /// Where.
    pub place: Place,
    /// What.
    pub content: Content,
    /// How much of it is data, in bytes.
    pub used_bytes: u64,
    /// How its bytes are treated.
    pub kept: Kept,
    /// What lies inside.
    pub children: Vec<Region>,
}

impl Region {
    /// This region and all that lies in it, outer ones first.
    pub fn walk(&self) -> impl Iterator<Item = &Region> {
        let mut next = vec![self];
        std::iter::from_fn(move || {
            let region = next.pop()?;
            next.extend(region.children.iter().rev());
            Some(region)
        })
    }

    /// The filesystem in it, if that is what it holds.
    pub fn filesystem(&self) -> Option<&FilesystemFacts> {
        match &self.content {
            Content::Filesystem(facts) => Some(facts),
            _ => None,
        }
    }
}

/// One disk taken apart.
#[derive(Debug, Clone)]
pub struct DiskLayout {
    /// Its table.
    pub table: PartitionTable,
    /// What it holds, in order of address. Together they cover all data but the table's own bytes.
    pub regions: Vec<Region>,
    /// Every byte's state.
    pub extents: ExtentMap,
    /// What the administrator should know besides the table's own warnings. The analysis does not report them to the
    /// monitor.
    pub warnings: Vec<String>,
    /// Bytes to write over the captured content, by their address on the disk; they lie in data. For swap whose
    /// suspended system is given up: its header without the mark that would resume it.
    pub patches: Vec<(u64, Vec<u8>)>,
}

impl DiskLayout {
    /// All regions, outer ones before what lies in them.
    pub fn all_regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().flat_map(Region::walk)
    }
}

/// What to call a place on disk number `disk`.
pub(crate) fn place_name(disk: usize, place: &Place) -> String {
    let on = if disk == 0 { String::new() } else { format!(" of disk {disk}") };
    match place {
        Place::Disk { partition: Some(number), .. } => format!("partition {number}{on}"),
        Place::Disk { partition: None, .. } => format!("disk {disk}"),
        Place::LogicalVolume { vg, lv, .. } => format!("{vg}/{lv}"),
        Place::Md { name: Some(name), .. } => format!("md array {name}"),
        Place::Md { uuid, .. } => format!("md array {uuid}"),
    }
}

/// Takes apart the disks of one machine together: a volume group may span them. The answer has one element a disk.
///
/// # Errors
///
/// `Refused` where a suspended system is found and [`Options::hibernated`] says so; `Cancelled`. What cannot be read or
/// trusted is no error but data, with a warning: the copy will meet the bad sector again and decides there.
pub fn analyze(
    disks: &[&dyn BlockSource],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Vec<DiskLayout>> {
    walk::Analysis::new(disks, options, monitor, walk::Readers::OWN).run()
}

/// What a filesystem is doing while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It is mounted and changes: what it calls used is a hint, good for reading ahead of a freeze.
    Mounted,
    /// It is frozen (FIFREEZE): all that it has in memory is on the disk, though its log may look as if there were more.
    Frozen,
}

/// The same for disks whose filesystems are mounted on this host.
pub fn analyze_mounted(
    disks: &[&dyn BlockSource],
    options: &Options,
    moment: Moment,
    monitor: &dyn Monitor,
) -> Result<Vec<DiskLayout>> {
    let readers = match moment {
        Moment::Mounted => walk::Readers::MOUNTED,
        Moment::Frozen => walk::Readers::FROZEN,
    };
    walk::Analysis::new(disks, options, monitor, readers).run()
}

/// The same for disks that another program has saved without what its filesystems do not use: what [`BlockSource::extent_at`]
/// calls zero is unused wherever a filesystem lies. Filesystems are recognised, and not read.
pub fn analyze_saved(
    disks: &[&dyn BlockSource],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Vec<DiskLayout>> {
    walk::Analysis::new(disks, options, monitor, walk::Readers::SAVED).run()
}
