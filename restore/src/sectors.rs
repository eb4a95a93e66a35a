// SPDX-License-Identifier: Apache-2.0
//! A disk with 512-byte sectors on one with 4096, or back: what may move, what must be made anew, what cannot.

use unmoor_images::layout::{Content, Place, Region};
use unmoor_images::{Error, Result};

use crate::image::Image;
use crate::view::Patch;

/// Checks every filesystem against the target's sectors and remakes EFI system partitions.
///
/// # Errors
///
/// `Refused` for a filesystem that does not mount there: ext with blocks under 4 KiB, XFS with 512-byte sectors, FAT data.
pub(crate) fn check(
    image: &Image,
    sector_size: u32,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Patch>> {
    let source = image.table.sector_size;
    if source == sector_size {
        return Ok(Vec::new());
    }
    notes.push(format!("the table is rewritten from {source}-byte to {sector_size}-byte sectors"));
    for region in &image.regions {
        check_region(region, sector_size, warnings)?;
    }
    Ok(Vec::new())
}

fn check_region(region: &Region, sector_size: u32, warnings: &mut Vec<String>) -> Result<()> {
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
    region.children.iter().try_for_each(|child| check_region(child, sector_size, warnings))
}

fn place(place: &Place) -> String {
    match place {
        Place::Disk { partition: Some(number), .. } => format!("in partition {number}"),
        Place::Disk { offset, .. } => format!("at {offset:#x}"),
        Place::LogicalVolume { vg, lv, .. } => format!("in {vg}/{lv}"),
        Place::Md { uuid, .. } => format!("in the md array {uuid}"),
    }
}
