// SPDX-License-Identifier: Apache-2.0
//! What the machine's disks hold, by the names that a guest's configuration may use for it.

use serde::{Deserialize, Serialize};
use unmoor_images::layout::Place;

/// A filesystem, swap area, LUKS container or volume of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Disk, from 0, under which it is listed.
    pub disk: usize,
    /// Where it lies.
    pub place: Place,
    /// Its type as blkid spells it: "ext4", "vfat", "swap", "crypto_LUKS", "LVM2_member", "linux_raid_member".
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
}

impl Devices {
    /// What `spec` ("UUID=...", "/dev/sda1") means, as index; `None` where it means nothing on these disks.
    pub fn resolve(&self, spec: &str) -> Option<usize> {
        let spec = spec.trim().trim_matches('"');
        let of = |device: &Device| {
            let tags = [("UUID=", &device.uuid), ("LABEL=", &device.label), ("PARTUUID=", &device.partuuid)];
            tags.iter()
                .any(|(tag, value)| spec.strip_prefix(tag).is_some_and(|v| value.as_deref() == Some(v)))
                || device.names.iter().any(|n| n == spec)
        };
        self.devices.iter().position(of)
    }
}
impl Device {
    /// A name that holds on any machine, where the device has one.
    pub fn stable_spec(&self) -> Option<String> {
        self.names.first().cloned()
    }
}
