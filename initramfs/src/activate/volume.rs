// SPDX-License-Identifier: Apache-2.0
//! Logical volumes, by device-mapper from the metadata text. Linear and striped ones; all else is refused by name.

use std::path::PathBuf;

use unmoor_images::layout::Content;
use unmoor_images::volume::lvm::{self, Stripes, VolumeGroup};
use unmoor_images::{Error, Result};

use super::builder::{Builder, Spot};
use super::disk::{Disk, device_number};
use super::held::Held;
use super::mapping::{Mapping, MappingLine};

/// A volume group with the devices of its physical volumes, in the order of its members.
pub(super) struct Group {
    group: VolumeGroup,
    devices: Vec<(u32, u32)>,
}

impl Builder<'_> {
    /// The node of a logical volume; `None` for a hidden part of another one.
    ///
    /// # Errors
    ///
    /// `Unsupported` where it is neither linear nor striped: says what it is.
    pub(super) fn volume(&mut self, group: &str, lv: &str, spots: &[Spot]) -> Result<Option<PathBuf>> {
        if !self.groups.iter().any(|known| known.group.id == group) {
            let found = self.group(group, spots)?;
            self.groups.push(found);
        }
        let Some(Group { group, devices }) = self.groups.iter().find(|known| known.group.id == group) else {
            return Err(Error::malformed("activating a logical volume", "its group is not there"));
        };
        let doing = || format!("activating {}/{lv}", group.name);
        let logical = group
            .logical
            .iter()
            .find(|logical| logical.name == lv)
            .ok_or_else(|| Error::malformed(doing(), "its group does not list it"))?;
        if !logical.visible {
            return Ok(None);
        }
        if let Some(special) = &logical.special {
            let because = format!("{special}; linear and striped volumes can be activated, no others");
            return Err(Error::unsupported(doing(), because));
        }
        let lines: Vec<_> = logical
            .segments
            .iter()
            .map(|stripes| line(stripes, devices))
            .collect::<Option<_>>()
            .ok_or_else(|| Error::malformed(doing(), "a segment lies on no physical volume"))?;
        let name = mapper_name(&group.name, lv);
        let uuid = format!("LVM-{}{}", group.id.replace('-', ""), logical.id.replace('-', ""));
        let mapping = Mapping::create(&name, &uuid, &lines, self.options.read_only)?;
        let path = mapping.path().to_owned();
        self.stack.push(Held::Mapping(mapping));
        Ok(Some(path))
    }

    /// A volume group's newest metadata, and its physical volumes' devices.
    fn group(&mut self, id: &str, spots: &[Spot]) -> Result<Group> {
        let mut newest: Option<VolumeGroup> = None;
        let mut places: Vec<(String, (u32, u32))> = Vec::new();
        for spot in spots {
            let Content::PhysicalVolume { pv_uuid, vg_uuid: Some(of), .. } = &spot.content else { continue };
            if of != id || places.iter().any(|(uuid, _)| uuid == pv_uuid) {
                continue;
            }
            let Some(path) = self.node(spot, spots)? else { continue };
            let device = Disk::open(&path, true, 0)?;
            let Some(found) = lvm::probe(&device)? else { continue };
            places.push((found.uuid, device_number(&path)?));
            if let Some(group) = found.group.filter(|group| group.id == id)
                && newest.as_ref().is_none_or(|have| have.seqno < group.seqno)
            {
                newest = Some(group);
            }
        }
        let group = newest
            .ok_or_else(|| Error::malformed(format!("activating volume group {id}"), "it has no metadata"))?;
        let device = |member: &lvm::Member| {
            let place = places.iter().find(|(uuid, _)| *uuid == member.uuid).map(|(_, device)| *device);
            place.ok_or_else(|| {
                Error::malformed(
                    format!("activating volume group {}", group.name),
                    format!("physical volume {} is not there", member.uuid),
                )
            })
        };
        let devices = group.volumes.iter().map(device).collect::<Result<_>>()?;
        Ok(Group { group, devices })
    }
}

fn line(stripes: &Stripes, devices: &[(u32, u32)]) -> Option<MappingLine> {
    let place = |&(index, start): &(usize, u64)| devices.get(index).map(|device| (*device, start));
    let places: Vec<_> = stripes.stripes.iter().map(place).collect::<Option<_>>()?;
    Some(MappingLine::stripes(stripes.len, stripes.stripe_size, &places))
}

/// As LVM names it below /dev/mapper: hyphens of the names are doubled.
pub(super) fn mapper_name(vg: &str, lv: &str) -> String {
    format!("{}-{}", vg.replace('-', "--"), lv.replace('-', "--"))
}

#[cfg(test)]
mod tests {
    use super::mapper_name;

    #[test]
    fn names_below_dev_mapper_double_their_hyphens() {
        assert_eq!(mapper_name("my-vg", "root"), "my--vg-root");
        assert_eq!(mapper_name("vg0", "swap-1"), "vg0-swap--1");
    }
}
