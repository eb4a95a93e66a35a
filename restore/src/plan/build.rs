// SPDX-License-Identifier: Apache-2.0
//! From an image and a target to the pieces, patches and growth of one disk.

use std::ops::Range;

use unmoor_images::filesystem::{FilesystemFacts, FilesystemKind};
use unmoor_images::layout::{Content, Place, Region, signatures};
use unmoor_images::partition::rewrite::{self, TableRewrite};
use unmoor_images::partition::{Partition, Role, TableKind};
use unmoor_images::{BlockSource, Error, ErrorKind, RangeSet, Result, State};

use super::{DiskPlan, Grow, Options, Target};
use crate::esp::Remade;
use crate::grow::{self, Growth};
use crate::image::Image;
use crate::sectors;
use crate::view::{Patch, Piece, View};

/// First and last bytes of a disk in which every prober looks.
const ENDS: u64 = 1 << 20;

pub(super) fn disk(image: Image, target: Target, options: &Options) -> Result<DiskPlan> {
    let (size, sector_size) = match &target {
        Target::Device { size, sector_size, .. } => (*size, *sector_size),
        Target::File { .. } => {
            let sector_size = options.sector_size.unwrap_or(image.table.sector_size);
            (options.size.unwrap_or(image.source.size()), sector_size)
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
    let mut patches: Vec<Patch> = table_patches(&image, &pieces, &table)?;
    remade.iter_mut().for_each(|volume| patches.append(&mut volume.patches));
    let growth = growth(&image, &table, &mut notes);
    let held = held(&table, image.table.kind, size);
    let mut zeros = zeros(&table, size);
    remade.iter().for_each(|volume| zeros.insert(volume.zeros.clone()));
    let view = View::new(&*image.source, &pieces, &patches, size, sector_size);
    let extents = view.extents(&image.extents, &mut zeros);
    let clear = vec![0..ENDS.min(size), size.saturating_sub(ENDS)..size];
    Ok(DiskPlan {
        image,
        target,
        size,
        sector_size,
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
    if let Grow::LogicalVolume(name) = &options.grow {
        return Err(Error::unsupported(
            format!("growing the logical volume {name}"),
            "growing a volume group needs the rescue environment; restore with --no-grow or without --grow=LV, and then run pvresize and lvextend",
        ));
    }
    let grow = larger && options.grow == Grow::Last;
    let swap = rewrite::trailing_swap(&image.table.partitions).filter(|number| is_swap(image, *number));
    let request = rewrite::Options {
        size,
        sector_size,
        grow_last: grow,
        move_to_end: swap.filter(|_| grow),
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

fn region(image: &Image, number: u32) -> Option<&Region> {
    image
        .regions
        .iter()
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
    lost(image, end, table)?;
    Ok(pieces)
}

/// Refuses a smaller target that would lose content which no partition accounts for.
fn lost(image: &Image, end: u64, table: &TableRewrite) -> Result<()> {
    if end >= image.source.size() || !table.partitions.is_empty() {
        return Ok(());
    }
    let beyond =
        image.extents.within(end..image.extents.size()).filter(|extent| extent.state == State::Data).last();
    match beyond {
        None => Ok(()),
        Some(last) => Err(Error::refused(
            "fitting the image to a smaller target",
            format!(
                "it has content up to byte {}, and the target ends {} bytes before that; shrink the filesystem first, or take a target of at least {} bytes",
                last.end(),
                last.end() - end,
                last.end()
            ),
        )),
    }
}

/// The table's writes that differ from what the pieces put there anyway.
fn table_patches(image: &Image, pieces: &[Piece], table: &TableRewrite) -> Result<Vec<Patch>> {
    let size = table.writes.iter().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(0);
    let view = View::new(&*image.source, pieces, &[], size, 512);
    let mut patches = Vec::new();
    for (at, bytes) in &table.writes {
        let mut before = vec![0; bytes.len()];
        view.read_at(&mut before, *at)?;
        if before != *bytes {
            patches.push(Patch { offset: *at, bytes: bytes.clone(), what: "partition table".into() });
        }
    }
    Ok(patches)
}

/// The partition that became longer, if what it holds can follow.
fn growth(image: &Image, table: &TableRewrite, notes: &mut Vec<String>) -> Option<Growth> {
    let (old, new) = image.table.partitions.iter().find_map(|old| {
        let new = table.partitions.iter().find(|new| new.number == old.number)?;
        (new.len > old.len && old.role != Role::Extended).then_some((old, new))
    })?;
    let more = new.len - old.len;
    let Some(facts) = filesystem(image, old.number) else {
        let inside = match region(image, old.number).map(|region| &region.content) {
            Some(Content::PhysicalVolume { .. }) => "an LVM physical volume: run pvresize, then lvextend -r",
            Some(Content::Luks { .. }) => "LUKS: run cryptsetup resize, then grow what is inside",
            Some(Content::MdMember { .. }) => "an md member: run mdadm --grow --size=max",
            _ => "nothing that is known: grow it by its own tools",
        };
        notes.push(format!("partition {} gets {more} bytes more; it holds {inside}", old.number));
        return None;
    };
    let mut imax = [0; 1];
    if facts.kind == FilesystemKind::Xfs {
        // struct xfs_dsb, sb_imax_pct.
        let _ = image.source.read_at(&mut imax, old.start.saturating_add(127));
    }
    let [imax] = imax;
    let growth = Growth {
        partition: old.number,
        start: new.start,
        len: new.len,
        filesystem: facts.clone(),
        xfs_inode_max_percent: u32::from(imax),
    };
    let obstacle = if new.start < ENDS {
        // Its first bytes are held back with the table, so it cannot be mounted before the commit.
        Some("it begins in the disk's first MiB".to_owned())
    } else {
        grow::obstacle(&growth)
    };
    match obstacle {
        None => Some(growth),
        Some(why) => {
            let how = match facts.kind {
                FilesystemKind::Xfs => "xfs_growfs",
                FilesystemKind::Btrfs => "btrfs filesystem resize max",
                FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => "resize2fs",
                _ => "its own tool",
            };
            notes.push(format!(
                "the {} of partition {} is not grown here ({why}); after the first boot, grow it with {how}",
                facts.kind.name(),
                old.number
            ));
            None
        }
    }
}

/// What makes the disk bootable: the first MiB, and a backup table at the end.
fn held(table: &TableRewrite, kind: TableKind, size: u64) -> Vec<Range<u64>> {
    let mut held = RangeSet::of(0..ENDS.min(size));
    if kind == TableKind::Gpt {
        for (at, bytes) in &table.writes {
            // An EBR far up is not found without the first sector; a backup GPT is.
            held.insert(*at..at.saturating_add(bytes.len() as u64));
        }
    }
    held.ranges().to_vec()
}

/// Where no old content of the target may stay, by the target's own geometry.
fn zeros(table: &TableRewrite, size: u64) -> RangeSet {
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
