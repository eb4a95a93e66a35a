// SPDX-License-Identifier: Apache-2.0
//! A region as a disk of its own, for those who look into it.

use super::{Content, DiskLayout, Place};
use crate::adapt::{Leg, Mapped, Segment};
use crate::volume::lvm::{self, Stripes, VolumeGroup};
use crate::{BlockSource, Error, Result};

/// The bytes of the region at `place`, which is listed in the layout of disk number `disk`. Of mirrors one copy.
///
/// `disks` and `layouts` are what [`super::analyze`] got and gave.
///
/// # Errors
///
/// `Malformed` where a logical volume cannot be put together from these disks.
pub fn open<'a>(
    disks: &[&'a dyn BlockSource],
    layouts: &[DiskLayout],
    disk: usize,
    place: &Place,
) -> Result<Mapped<'a>> {
    match place {
        Place::Disk { offset, len, .. } | Place::Md { offset, len, .. } => {
            Mapped::new(disks.to_vec(), [Segment::linear(*len, disk, *offset)])
        }
        Place::LogicalVolume { vg, lv, .. } => logical_volume(disks, layouts, vg, lv),
    }
}

/// A physical volume: its UUID, and where it begins on which disk.
struct Physical {
    uuid: String,
    start: Leg,
}

fn logical_volume<'a>(
    disks: &[&'a dyn BlockSource],
    layouts: &[DiskLayout],
    vg: &str,
    lv: &str,
) -> Result<Mapped<'a>> {
    let missing = |what: &str| Error::malformed(format!("opening {vg}/{lv}"), format!("there is no {what}"));
    let mut newest: Option<VolumeGroup> = None;
    let mut volumes = Vec::new();
    for (disk, layout) in layouts.iter().enumerate() {
        for region in layout.all_regions() {
            let (Content::PhysicalVolume { vg: Some(name), .. }, start) =
                (&region.content, start(&region.place))
            else {
                continue;
            };
            let Some(start) = start.filter(|_| name == vg) else { continue };
            let source = open(disks, layouts, disk, &region.place)?;
            let Some(found) = lvm::probe(&source)? else { continue };
            volumes.push(Physical { uuid: found.uuid, start: Leg { source: disk, start } });
            if let Some(group) = found.group.filter(|group| group.name == vg) {
                match &newest {
                    Some(have) if have.id != group.id => {
                        return Err(missing("single volume group of that name"));
                    }
                    Some(have) if have.seqno >= group.seqno => {}
                    _ => newest = Some(group),
                }
            }
        }
    }
    let group = newest.ok_or_else(|| missing("volume group"))?;
    let logical =
        group.logical.iter().find(|logical| logical.name == lv).filter(|logical| logical.special.is_none());
    let logical = logical.ok_or_else(|| missing("such plain volume"))?;
    let leg = |(index, start): &(usize, u64)| -> Result<Leg> {
        let member = group.volumes.get(*index).ok_or_else(|| missing("physical volume"))?;
        let physical = volumes.iter().find(|volume| volume.uuid == member.uuid);
        let physical = physical.ok_or_else(|| missing("physical volume"))?;
        Ok(Leg { source: physical.start.source, start: physical.start.start.saturating_add(*start) })
    };
    let segment = |stripes: &Stripes| -> Result<Segment> {
        let legs = stripes.stripes.iter().map(leg).collect::<Result<_>>()?;
        Ok(Segment { len: stripes.len, stripe_size: stripes.stripe_size, legs })
    };
    Mapped::new(disks.to_vec(), logical.segments.iter().map(segment).collect::<Result<Vec<_>>>()?)
}

fn start(place: &Place) -> Option<u64> {
    match place {
        Place::Disk { offset, .. } | Place::Md { offset, .. } => Some(*offset),
        Place::LogicalVolume { .. } => None,
    }
}
