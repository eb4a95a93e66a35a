// SPDX-License-Identifier: Apache-2.0
//! A disk with 512-byte sectors on one with 4096, or back: what may move, what must be made anew, what cannot.

use unmoor_images::layout::{Content, Place, Region};
use unmoor_images::partition::{Partition, Role};
use unmoor_images::{Error, Result, ResultExt};

use crate::esp::{self, Remade};
use crate::image::Image;

/// Checks every filesystem against the target's sectors. EFI system partitions are made anew, see [`remake`].
///
/// # Errors
///
/// `Refused` for a filesystem that does not mount there: ext with blocks under 4 KiB, XFS with 512-byte sectors, FAT data.
pub(crate) fn check(
    image: &Image,
    sector_size: u32,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let source = image.table.sector_size;
    if source == sector_size {
        return Ok(());
    }
    notes.push(format!("the table is rewritten from {source}-byte to {sector_size}-byte sectors"));
    let remade: Vec<u32> = system_partitions(image).map(|partition| partition.number).collect();
    for region in &image.regions {
        check_region(region, sector_size, &remade, warnings)?;
    }
    Ok(())
}

/// Makes every EFI system partition anew that has other sectors than the target; `partitions` are the target's.
///
/// # Errors
///
/// `Refused` where one cannot be made: without it the machine would not boot.
pub(crate) fn remake(
    image: &Image,
    partitions: &[Partition],
    sector_size: u32,
    notes: &mut Vec<String>,
) -> Result<Vec<Remade>> {
    let mut all = Vec::new();
    if image.table.sector_size == sector_size {
        return Ok(all);
    }
    for old in system_partitions(image) {
        let Some(new) = partitions.iter().find(|new| new.number == old.number) else { continue };
        let range = |partition: &Partition| partition.start..partition.start.saturating_add(partition.len);
        let remade = esp::remake(&*image.source, range(old), range(new), sector_size)
            .doing(|| format!("making the EFI system partition {} anew", old.number))
            .map_err(|error| {
                Error::refused("moving to other sectors", "an EFI system partition cannot be taken along")
                    .source(error)
            })?;
        if let Some(remade) = remade {
            notes.push(format!(
                "the EFI system partition {} is made anew for {sector_size}-byte sectors, with the same serial number and files",
                old.number
            ));
            all.push(remade);
        }
    }
    Ok(all)
}

fn system_partitions(image: &Image) -> impl Iterator<Item = &Partition> {
    image.table.partitions.iter().filter(|partition| partition.role == Role::Esp)
}

fn check_region(region: &Region, sector_size: u32, remade: &[u32], warnings: &mut Vec<String>) -> Result<()> {
    if let (Place::Disk { partition: Some(number), .. }, Content::Filesystem(facts)) =
        (&region.place, &region.content)
        && remade.contains(number)
        && facts.kind.name() == "vfat"
    {
        return Ok(());
    }
    match &region.content {
        Content::Filesystem(facts) if facts.max_sector_size < sector_size => {
            return Err(Error::refused(
                "moving to larger sectors",
                format!(
                    "the {} {} is made for sectors of at most {} bytes and would not mount on {sector_size}: restore to a disk \
                     with 512-byte sectors (512n or 512e), or copy its files into a new one",
                    facts.kind.name(),
                    place(&region.place),
                    facts.max_sector_size
                ),
            ));
        }
        Content::Luks { .. } => warnings.push(format!(
            "what is inside the LUKS {} cannot be seen; a filesystem in it that is made for 512-byte sectors will not mount",
            place(&region.place)
        )),
        _ => {}
    }
    region.children.iter().try_for_each(|child| check_region(child, sector_size, remade, warnings))
}

fn place(place: &Place) -> String {
    match place {
        Place::Disk { partition: Some(number), .. } => format!("in partition {number}"),
        Place::Disk { offset, .. } => format!("at {offset:#x}"),
        Place::LogicalVolume { vg, lv, .. } => format!("in {vg}/{lv}"),
        Place::Md { uuid, .. } => format!("in the md array {uuid}"),
    }
}
