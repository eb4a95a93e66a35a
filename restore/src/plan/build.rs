// SPDX-License-Identifier: Apache-2.0
//! From an image and a target to the pieces, patches and growth of one disk.

use std::ops::Range;

use unmoor_images::adapt::Segment;
use unmoor_images::filesystem::{Condition, FilesystemFacts, FilesystemKind};
use unmoor_images::formats::Format;
use unmoor_images::layout::{Content, Place, Region, signatures};
use unmoor_images::partition::rewrite::{self, TableRewrite};
use unmoor_images::partition::{Partition, Role, TableKind};
use unmoor_images::{BlockSource, Error, ErrorKind, RangeSet, Result};

use super::{DiskPlan, Grow, Options, Target, fits, stream, volume};
use crate::esp::Remade;
use crate::grow::{self, Growth};
use crate::image::Image;
use crate::sectors;
use crate::view::{Patch, Piece, View};

/// First and last bytes of a disk in which every prober looks.
const ENDS: u64 = 1 << 20;

pub(super) fn disk(image: Image, target: Target, options: &Options) -> Result<DiskPlan> {
    if let Some(stream) = image.stream.clone() {
        return stream::disk(image, &stream, target);
    }
    let (size, sector_size) = match &target {
        Target::Device { size, sector_size, .. } => (*size, *sector_size),
        Target::File { .. } => {
            let sector_size = options.sector_size.unwrap_or(image.table.sector_size);
            // An image file of any length is a disk; a disk ends with a sector.
            let whole = image.source.size().next_multiple_of(u64::from(sector_size));
            (options.size.unwrap_or(whole), sector_size)
        }
    };
    if size == 0 || !size.is_multiple_of(u64::from(sector_size)) {
        let because = format!("{size} bytes are not a whole number of {sector_size}-byte sectors");
        return Err(Error::new(ErrorKind::Usage, format!("planning {target}")).because(because));
    }
    let mut notes = Vec::new();
    let mut warnings = image.warnings.clone();
    sectors::check(&image, sector_size, &mut notes, &mut warnings)?;
    let table = fit_table(&image, size, sector_size, options, &mut notes)?;
    let moved = moved_partitions(&image.table.partitions, &table.partitions);
    let mut remade = sectors::remake(&image, &table.partitions, sector_size, &mut notes)?;
    let pieces = pieces(&image, size, &table, &moved, &remade)?;
    if !table.partitions.is_empty() {
        fits::mention(&image, size.min(image.source.size()), &mut warnings)?;
    }
    let mut patches: Vec<Patch> = table_patches(&image, &pieces, &table)?;
    remade.iter_mut().for_each(|volume| patches.append(&mut volume.patches));
    let mut new_places = Vec::new();
    let growth = match &options.grow {
        Grow::LogicalVolume(name) => {
            volume::grow(&image, &table, &target, name, &mut notes)?.and_then(|grown| {
                patches.extend(grown.patches);
                new_places = grown.zeros;
                grown.growth
            })
        }
        Grow::Last | Grow::No => growth(&image, &table, &target, &mut notes),
    };
    let held = held(&table, image.table.kind, size, growth.as_ref());
    let mut zeros = zeros(&table, size);
    remade.iter().for_each(|volume| zeros.insert(volume.zeros.clone()));
    new_places.into_iter().for_each(|range| zeros.insert(range));
    let view = View::new(&*image.source, &pieces, &patches, size, sector_size);
    let extents = view.extents(&image.extents, &mut zeros);
    let clear = clear(size);
    Ok(DiskPlan {
        image,
        target,
        size,
        sector_size,
        partitions: table.partitions,
        pieces,
        patches,
        extents,
        held,
        clear,
        growth,
        notes,
        warnings,
    })
}

/// The table for the target; empty where the image has none.
fn fit_table(
    image: &Image,
    size: u64,
    sector_size: u32,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<TableRewrite> {
    let larger = size > image.source.size();
    if image.table.kind == TableKind::None {
        if larger {
            notes.push("the image has no partition table: the room behind its end stays unused".into());
        }
        return Ok(TableRewrite::default());
    }
    let grow = larger && options.grow != Grow::No;
    let is_esp = |number: u32| {
        let mut partitions = image.table.partitions.iter();
        partitions.any(|partition| partition.number == number && partition.role == Role::Esp)
    };
    let trailing = rewrite::trailing(&image.table.partitions);
    let trailing = trailing.into_iter().take_while(|number| is_swap(image, *number) || is_esp(*number));
    let request = rewrite::Options {
        size,
        sector_size,
        grow_last: grow,
        move_to_end: trailing.filter(|_| grow).collect(),
        placements: Vec::new(),
    };
    let table = rewrite::plan(&*image.source, &request)?;
    notes.extend(table.notes.iter().cloned());
    Ok(table)
}

fn is_swap(image: &Image, number: u32) -> bool {
    matches!(filesystem(image, number), Some(facts) if facts.kind == FilesystemKind::Swap)
}

/// The filesystem directly in partition `number`.
fn filesystem(image: &Image, number: u32) -> Option<&FilesystemFacts> {
    region(image, number).and_then(|region| match &region.content {
        Content::Filesystem(facts) => Some(facts),
        _ => None,
    })
}

/// What partition `number` holds; logical partitions are listed inside their container.
pub(super) fn region(image: &Image, number: u32) -> Option<&Region> {
    image
        .regions
        .iter()
        .flat_map(Region::walk)
        .find(|region| matches!(region.place, Place::Disk { partition: Some(n), .. } if n == number))
}

/// (old, new) of every partition whose start changes.
fn moved_partitions(old: &[Partition], new: &[Partition]) -> Vec<(Range<u64>, Range<u64>)> {
    old.iter()
        .filter(|partition| partition.role != Role::Extended)
        .filter_map(|partition| {
            let after = new.iter().find(|after| after.number == partition.number)?;
            let len = partition.len.min(after.len);
            (after.start != partition.start)
                .then(|| (partition.start..partition.start + len, after.start..after.start + len))
        })
        .collect()
}

/// The image at its own addresses, without its old tables and what moves; and what moves at its new place.
fn pieces(
    image: &Image,
    size: u64,
    table: &TableRewrite,
    moved: &[(Range<u64>, Range<u64>)],
    remade: &[Remade],
) -> Result<Vec<Piece>> {
    let end = size.min(image.source.size());
    let mut without = RangeSet::new();
    for &(start, len) in &table.clear {
        without.insert(start..start.saturating_add(len));
    }
    for (old, new) in moved {
        without.insert(old.clone());
        without.insert(new.clone());
    }
    for volume in remade {
        without.insert(volume.old.clone());
        without.insert(volume.new.clone());
    }
    let mut pieces: Vec<Piece> = without
        .gaps(end)
        .into_iter()
        .map(|range| Piece { to: range.start, from: range.start, len: range.end - range.start })
        .collect();
    let anew = |old: &Range<u64>| remade.iter().any(|volume| volume.old.start == old.start);
    for (old, new) in moved.iter().filter(|(old, _)| !anew(old)) {
        pieces.push(Piece { to: new.start, from: old.start, len: old.end - old.start });
    }
    remade.iter().for_each(|volume| pieces.extend(&volume.pieces));
    pieces.sort_by_key(|piece| piece.to);
    fits::check(image, end, &table.partitions)?;
    Ok(pieces)
}

/// The table's writes that differ from what the pieces put there anyway.
fn table_patches(image: &Image, pieces: &[Piece], table: &TableRewrite) -> Result<Vec<Patch>> {
    let size = table.writes.iter().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(0);
    let view = View::new(&*image.source, pieces, &[], size, 512);
    let mut patches = Vec::new();
    for (index, (at, bytes)) in table.writes.iter().enumerate() {
        let mut before = vec![0; bytes.len()];
        view.read_at(&mut before, *at)?;
        if before != *bytes {
            let what = label(image.table.kind, index, *at).to_owned();
            patches.push(Patch { offset: *at, bytes: bytes.clone(), what });
        }
    }
    Ok(patches)
}

/// What write number `index` of a [`TableRewrite`] is.
pub(super) fn label(kind: TableKind, index: usize, offset: u64) -> &'static str {
    match (kind, index) {
        (TableKind::Gpt, 0) => "protective MBR",
        (TableKind::Gpt, 1) => "GPT header",
        (TableKind::Gpt, 2) => "GPT entries",
        (TableKind::Gpt, 3) => "backup GPT entries",
        (TableKind::Gpt, _) => "backup GPT header",
        _ if offset == 0 => "MBR",
        _ => "extended boot record",
    }
}

/// The partition that became longer: as it was, and as it will be.
pub(super) fn longer<'a>(
    image: &'a Image,
    table: &'a TableRewrite,
) -> Option<(&'a Partition, &'a Partition)> {
    image.table.partitions.iter().find_map(|old| {
        let new = table.partitions.iter().find(|new| new.number == old.number)?;
        (new.len > old.len && old.role != Role::Extended).then_some((old, new))
    })
}

/// The partition that became longer, if what it holds can follow.
fn growth(image: &Image, table: &TableRewrite, target: &Target, notes: &mut Vec<String>) -> Option<Growth> {
    let (old, new) = longer(image, table)?;
    let Some(facts) = filesystem(image, old.number) else {
        let inside = match region(image, old.number).map(|region| &region.content) {
            Some(Content::PhysicalVolume { .. }) => {
                "an LVM physical volume: restore with --grow=VG/LV, or run pvresize, then lvextend -r"
            }
            Some(Content::Luks { .. }) => "LUKS: run cryptsetup resize, then grow what is inside",
            Some(Content::MdMember { .. }) => "an md member: run mdadm --grow --size=max",
            _ => "nothing that is known: grow it by its own tools",
        };
        notes.push(format!("partition {} gets more room; it holds {inside}", old.number));
        return None;
    };
    let growth = Growth {
        name: format!("partition {}", old.number),
        partition: old.number,
        volume: None,
        segments: vec![Segment::linear(new.len, 0, new.start)],
        filesystem: facts.clone(),
        xfs_inode_max_percent: xfs_inode_max_percent(image, facts, old.start),
    };
    if_possible(image, growth, target, notes)
}

/// `sb_imax_pct` of an XFS that begins at byte `start` of the image.
pub(super) fn xfs_inode_max_percent(image: &Image, facts: &FilesystemFacts, start: u64) -> u32 {
    let mut imax = [0; 1];
    if facts.kind == FilesystemKind::Xfs {
        // struct xfs_dsb, sb_imax_pct.
        let _ = image.source.read_at(&mut imax, start.saturating_add(127));
    }
    let [imax] = imax;
    u32::from(imax)
}

/// The growth if it can be done here; otherwise a note says why not, and how to do it later.
pub(super) fn if_possible(
    image: &Image,
    growth: Growth,
    target: &Target,
    notes: &mut Vec<String>,
) -> Option<Growth> {
    let obstacle = if growth.start() < ENDS {
        // Its first bytes are held back with the table, so it cannot be mounted before the commit.
        Some("it begins in the disk's first MiB".to_owned())
    } else if !matches!(target, Target::Device { .. } | Target::File { format: Format::Raw, .. }) {
        Some("it cannot be mounted inside an image of this format".to_owned())
    } else if image.regions.iter().flat_map(Region::walk).any(is_hibernated) {
        // A journal replayed under a suspended system destroys the filesystem when that resumes.
        Some("the image holds a suspended system".to_owned())
    } else {
        grow::obstacle(&growth)
    };
    let Some(why) = obstacle else { return Some(growth) };
    let kind = growth.filesystem.kind;
    let how = match kind {
        FilesystemKind::Xfs => "xfs_growfs",
        FilesystemKind::Btrfs => "btrfs filesystem resize max",
        FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => "resize2fs",
        _ => "its own tool",
    };
    notes.push(format!(
        "the {} of {} is not grown here ({why}); after the first boot, grow it with {how}",
        kind.name(),
        growth.name
    ));
    None
}

fn is_hibernated(region: &Region) -> bool {
    region.filesystem().is_some_and(|facts| matches!(facts.condition, Condition::Hibernated(_)))
}

/// What is cleared first: every place of the disk where something old would be found. The end comes before the
/// start, so that a disk whose clearing is interrupted is still as it was, or has nothing that can be found.
pub(super) fn clear(size: u64) -> Vec<Range<u64>> {
    let mut places = signatures::places(size);
    let mut ranges = places.ranges().to_vec();
    ranges.reverse();
    ranges
}

/// What makes the disk bootable or known as a member of something: the first and last MiB, and a GPT wherever it lies.
///
/// What a mount writes to must not be held: where the partition that will be grown reaches into the last MiB, that part
/// is left out.
pub(super) fn held(
    table: &TableRewrite,
    kind: TableKind,
    size: u64,
    growth: Option<&Growth>,
) -> Vec<Range<u64>> {
    let tail = growth.map_or(0, Growth::end).max(size.saturating_sub(ENDS));
    let mut held = RangeSet::of(0..ENDS.min(size));
    held.insert(tail.min(size)..size);
    if kind == TableKind::Gpt {
        for (at, bytes) in &table.writes {
            // An EBR far up is not found without the first sector; a backup GPT is.
            held.insert(*at..at.saturating_add(bytes.len() as u64));
        }
    }
    held.ranges().to_vec()
}

/// Where no old content of the target may stay, by the target's own geometry.
pub(super) fn zeros(table: &TableRewrite, size: u64) -> RangeSet {
    let mut zeros = RangeSet::new();
    let mut add = |start: u64, len: u64| {
        for range in signatures::places(len).ranges() {
            zeros.insert(start + range.start..start + range.end);
        }
    };
    add(0, size);
    for partition in table.partitions.iter().filter(|partition| partition.role != Role::Extended) {
        add(partition.start, partition.len);
    }
    for &(start, len) in &table.clear {
        zeros.insert(start..start.saturating_add(len));
    }
    zeros.truncate(size);
    zeros
}
