// SPDX-License-Identifier: Apache-2.0
//! From layouts to devices.

use unmoor_images::layout::{self, Content, DiskLayout, Place, Region};
use unmoor_images::manifest::MachineFacts;
use unmoor_images::partition::Partition;
use unmoor_images::volume::luks;
use unmoor_images::{BlockSource, Result};

use super::names;
use super::{Device, Devices, Luks};
use crate::inspection::Unlock;

impl Devices {
    /// What lies on the machine's disks. `layouts` is what [`layout::analyze`] gave for `sources`; `facts` are those of the
    /// machine at the capture, for the names that it had for its disks.
    ///
    /// A LUKS header whose key slots cannot be read counts as one that nothing is known to open.
    pub fn of(layouts: &[DiskLayout], sources: &[&dyn BlockSource], facts: Option<&MachineFacts>) -> Self {
        let sizes: Vec<u64> = sources.iter().map(|source| source.size()).collect();
        let tables = layouts.iter().map(|layout| layout.table.disk_id.clone()).collect();
        let mut found = Self { disks: names::of_disks(&sizes, facts), tables, ..Self::default() };
        for (disk, layout) in layouts.iter().enumerate() {
            for region in &layout.regions {
                Walk { found: &mut found, layout, disk }.add(region, None, 0);
            }
        }
        found.tables = layouts.iter().map(|layout| layout.table.disk_id.clone()).collect();
        found.link_groups(layouts);
        found.read_slots(layouts, sources);
        found
    }

    /// Logical volumes stand on the physical volumes of their group.
    fn link_groups(&mut self, layouts: &[DiskLayout]) {
        let mut groups: Vec<(usize, &Place, &str)> = Vec::new();
        for (disk, layout) in layouts.iter().enumerate() {
            for region in layout.all_regions() {
                if let Content::PhysicalVolume { vg: Some(vg), .. } = &region.content {
                    groups.push((disk, &region.place, vg));
                }
            }
        }
        for index in 0..self.devices.len() {
            let Some(Device { place: Place::LogicalVolume { vg, .. }, .. }) = self.devices.get(index) else {
                continue;
            };
            let members = groups.iter().filter(|(.., name)| name == vg);
            let below: Vec<usize> = members
                .filter_map(|(disk, place, _)| {
                    self.devices
                        .iter()
                        .position(|device| same_place(device.disk, &device.place, *disk, place))
                })
                .collect();
            self.below.insert(index, below);
        }
    }

    fn read_slots(&mut self, layouts: &[DiskLayout], sources: &[&dyn BlockSource]) {
        for (index, device) in self.devices.iter().enumerate() {
            if device.kind != "crypto_LUKS" {
                continue;
            }
            let read = || -> Result<Option<luks::Slots>> {
                luks::slots(&layout::open(sources, layouts, device.disk, &device.place)?)
            };
            let slots = read().ok().flatten().unwrap_or_default();
            let unlock = Unlock { passphrase: slots.free, bound: slots.bound };
            self.luks.insert(index, Luks { version: slots.version, unlock });
        }
    }
}

/// The array that lies on two disks is one device.
fn same_place(disk: usize, place: &Place, other_disk: usize, other: &Place) -> bool {
    match (place, other) {
        (Place::Md { uuid, .. }, Place::Md { uuid: other, .. }) => uuid == other,
        (Place::LogicalVolume { vg, lv, .. }, Place::LogicalVolume { vg: other_vg, lv: other_lv, .. }) => {
            vg == other_vg && lv == other_lv
        }
        _ => disk == other_disk && place == other,
    }
}

struct Walk<'a, 'b> {
    found: &'a mut Devices,
    layout: &'b DiskLayout,
    disk: usize,
}

impl Walk<'_, '_> {
    /// Adds a region and what lies in it. Layouts nest a few levels only; what is deeper is not a machine's.
    fn add(&mut self, region: &Region, parent: Option<usize>, depth: u32) {
        const DEEPEST: u32 = 16;
        if depth > DEEPEST {
            return;
        }
        let mut here = parent;
        if is_device(region) {
            let known = self
                .found
                .devices
                .iter()
                .position(|device| same_place(device.disk, &device.place, self.disk, &region.place));
            let index = match known {
                Some(index) => index,
                None => {
                    let device = self.device(region, parent);
                    self.found.devices.push(device);
                    self.found.devices.len() - 1
                }
            };
            if let Some(parent) = parent.filter(|parent| *parent != index) {
                let below = self.found.below.entry(index).or_default();
                if !below.contains(&parent) {
                    below.push(parent);
                }
            }
            if known.is_some() {
                return;
            }
            here = Some(index);
        }
        for child in &region.children {
            self.add(child, here, depth + 1);
        }
    }

    fn device(&self, region: &Region, parent: Option<usize>) -> Device {
        // A partition within an array is not one of the disk's own.
        let array = parent
            .and_then(|parent| self.found.devices.get(parent))
            .filter(|parent| matches!(parent.place, Place::Md { .. }));
        let partition: Option<&Partition> = match region.place {
            Place::Disk { offset, partition: Some(number), .. } if array.is_none() => {
                let mut all = self.layout.table.partitions.iter();
                all.find(|partition| partition.number == number && partition.start == offset)
            }
            _ => None,
        };
        let (kind, uuid, label) = content(&region.content);
        let disk_names = match array {
            Some(array) => array.names.as_slice(),
            None => self.found.disks.get(self.disk).map(Vec::as_slice).unwrap_or_default(),
        };
        let size = match region.place {
            Place::Disk { len, .. } | Place::LogicalVolume { len, .. } | Place::Md { len, .. } => len,
        };
        Device {
            disk: self.disk,
            place: region.place.clone(),
            kind: kind.to_owned(),
            uuid,
            label,
            partuuid: partition.and_then(|partition| partition.partuuid.clone()),
            partlabel: partition.and_then(|partition| partition.name.clone()),
            partition_type: partition.map(|partition| partition.type_id.clone()),
            names: names::of_place(&region.place, disk_names),
            size,
        }
    }
}

/// Partitions, arrays and logical volumes are; gaps, tables and containers of logical partitions are not. A whole disk is one if
/// something is on it.
fn is_device(region: &Region) -> bool {
    !matches!(
        (&region.place, &region.content),
        (_, Content::Extended) | (Place::Disk { partition: None, .. }, Content::BootArea | Content::Unknown)
    )
}

/// (type as blkid has it, UUID, label)
fn content(content: &Content) -> (&'static str, Option<String>, Option<String>) {
    match content {
        Content::Filesystem(facts) => (facts.kind.name(), facts.uuid.clone(), facts.label.clone()),
        Content::PhysicalVolume { pv_uuid, .. } => ("LVM2_member", Some(pv_uuid.clone()), None),
        Content::MdMember { array_uuid, name, .. } => {
            ("linux_raid_member", Some(names::blkid_uuid(array_uuid)), name.clone())
        }
        Content::Luks { uuid, .. } => ("crypto_LUKS", uuid.clone(), None),
        Content::BootArea | Content::Extended | Content::Unknown => ("", None, None),
    }
}
