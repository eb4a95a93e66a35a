// SPDX-License-Identifier: Apache-2.0
//! `--grow=VG/LV`: the physical volume grows with its partition, and the logical volume gets the new extents. The metadata
//! is changed by patches over the image, so that the disk never has any other; the filesystem follows when it is mounted.

use std::ops::Range;

use unmoor_images::adapt::{Leg, Segment, Window};
use unmoor_images::layout::{Content, Place, Region, signatures};
use unmoor_images::partition::rewrite::TableRewrite;
use unmoor_images::volume::lvm;
use unmoor_images::{BlockSource, Error, Result};

use super::{Target, build};
use crate::grow::Growth;
use crate::image::Image;
use crate::view::Patch;

/// What becomes of the volume group.
pub(super) struct Grown {
    pub(super) patches: Vec<Patch>,
    /// The filesystem in the volume, if it can follow here.
    pub(super) growth: Option<Growth>,
    /// Where no old content of the target may stay in the new extents.
    pub(super) zeros: Vec<Range<u64>>,
}

/// A physical volume: its place on the image, and its first byte on the target.
struct Physical {
    offset: u64,
    len: u64,
    to: u64,
}

/// Plans it; `None` where no partition becomes longer.
///
/// # Errors
///
/// `Refused` where the partition that grows holds no such group, or the group cannot be changed.
pub(super) fn grow(
    image: &Image,
    table: &TableRewrite,
    target: &Target,
    name: &str,
    notes: &mut Vec<String>,
) -> Result<Option<Grown>> {
    let refused = |because: String| Error::refused(format!("growing the logical volume {name}"), because);
    let Some((old, new)) = build::longer(image, table) else {
        notes.push(format!("the target has no more room than the image: {name} stays as it is"));
        return Ok(None);
    };
    let (wanted, lv) = match name.trim_start_matches("/dev/").split_once('/') {
        Some((vg, lv)) => (Some(vg), lv),
        None => (None, name),
    };
    let content = build::region(image, old.number).map(|region| &region.content);
    let Some(Content::PhysicalVolume { pv_uuid, vg: Some(vg), vg_uuid: Some(vg_uuid) }) = content else {
        return Err(refused(format!(
            "partition {}, which gets the room, holds no LVM physical volume of a group; restore without --grow=LV",
            old.number
        )));
    };
    if wanted.is_some_and(|wanted| wanted != vg) {
        let number = old.number;
        return Err(refused(format!(
            "partition {number}, which gets the room, belongs to volume group {vg}"
        )));
    }
    let mut volumes: Vec<Physical> = Vec::new();
    let mut grown = None;
    for region in image.regions.iter().flat_map(Region::walk) {
        let Content::PhysicalVolume { pv_uuid: uuid, vg_uuid: Some(of), .. } = &region.content else {
            continue;
        };
        if of != vg_uuid {
            continue;
        }
        let Place::Disk { offset, len, .. } = region.place else {
            return Err(refused(format!("a physical volume of {vg} is an md array")));
        };
        if uuid == pv_uuid {
            grown = Some(volumes.len());
        }
        volumes.push(Physical { offset, len, to: place_on_target(image, table, offset) });
    }
    let windows: Vec<_> = volumes
        .iter()
        .map(|volume| Window::new(&*image.source, volume.offset, volume.len))
        .collect::<Result<_>>()?;
    let sources: Vec<&dyn BlockSource> = windows.iter().map(|window| window as _).collect();
    let grown = grown.ok_or_else(|| refused(format!("{vg} is not to be found")))?;
    let change = lvm::grow(&sources, grown, new.len, lv)?;
    let patches = change.writes.iter().filter_map(|(volume, at, bytes)| {
        let volume = volumes.get(*volume)?;
        Some(Patch {
            offset: volume.to.saturating_add(*at),
            bytes: bytes.clone(),
            what: format!("LVM metadata of {vg}"),
        })
    });
    let patches = patches.collect();
    let logical = change.logical(lv).ok_or_else(|| refused("it is gone".into()))?;
    let member = |index: usize| change.members.get(index).and_then(|volume| volumes.get(*volume));
    let segment = |stripes: &lvm::Stripes| {
        let leg = |&(index, start): &(usize, u64)| {
            member(index).map(|volume| Leg { source: 0, start: volume.to.saturating_add(start) })
        };
        let legs = stripes.stripes.iter().map(leg).collect::<Option<_>>()?;
        Some(Segment { len: stripes.len, stripe_size: stripes.stripe_size, legs })
    };
    let segments: Vec<_> = logical
        .segments
        .iter()
        .map(segment)
        .collect::<Option<_>>()
        .ok_or_else(|| refused("it lies on no physical volume".into()))?;
    let gained = change.extents.saturating_mul(change.group.extent_size);
    let zeros = quiet(&segments, logical.len.saturating_sub(gained), logical.len);

    let full = format!("{vg}/{lv}");
    notes.push(format!("{full} gets {} extents, {gained} bytes", change.extents));
    let mut regions = image.regions.iter().flat_map(Region::walk);
    let inside = regions.find(
        |region| matches!(&region.place, Place::LogicalVolume { vg: of, lv: name, .. } if of == vg && name == lv),
    );
    let Some(facts) = inside.and_then(Region::filesystem) else {
        notes.push(format!("{full} holds no filesystem that is known: grow what it holds by its own tools"));
        return Ok(Some(Grown { patches, growth: None, zeros }));
    };
    let first = logical.segments.first().and_then(|stripes| stripes.stripes.first());
    let first =
        first.and_then(|&(index, start)| member(index).map(|volume| volume.offset.saturating_add(start)));
    let growth = Growth {
        name: full.clone(),
        partition: old.number,
        volume: Some(full),
        segments,
        filesystem: facts.clone(),
        xfs_inode_max_percent: build::xfs_inode_max_percent(image, facts, first.unwrap_or(0)),
    };
    let growth = build::if_possible(image, growth, target, notes);
    Ok(Some(Grown { patches, growth, zeros }))
}

/// Where what begins at `offset` of the image will begin on the target.
fn place_on_target(image: &Image, table: &TableRewrite, offset: u64) -> u64 {
    let old = image.table.partitions.iter().find(|old| old.start == offset && old.len > 0);
    let new = old.and_then(|old| table.partitions.iter().find(|new| new.number == old.number));
    new.map_or(offset, |new| new.start)
}

/// Where a prober would look in the volume's bytes from `old` to `new`.
fn quiet(segments: &[Segment], old: u64, new: u64) -> Vec<Range<u64>> {
    let mut zeros = Vec::new();
    for place in signatures::places(new).ranges() {
        let mut at = 0;
        for segment in segments {
            let (start, end) = (place.start.max(at).max(old), place.end.min(at + segment.len));
            if let ([leg], true) = (segment.legs.as_slice(), start < end) {
                zeros.push(leg.start + (start - at)..leg.start + (end - at));
            }
            at += segment.len;
        }
    }
    zeros
}
