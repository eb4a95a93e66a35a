// SPDX-License-Identifier: Apache-2.0
//! Other identities for what lies on the disks, as values of a plan.

use serde::{Deserialize, Serialize};
use unmoor_images::layout::Place;

use super::Reason;

/// Another UUID for a filesystem, container, array, group or table. Mounting writes to the same superblocks, so the bytes are made
/// when all files are written and unmounted; what is kept here is what they are made from, and `old` the state that it was planned for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityEdit {
    /// Why.
    pub reasons: Vec<Reason>,
    /// What gets it.
    pub of: Identified,
}

impl IdentityEdit {
    /// What takes it back.
    pub fn reversed(&self) -> Self {
        let mut of = self.of.clone();
        match &mut of {
            Identified::Filesystem { old, new, .. }
            | Identified::Luks { old, new, .. }
            | Identified::Md { old, new, .. } => std::mem::swap(old, new),
            Identified::VolumeGroup { ids, .. } => {
                ids.iter_mut().for_each(|(old, new)| std::mem::swap(old, new));
            }
            Identified::Table { old, new, partitions, .. } => {
                std::mem::swap(old, new);
                partitions.iter_mut().for_each(|(_, old, new)| std::mem::swap(old, new));
            }
        }
        Self { reasons: self.reasons.clone(), of }
    }
}

/// Something that is known by a UUID. Identities are spelled as blkid and the tools of each thing spell them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identified {
    /// A filesystem or swap area; FAT has a serial number.
    #[allow(missing_docs)]
    Filesystem { disk: usize, place: Place, kind: String, old: String, new: String },
    /// A LUKS container.
    #[allow(missing_docs)]
    Luks { disk: usize, place: Place, old: String, new: String },
    /// An md array, on all its members.
    #[allow(missing_docs)]
    Md { members: Vec<(usize, Place)>, old: String, new: String },
    /// A volume group on all its physical volumes: its own UUID, theirs, and those of its logical volumes.
    #[allow(missing_docs)]
    VolumeGroup { volumes: Vec<(usize, Place)>, name: Option<String>, ids: Vec<(String, String)> },
    /// A partition table: a GPT's disk GUID and its partitions' by number, or an MBR's signature.
    #[allow(missing_docs)]
    Table { disk: usize, old: String, new: String, partitions: Vec<(u32, String, String)> },
}

impl Identified {
    /// Numbers of the disks that it lies on.
    pub fn disks(&self) -> Vec<usize> {
        match self {
            Self::Filesystem { disk, .. } | Self::Luks { disk, .. } | Self::Table { disk, .. } => vec![*disk],
            Self::Md { members: places, .. } | Self::VolumeGroup { volumes: places, .. } => {
                places.iter().map(|(disk, _)| *disk).collect()
            }
        }
    }

    /// Every old identity and its new one.
    pub fn names(&self) -> Vec<(&str, &str)> {
        match self {
            Self::Filesystem { old, new, .. } | Self::Luks { old, new, .. } | Self::Md { old, new, .. } => {
                vec![(old, new)]
            }
            Self::VolumeGroup { ids, .. } => ids.iter().map(|(old, new)| (&**old, &**new)).collect(),
            Self::Table { old, new, partitions, .. } => {
                let parts = partitions.iter().map(|(_, old, new)| (&**old, &**new));
                std::iter::once((&**old, &**new)).chain(parts).collect()
            }
        }
    }

    /// What it is, for people: "the ext4 filesystem of partition 2 of disk 0".
    pub fn what(&self) -> String {
        match self {
            Self::Filesystem { disk, place, kind, .. } if kind == "swap" => {
                format!("the swap area of {}", describe(*disk, place))
            }
            Self::Filesystem { disk, place, kind, .. } => {
                format!("the {kind} filesystem of {}", describe(*disk, place))
            }
            Self::Luks { disk, place, .. } => format!("the LUKS container of {}", describe(*disk, place)),
            Self::Md { old, .. } => format!("the md array {old}"),
            Self::VolumeGroup { name: Some(name), .. } => format!("the volume group {name}"),
            Self::VolumeGroup { .. } => "a physical volume of no group".to_owned(),
            Self::Table { disk, old, .. } if old.len() == 8 => format!("the MBR of disk {disk}"),
            Self::Table { disk, .. } => format!("the GPT of disk {disk}"),
        }
    }

    /// The change in one line.
    pub fn summary(&self) -> String {
        let what = self.what();
        match self {
            Self::Filesystem { old, new, .. } | Self::Luks { old, new, .. } | Self::Md { old, new, .. } => {
                format!("{what} becomes {new} (it was {old})")
            }
            Self::VolumeGroup { ids, .. } => {
                format!("{what} gets other UUIDs ({}: physical and logical volumes with it)", ids.len())
            }
            Self::Table { old, new, partitions, .. } => {
                format!("{what} becomes {new} (it was {old}), and {} partitions with it", partitions.len())
            }
        }
    }
}

/// "partition 2 of disk 0".
fn describe(disk: usize, place: &Place) -> String {
    match place {
        Place::Disk { partition: Some(number), .. } => format!("partition {number} of disk {disk}"),
        Place::Disk { .. } => format!("disk {disk}"),
        Place::LogicalVolume { vg, lv, .. } => format!("logical volume {vg}/{lv}"),
        Place::Md { name: Some(name), .. } => format!("md array {name}"),
        Place::Md { uuid, .. } => format!("md array {uuid}"),
    }
}
