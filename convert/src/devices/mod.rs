// SPDX-License-Identifier: Apache-2.0
//! What the machine's disks hold, by the names that a guest's configuration may use for it.
//!
//! ```text
//!   layouts, sources --find--> Devices --resolve("UUID=...", "/dev/sda1", "/dev/mapper/vg-root")--> index
//!   facts of the machine --names--^
//! ```

mod find;
mod names;
mod resolve;
#[cfg(test)]
mod tests;

pub(crate) use names::blkid_uuid;
pub use names::mapper_name;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unmoor_images::layout::Place;

use crate::identity::Names;
use crate::inspection::Unlock;

/// A filesystem, swap area, LUKS container or volume of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Disk, from 0, under which it is listed.
    pub disk: usize,
    /// Where it lies.
    pub place: Place,
    /// Its type as blkid spells it: "ext4", "vfat", "swap", "crypto_LUKS", "LVM2_member", "linux_raid_member"; empty where
    /// nothing known is on it.
    pub kind: String,
    /// Identity of the content, as blkid's UUID.
    pub uuid: Option<String>,
    /// Label of the content.
    pub label: Option<String>,
    /// GPT partition GUID, or DISKID-NN: fstab's PARTUUID.
    pub partuuid: Option<String>,
    /// GPT partition name.
    pub partlabel: Option<String>,
    /// GPT type GUID (lower case) or MBR type ("0x83"), for a partition.
    pub partition_type: Option<String>,
    /// Paths under /dev that the source machine had for it, as far as known or derivable: "/dev/sda1", "/dev/vg0/root",
    /// "/dev/mapper/vg0-root", "/dev/disk/by-id/...".
    pub names: Vec<String>,
    /// Length in bytes.
    pub size: u64,
}

/// All of them, and the disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// In order of disk and address.
    pub devices: Vec<Device>,
    /// Names of the disks on the source machine by their number, where known: "/dev/sda", and its links by id and path.
    pub disks: Vec<Vec<String>>,
    /// Identities of the disks' partition tables, by the disks' numbers: GPT disk GUID, or MBR signature as eight hex digits;
    /// udev's ID_PART_TABLE_UUID.
    #[serde(default)]
    pub tables: Vec<Option<String>>,
    /// What a device stands on, by index: a logical volume on physical volumes, an array on its members.
    #[serde(default)]
    pub below: BTreeMap<usize, Vec<usize>>,
    /// LUKS containers by index.
    #[serde(default)]
    pub luks: BTreeMap<usize, Luks>,
}

/// What a LUKS header tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luks {
    /// 1 or 2.
    pub version: u16,
    /// What opens it.
    pub unlock: Unlock,
}

impl Devices {
    /// With each renamed device a second time under its new identities, which files that are planned already have.
    pub fn with_new(&self, names: &Names) -> Self {
        let mut all = self.clone();
        for device in &self.devices {
            let new = |id: &Option<String>| Some(names.get(id.as_deref()?)?.to_owned());
            let (uuid, partuuid) = (new(&device.uuid), new(&device.partuuid));
            if uuid.is_some() || partuuid.is_some() {
                let known = Device { label: None, partlabel: None, names: Vec::new(), ..device.clone() };
                all.devices.push(Device { uuid, partuuid, ..known });
            }
        }
        all
    }
}

impl Device {
    /// Whether its partition's type is that of an EFI system partition (GPT, or MBR type 0xef).
    pub fn is_esp(&self) -> bool {
        matches!(self.partition_type.as_deref(), Some("c12a7328-f81f-11d2-ba4b-00a0c93ec93b" | "0xef"))
    }

    /// The best name that is valid on any machine: "UUID=...", else "PARTUUID=...", else a logical volume's path.
    pub fn stable_spec(&self) -> Option<String> {
        if let (Place::LogicalVolume { .. }, None) = (&self.place, &self.uuid) {
            return self.names.first().cloned();
        }
        let uuid = self.uuid.as_ref().filter(|_| !self.kind.ends_with("_member"));
        let uuid = uuid.map(|uuid| format!("UUID={uuid}"));
        uuid.or_else(|| self.partuuid.as_ref().map(|id| format!("PARTUUID={id}")))
    }
}
