// SPDX-License-Identifier: Apache-2.0
//! Other identities as bytes of the disks, made when all else is done.
//!
//! ```text
//!   check      is everything still what the plan was made for?      before the first file is written
//!   filesystem on its own device, which writes to every copy         unmounted, devices still there
//!   writes     containers, groups, arrays, tables: on the disks      devices gone
//! ```

use unmoor_images::filesystem;
use unmoor_images::identity::Writes;
use unmoor_images::layout::{self, DiskLayout, Place};
use unmoor_images::partition::{self, identity::NewIdentity};
use unmoor_images::volume::{luks, lvm, md};
use unmoor_images::{BlockSource, Error, Result, ResultExt};

use crate::plan::{Identified, IdentityEdit};

const DOING: &str = "changing identities on the disks";

/// Bytes of disks: number, first byte, bytes.
pub type DiskWrites = Vec<(usize, u64, Vec<u8>)>;

/// Holds everything that is to get another identity against what is planned for it.
///
/// # Errors
///
/// `Refused` where something has another identity than the plan was made for.
pub fn check(edits: &[IdentityEdit], disks: &[&dyn BlockSource], layouts: &[DiskLayout]) -> Result<()> {
    for edit in edits {
        let same = match &edit.of {
            Identified::Filesystem { disk, place, old, .. } => {
                let source = layout::open(disks, layouts, *disk, place)?;
                filesystem::probe(&source)?.and_then(|facts| facts.uuid).as_ref() == Some(old)
            }
            Identified::Luks { disk, place, old, .. } => {
                let source = layout::open(disks, layouts, *disk, place)?;
                luks::probe(&source)?.and_then(|found| found.uuid).as_ref() == Some(old)
            }
            Identified::Md { members, old, .. } => members.iter().try_fold(true, |same, (disk, place)| {
                let source = layout::open(disks, layouts, *disk, place)?;
                Ok::<_, Error>(same && md::probe(&source)?.is_some_and(|member| member.array_uuid == *old))
            })?,
            Identified::VolumeGroup { volumes, ids, .. } => {
                let opened = volumes
                    .iter()
                    .map(|(disk, place)| layout::open(disks, layouts, *disk, place))
                    .collect::<Result<Vec<_>>>()?;
                let opened: Vec<&dyn BlockSource> = opened.iter().map(|volume| volume as _).collect();
                lvm::ids(&opened)? == ids.iter().map(|(old, _)| old.clone()).collect::<Vec<_>>()
            }
            Identified::Table { disk, old, partitions, .. } => {
                let source = disks.get(*disk).ok_or_else(|| missing(*disk))?;
                let table = partition::read(*source)?;
                let has = |number: u32, id: &String| {
                    let found = table.partitions.iter().find(|partition| partition.number == number);
                    found.is_some_and(|partition| partition.partuuid.as_ref() == Some(id))
                };
                table.disk_id.as_ref() == Some(old)
                    && partitions.iter().all(|(number, old, _)| has(*number, old))
            }
        };
        if !same {
            return Err(Error::refused(
                "applying the plan",
                format!(
                    "{} has another identity than when the plan was made: make a new plan",
                    edit.of.what()
                ),
            ));
        }
    }
    Ok(())
}

fn missing(disk: usize) -> Error {
    Error::malformed(DOING, format!("there is no disk {disk}"))
}

/// What to write to the device of the filesystem or swap area that `of` is, which `source` reads.
///
/// # Errors
///
/// As `unmoor_images::filesystem::identity::change`; `Refused` where it has another UUID than the one that was planned for.
pub fn filesystem_writes(source: &dyn BlockSource, of: &Identified) -> Result<Writes> {
    let Identified::Filesystem { old, new, .. } = of else { return Ok(Writes::new()) };
    let doing = || format!("changing the UUID of {}", of.what());
    let bytes = uuid_bytes(new).ok_or_else(|| Error::malformed(doing(), format!("{new} is no UUID")))?;
    let change = filesystem::identity::change(source, &bytes).doing(doing)?;
    if change.old != *old || !change.new.eq_ignore_ascii_case(new) {
        return Err(Error::refused(
            doing(),
            format!("it has {}, and the plan was made for {old}", change.old),
        ));
    }
    Ok(change.writes)
}

/// What to write to the disks for anything but a filesystem.
///
/// # Errors
///
/// `Refused` where it cannot be changed any more; `Malformed`.
pub fn writes(disks: &[&dyn BlockSource], layouts: &[DiskLayout], of: &Identified) -> Result<DiskWrites> {
    let doing = || format!("changing the identity of {}", of.what());
    let spread = |disk: usize, place: &Place, writes: Writes| spread(disks, layouts, disk, place, writes);
    let open = |disk: usize, place: &Place| layout::open(disks, layouts, disk, place);
    match of {
        Identified::Filesystem { .. } => Ok(DiskWrites::new()),
        Identified::Luks { disk, place, new, .. } => {
            let bytes = uuid_bytes(new).ok_or_else(|| Error::malformed(doing(), "the new one is no UUID"))?;
            let change = luks::change(&open(*disk, place)?, &bytes).doing(doing)?;
            spread(*disk, place, change.writes)
        }
        Identified::Md { members, new, .. } => {
            let bytes = uuid_bytes(new).ok_or_else(|| Error::malformed(doing(), "the new one is no UUID"))?;
            let mut all = DiskWrites::new();
            for (disk, place) in members {
                let change = md::change(&open(*disk, place)?, &bytes).doing(doing)?;
                all.extend(spread(*disk, place, change.writes)?);
            }
            Ok(all)
        }
        Identified::VolumeGroup { volumes, ids, .. } => {
            let opened =
                volumes.iter().map(|(disk, place)| open(*disk, place)).collect::<Result<Vec<_>>>()?;
            let opened: Vec<&dyn BlockSource> = opened.iter().map(|volume| volume as _).collect();
            let mut all = DiskWrites::new();
            for (number, at, bytes) in lvm::change(&opened, ids).doing(doing)?.writes {
                if let Some((disk, place)) = volumes.get(number) {
                    all.extend(spread(*disk, place, vec![(at, bytes)])?);
                }
            }
            Ok(all)
        }
        Identified::Table { disk, .. } => {
            let source = disks.get(*disk).ok_or_else(|| missing(*disk))?;
            let writes = table_writes(*source, of).doing(doing)?;
            Ok(writes.into_iter().map(|(at, bytes)| (*disk, at, bytes)).collect())
        }
    }
}

pub(super) fn table_writes(source: &dyn BlockSource, of: &Identified) -> Result<Writes> {
    let Identified::Table { new, partitions, .. } = of else { return Ok(Writes::new()) };
    let no_id = |text: &str| Error::malformed(DOING, format!("{text} is no identity"));
    let identity = if new.len() == 8 {
        NewIdentity::Mbr(u32::from_str_radix(new, 16).map_err(|_| no_id(new))?)
    } else {
        let bytes = |text: &str| uuid_bytes(text).ok_or_else(|| no_id(text));
        let partition = |(number, _, new): &(u32, String, String)| Ok((*number, bytes(new)?));
        NewIdentity::Gpt {
            disk: bytes(new)?,
            partitions: partitions.iter().map(partition).collect::<Result<_>>()?,
        }
    };
    partition::identity::change(source, &identity)
}

/// Writes to a place as writes to the disks: to every copy of a mirrored array, and through a logical volume's map.
fn spread(
    disks: &[&dyn BlockSource],
    layouts: &[DiskLayout],
    disk: usize,
    place: &Place,
    writes: Writes,
) -> Result<DiskWrites> {
    let mapped = layout::open(disks, layouts, disk, place)?;
    let mut all = DiskWrites::new();
    for (at, bytes) in writes {
        let mut rest = bytes.as_slice();
        for (disk, start, len) in mapped.resolve(at, bytes.len() as u64) {
            let (piece, later) = rest.split_at((len as usize).min(rest.len()));
            rest = later;
            all.push((disk, start, piece.to_vec()));
        }
        if !rest.is_empty() {
            return Err(Error::malformed(DOING, "something to be written lies outside of its place").at(at));
        }
    }
    let copies: DiskWrites = all
        .iter()
        .flat_map(|(disk, at, bytes)| {
            mirrors(layouts, *disk, *at, bytes.len() as u64)
                .into_iter()
                .map(|(disk, at)| (disk, at, bytes.clone()))
        })
        .collect();
    all.extend(copies);
    Ok(all)
}

/// Where else `len` bytes at `at` of a disk lie, if they are a mirrored array's.
fn mirrors(layouts: &[DiskLayout], disk: usize, at: u64, len: u64) -> Vec<(usize, u64)> {
    let arrays = || {
        layouts.iter().enumerate().flat_map(|(disk, layout)| {
            layout.all_regions().filter_map(move |region| match &region.place {
                Place::Md { uuid, offset, len, .. } => Some((disk, uuid.as_str(), *offset, *len)),
                _ => None,
            })
        })
    };
    let own = arrays().find(|(number, _, offset, whole)| {
        *number == disk && at >= *offset && at.saturating_add(len) <= offset.saturating_add(*whole)
    });
    let Some((_, uuid, first, _)) = own else { return Vec::new() };
    let mut found = Vec::new();
    for (number, _, offset, _) in arrays().filter(|(_, other, ..)| *other == uuid) {
        let copy = (number, offset.saturating_add(at - first));
        if copy != (disk, at) && !found.contains(&copy) {
            found.push(copy);
        }
    }
    found
}

/// The bytes of a UUID in the order of its text, of any spelling; of FAT's serial number as it stands on disk.
fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let hex: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'-' | b':')).collect();
    let mut bytes = [0; 16];
    let digits = hex.len() / 2;
    if hex.len() != 32 && hex.len() != 8 {
        return None;
    }
    for (to, pair) in bytes.iter_mut().zip(hex.chunks(2)) {
        *to = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    if digits == 4 {
        bytes.get_mut(..4)?.reverse();
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_in_every_spelling() {
        let bytes = uuid_bytes("01234567-89ab-cdef-0123-456789abcdef").unwrap();
        assert_eq!(bytes[..4], [0x01, 0x23, 0x45, 0x67]);
        assert_eq!(uuid_bytes("01234567:89abcdef:01234567:89abcdef"), Some(bytes));
        assert_eq!(uuid_bytes("1A2B-3C4D").unwrap()[..4], [0x4d, 0x3c, 0x2b, 0x1a]);
        assert_eq!(uuid_bytes("1A2B"), None);
        assert_eq!(uuid_bytes("x1234567-89ab-cdef-0123-456789abcdef"), None);
    }
}
