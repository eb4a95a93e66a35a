// SPDX-License-Identifier: Apache-2.0
//! A GPT for another disk (UEFI 2.10, section 5.3).

use super::place::{Piece, Room, place};
use super::{Options, TableRewrite, put, refused, stale, to_sectors, usage};
use crate::Result;
use crate::parse::Bytes;
use crate::partition::gpt::{Copy, Gpt, HEADER_BYTES, Slot, guid_text, header_checksum};
use crate::partition::mbr::{self, ENTRIES, PROTECTIVE};

/// Types that lose by growing: nothing but their owner can use the new room.
const FIXED: &[(&str, &str)] = &[
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "it is an EFI system partition"),
    ("21686148-6449-6e6f-744e-656564454649", "it holds boot code"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "it is Windows' reserved partition"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "it is a Windows recovery partition"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "it is swap"),
];

/// Where the parts of the new table go, in target sectors.
struct Geometry {
    /// Sectors of the target.
    total: u64,
    /// Sectors of an entry array.
    array: u64,
    entries: u64,
    first_usable: u64,
    backup: u64,
    backup_entries: u64,
    last_usable: u64,
}

pub(super) fn plan(table: &Gpt, source_size: u64, options: &Options) -> Result<TableRewrite> {
    let sector = u64::from(options.sector_size);
    let used = &table.used;
    let mut notes = Vec::new();
    let geometry = geometry(table, options)?;

    let mut pieces = Vec::new();
    for slot in used.slots() {
        let Some((start, end)) = span(&slot, table.sector) else {
            if table.sector != sector {
                return Err(refused(format!("partition {} ends before it starts", slot.number)));
            }
            continue;
        };
        if start >= source_size {
            notes.push(format!("partition {} lies beyond the end of the source and stays so", slot.number));
            if table.sector != sector {
                return Err(refused(format!("partition {} lies beyond the end of the source", slot.number)));
            }
            continue;
        }
        to_sectors(start, sector, || format!("partition {} starts", slot.number))?;
        to_sectors(end, sector, || format!("partition {} ends", slot.number))?;
        let kind = guid_text(&slot.kind);
        let fixed = FIXED.iter().find(|(fixed, _)| *fixed == kind).map(|(_, why)| *why);
        pieces.push(Piece { number: slot.number, start, len: end - start, lead: 0, fixed });
    }
    let old = pieces.clone();
    let room = Room {
        end: geometry.backup_entries * sector,
        tail: (geometry.array + 1) * sector,
        obstacles: Vec::new(),
    };
    place(&mut pieces, &room, options, &mut notes)?;
    check_front(&pieces, &old, &geometry, sector, table.sector != sector)?;

    let mut entries = used.entries.clone();
    entries.resize((geometry.array * sector) as usize, 0);
    for piece in &pieces {
        let at = used.entry_size * (piece.number as usize - 1);
        put(&mut entries, at + 32, &(piece.start / sector).to_le_bytes())?;
        put(&mut entries, at + 40, &(piece.end() / sector - 1).to_le_bytes())?;
    }
    let furthest = pieces.iter().map(|piece| piece.end() / sector - 1).max().unwrap_or(0);
    let last_usable = geometry.last_usable.max(furthest);
    // A used backup is the template of both; a damaged copy is replaced.
    let backup = table.backup.as_ref().unwrap_or(used);
    let ends = (geometry.first_usable, last_usable);
    let sum = crc32fast::hash(entries.get(..used.count * used.entry_size).unwrap_or(&entries));
    let primary_header = header(used, sector, [1, geometry.backup, geometry.entries], ends, used, sum)?;
    let backup_header =
        header(backup, sector, [geometry.backup, 1, geometry.backup_entries], ends, used, sum)?;

    let mut boot = table.boot.clone();
    boot.resize(sector as usize, 0);
    if table.sector != sector {
        boot.get_mut(mbr::SECTOR..).unwrap_or_default().fill(0);
    }
    protect(&mut boot, table, source_size, geometry.total, &old, &pieces, options)?;
    let writes = vec![
        (0, boot),
        (sector, primary_header),
        (geometry.entries * sector, entries.clone()),
        (geometry.backup_entries * sector, entries),
        (geometry.backup * sector, backup_header),
    ];
    if table.from_backup {
        notes.push("the damaged primary GPT is written anew from the backup".to_owned());
    } else if table.backup.is_none() {
        notes.push("the damaged or missing backup GPT is written anew from the primary".to_owned());
    }
    if (table.from_backup || table.backup.is_some()) && geometry.backup * sector != backup.lba * table.sector
    {
        notes
            .push(format!("the backup GPT goes to the end of the target, byte {}", geometry.backup * sector));
    }
    if table.sector != sector {
        notes.push(format!("the table is rewritten from {}-byte to {sector}-byte sectors", table.sector));
        if sector == 4096 {
            notes.push(
                "boot code for BIOS counts 512-byte sectors: the target can boot with UEFI only".to_owned(),
            );
        }
    }
    let keep = old.iter().map(|piece| piece.start..piece.end());
    let clear = stale(table.places(source_size), &writes, keep, options.size);
    Ok(TableRewrite { writes, clear, partitions: Vec::new(), notes })
}

/// First byte, and first byte after it.
fn span(slot: &Slot, sector: u64) -> Option<(u64, u64)> {
    let start = slot.first.checked_mul(sector)?;
    let end = slot.last.checked_add(1)?.checked_mul(sector)?;
    (start < end).then_some((start, end))
}

fn geometry(table: &Gpt, options: &Options) -> Result<Geometry> {
    let sector = u64::from(options.sector_size);
    let used = &table.used;
    let total = options.size / sector;
    let array = (used.entry_bytes().len() as u64).div_ceil(sector);
    // Some boards have the array moved up, to make room for boot code (`sgdisk --move-main-table`): it stays there.
    let entries = if table.from_backup || used.entries_lba == 2 {
        2
    } else {
        to_sectors(used.entries_lba.saturating_mul(table.sector), sector, || {
            "the array of GPT entries starts".to_owned()
        })?
    };
    let first_usable = if table.sector == sector {
        used.first_usable
    } else {
        used.first_usable.saturating_mul(table.sector).div_ceil(sector).max(entries.saturating_add(array))
    };
    let smallest = entries.max(2).saturating_add(2 * array).saturating_add(2);
    if total < smallest {
        return Err(usage(format!("{} bytes are too few for a GPT", options.size)));
    }
    let at_end = total - 1;
    // With the backup where it was, the slack that some tools leave below it stays too.
    let (current, current_entries) = match (&table.backup, table.from_backup) {
        (Some(backup), _) => (backup.lba, backup.entries_lba),
        (None, true) => (used.lba, used.entries_lba),
        (None, false) => (0, 0),
    };
    // Two valid copies may differ in length: the array written must fit where the backup's was.
    let fits = current_entries >= entries + array
        && current_entries.checked_add(array).is_some_and(|end| end <= at_end);
    let unmoved = table.sector == sector && current == at_end && fits;
    let backup_entries = if unmoved { current_entries } else { at_end - array };
    let last_usable = if unmoved { used.last_usable.min(backup_entries - 1) } else { backup_entries - 1 };
    if first_usable > last_usable {
        return Err(usage(format!("{} bytes are too few for this GPT", options.size)));
    }
    Ok(Geometry { total, array, entries, first_usable, backup: at_end, backup_entries, last_usable })
}

/// Partitions must not touch the table, and begin behind it unless they did not do so in the source either.
fn check_front(
    pieces: &[Piece],
    old: &[Piece],
    geometry: &Geometry,
    sector: u64,
    translated: bool,
) -> Result<()> {
    let front = geometry.first_usable.saturating_mul(sector);
    let array = geometry.entries * sector..(geometry.entries + geometry.array) * sector;
    for (new, old) in pieces.iter().zip(old) {
        if new.start < array.end && new.end() > array.start {
            return Err(refused(format!("partition {} would overlap the array of GPT entries", new.number)));
        }
        if new.start < front && (translated || new.start != old.start) {
            return Err(refused(format!(
                "partition {} starts at byte {}, before the first byte {front} behind the table",
                new.number, new.start
            )));
        }
    }
    Ok(())
}

/// A header from the bytes of `template`. `[own, alternate, entries]` and `ends` are sectors of the target.
fn header(
    template: &Copy,
    sector: u64,
    [own, alternate, entries]: [u64; 3],
    (first_usable, last_usable): (u64, u64),
    used: &Copy,
    entries_checksum: u32,
) -> Result<Vec<u8>> {
    let mut raw = template.raw.clone();
    let size = template.header_size.min(sector as usize).max(HEADER_BYTES);
    if raw.len() != sector as usize {
        raw.truncate(size);
        raw.resize(sector as usize, 0);
        put(&mut raw, 12, &(size as u32).to_le_bytes())?;
    }
    put(&mut raw, 24, &own.to_le_bytes())?;
    put(&mut raw, 32, &alternate.to_le_bytes())?;
    put(&mut raw, 40, &first_usable.to_le_bytes())?;
    put(&mut raw, 48, &last_usable.to_le_bytes())?;
    put(&mut raw, 56, &used.disk_guid)?;
    put(&mut raw, 72, &entries.to_le_bytes())?;
    put(&mut raw, 80, &(used.count as u32).to_le_bytes())?;
    put(&mut raw, 84, &(used.entry_size as u32).to_le_bytes())?;
    put(&mut raw, 88, &entries_checksum.to_le_bytes())?;
    let sum = header_checksum(Bytes::new(&raw, "GPT header").slice(0, size)?);
    put(&mut raw, 16, &sum.to_le_bytes())?;
    Ok(raw)
}

/// Fits the protective entry, and hybrid entries with the partitions that they repeat.
fn protect(
    boot: &mut [u8],
    table: &Gpt,
    source_size: u64,
    total: u64,
    old: &[Piece],
    new: &[Piece],
    options: &Options,
) -> Result<()> {
    let sector = u64::from(options.sector_size);
    let entries = mbr::entries(Bytes::new(boot, "MBR"))?;
    let hybrid = entries.iter().any(|entry| entry.kind != PROTECTIVE && entry.count != 0);
    for (entry, index) in entries.iter().zip(0usize..).filter(|(entry, _)| entry.count != 0) {
        let at = ENTRIES + 16 * index;
        let end = u64::from(entry.start) + u64::from(entry.count);
        if entry.kind == PROTECTIVE && entry.start <= 1 {
            // Some tools write the largest size whatever the disk has, which the specification allows. In a hybrid
            // MBR the entry may cover only what precedes the first partition listed.
            let covers_disk = !hybrid || end == source_size / table.sector;
            if entry.count != u32::MAX {
                let end = if covers_disk { total } else { end * table.sector / sector };
                let count = u32::try_from(end.saturating_sub(u64::from(entry.start))).unwrap_or(u32::MAX);
                replace(boot, at, entry, (entry.start, count))?;
            }
            continue;
        }
        let start = u64::from(entry.start) * table.sector;
        let len = u64::from(entry.count) * table.sector;
        let same = old.iter().zip(new).find(|(old, _)| old.start == start && old.len == len);
        let (start, len) = same.map_or((start, len), |(_, new)| (new.start, new.len));
        let what = || format!("entry {} of the hybrid MBR starts or ends", index + 1);
        let place = (to_sectors(start, sector, what)?, to_sectors(len, sector, what)?);
        let (Ok(start), Ok(count)) = (u32::try_from(place.0), u32::try_from(place.1)) else {
            return Err(refused(format!("entry {} of the hybrid MBR would pass 2^32 sectors", index + 1)));
        };
        replace(boot, at, entry, (start, count))?;
    }
    Ok(())
}

/// Gives an MBR or EBR entry a new place. Addresses that change get the cylinder-head-sector values that mean "too
/// large, use the others".
pub(super) fn replace(
    record: &mut [u8],
    at: usize,
    old: &mbr::Entry,
    (start, count): (u32, u32),
) -> Result<()> {
    const BEYOND: [u8; 3] = [0xfe, 0xff, 0xff];
    if start != old.start {
        put(record, at + 1, &BEYOND)?;
    }
    if (start, count) != (old.start, old.count) {
        put(record, at + 5, &BEYOND)?;
        put(record, at + 8, &start.to_le_bytes())?;
        put(record, at + 12, &count.to_le_bytes())?;
    }
    Ok(())
}
