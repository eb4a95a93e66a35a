// SPDX-License-Identifier: Apache-2.0
//! A disk's table out of what Clonezilla keeps of it: the first sectors, and sfdisk's and parted's listings.
//!
//! The backup GPT is made anew from the first one, and so is the chain of logical partitions: of the first only 32 of 33
//! sectors are kept, and of the second only the first record and where the partitions begin.

use super::assembled::Builder;
use super::folder::Folder;
use crate::parse::Bytes;
use crate::partition::{self, Partition, TableKind};
use crate::{Error, Result};

/// A disk's table.
pub(super) struct Table {
    /// Of the disk, in bytes.
    pub(super) size: u64,
    pub(super) sector_size: u32,
    pub(super) partitions: Vec<Partition>,
    /// The table's own bytes and what hides behind it, by their place.
    pub(super) pieces: Vec<(u64, Vec<u8>)>,
    pub(super) warnings: Vec<String>,
}

const SECTOR: usize = 512;
const ENTRIES: usize = 446;
/// GPT entries are 128 bytes, and rarely more than 128.
const MOST_ENTRIES: u64 = 4 << 20;

fn broken(because: impl Into<String>) -> Error {
    Error::malformed("reading the partition table", because.into())
}

/// The table of `disk`; `None` where it has none.
pub(super) fn read(folder: &Folder, disk: &str) -> Result<Option<Table>> {
    let file = |end: &str| format!("{}-{end}", disk.replace('/', "-"));
    let listed = Listed::parse(
        &folder.text(&file("pt.sf"))?.unwrap_or_default(),
        &folder.text(&file("pt.parted"))?.unwrap_or_default(),
    );
    let sector = u64::from(listed.sector_size);
    let mut pieces = Vec::new();
    let mut size = listed.size;
    if let Some(head) = folder.bytes(&file("gpt-1st"))? {
        let (backup, end) = backup(&head, sector)?;
        size = size.max(end);
        pieces = backup;
        pieces.push((0, head));
    } else if let Some(mut mbr) = folder.bytes(&file("mbr"))? {
        mbr.truncate(SECTOR);
        mbr.resize(SECTOR, 0);
        pieces.extend(records(&mbr, &listed)?);
        size = size.max(listed.end());
        let first = listed.partitions.iter().map(|one| one.start * sector).filter(|start| *start > 0).min();
        if let (Some(mut hidden), Some(first)) = (folder.bytes(&file("hidden-data-after-mbr"))?, first) {
            hidden.truncate(first.saturating_sub(SECTOR as u64) as usize);
            pieces.push((SECTOR as u64, hidden));
        }
        pieces.push((0, mbr));
    } else if listed.partitions.is_empty() {
        return Ok(None);
    } else {
        return Err(broken(format!("there is neither {} nor {}", file("mbr"), file("gpt-1st"))));
    }
    let mut draft = Builder::new(size, listed.sector_size);
    for (at, bytes) in &pieces {
        draft.bytes(*at, bytes.clone())?;
    }
    let table = partition::read(&draft.finish()?)?;
    if table.kind == TableKind::None {
        return Ok(None);
    }
    let (partitions, warnings) = (table.partitions, table.warnings);
    Ok(Some(Table { size, sector_size: table.sector_size, partitions, pieces, warnings }))
}

/// What sfdisk and parted list.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    size: u64,
    sector_size: u32,
    partitions: Vec<Line>,
}

/// A line of `sfdisk --dump`, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    number: u32,
    start: u64,
    len: u64,
    kind: u8,
    bootable: bool,
}

impl Listed {
    fn parse(sfdisk: &str, parted: &str) -> Self {
        let number = |text: &str| -> Option<u64> {
            let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        let after =
            |text: &str, key: &str| text.lines().find_map(|line| number(line.trim().strip_prefix(key)?));
        let sector = after(sfdisk, "sector-size:").or(after(parted, "Sector size (logical/physical):"));
        let sector_size = if sector == Some(4096) { 4096 } else { 512 };
        // "Disk /dev/sda: 16777216s"
        let size = parted.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("Disk /dev/")?;
            number(rest.split_once(':')?.1).filter(|sectors| *sectors <= 1 << 50)
        });
        let partitions = sfdisk.lines().filter_map(Line::parse).collect();
        let size = size.unwrap_or(0).saturating_mul(sector_size.into());
        Self { size, sector_size, partitions }
    }

    /// Behind the last partition, in bytes.
    fn end(&self) -> u64 {
        let ends = self.partitions.iter().map(|line| line.start.saturating_add(line.len));
        ends.max().unwrap_or(0).saturating_mul(self.sector_size.into())
    }
}

impl Line {
    /// "/dev/sda5 : start=  2048, size=  4096, type=83, bootable", and "Id=83" of older ones.
    fn parse(line: &str) -> Option<Self> {
        let (device, fields) = line.trim().strip_prefix("/dev/")?.split_once(':')?;
        let digits = device.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?;
        let mut found = Self { number: digits.parse().ok()?, start: 0, len: 0, kind: 0, bootable: false };
        for field in fields.split(',') {
            match field.split_once('=') {
                Some((key, value)) => match (key.trim(), value.trim()) {
                    ("start", value) => found.start = value.parse().ok()?,
                    ("size", value) => found.len = value.parse().ok()?,
                    ("Id" | "type", value) => found.kind = u8::from_str_radix(value, 16).unwrap_or(0),
                    _ => {}
                },
                None => found.bootable |= field.trim() == "bootable",
            }
        }
        // Within 2^50 sectors nothing below overflows.
        (found.len > 0 && found.start.max(found.len) <= 1 << 50).then_some(found)
    }
}

/// The extended boot records of logical partitions.
fn records(mbr: &[u8], listed: &Listed) -> Result<Vec<(u64, Vec<u8>)>> {
    let mbr = Bytes::new(mbr, "MBR");
    let mut container = None;
    for slot in 0..4 {
        let entry = mbr.sub(ENTRIES + 16 * slot, 16)?;
        if matches!(entry.u8(4)?, 0x05 | 0x0f | 0x85) {
            container = Some((u64::from(entry.u32_le(8)?), u64::from(entry.u32_le(12)?)));
        }
    }
    let mut logical: Vec<Line> = listed.partitions.iter().copied().filter(|line| line.number >= 5).collect();
    logical.sort_by_key(|line| line.number);
    let Some((base, len)) = container.filter(|_| !logical.is_empty()) else { return Ok(Vec::new()) };
    let end = base + len;
    // A record lies before its partition, the first one at the container's start, the others where partitions are usually aligned.
    let usual = (1 << 20) / u64::from(listed.sector_size);
    let mut places = Vec::new();
    for (index, line) in logical.iter().enumerate() {
        let before = logical.iter().map(|one| one.start + one.len).filter(|end| *end <= line.start).max();
        let free = before.unwrap_or(base + 1);
        let place = if index == 0 { base } else { free.max(line.start.saturating_sub(usual)) };
        if place >= line.start || line.start + line.len > end {
            return Err(broken(format!(
                "there is no room for the record of logical partition {}",
                line.number
            )));
        }
        places.push(place);
    }
    let mut pieces = Vec::new();
    for (index, (line, place)) in logical.iter().zip(&places).enumerate() {
        let mut record = vec![0; SECTOR];
        let mut put = |slot: usize, flag: u8, kind: u8, start: u64, len: u64| -> Result<()> {
            let field =
                |value: u64| u32::try_from(value).map_err(|_| broken("a logical partition is too large"));
            let mut entry = vec![flag, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff];
            entry.extend(field(start)?.to_le_bytes());
            entry.extend(field(len)?.to_le_bytes());
            let at = ENTRIES + 16 * slot;
            record.get_mut(at..at + 16).into_iter().for_each(|room| room.copy_from_slice(&entry));
            Ok(())
        };
        put(0, if line.bootable { 0x80 } else { 0 }, line.kind, line.start - place, line.len)?;
        if let (Some(next), Some(next_line)) = (places.get(index + 1), logical.get(index + 1)) {
            put(1, 0, 0x05, next - base, next_line.start + next_line.len - next)?;
        }
        record.get_mut(SECTOR - 2..).into_iter().for_each(|end| end.copy_from_slice(&[0x55, 0xaa]));
        pieces.push((place * u64::from(listed.sector_size), record));
    }
    Ok(pieces)
}

/// Bytes and where they stand on the disk.
type Piece = (u64, Vec<u8>);

/// The backup of the GPT in `head`, and where the disk ends.
fn backup(head: &[u8], sector: u64) -> Result<(Vec<Piece>, u64)> {
    let raw = Bytes::new(head, "GPT");
    let header = raw.sub(sector as usize, SECTOR)?;
    if header.slice(0, 8)? != b"EFI PART" {
        return Err(broken("the GPT that was saved is none"));
    }
    let (own, other, entries) = (header.u64_le(24)?, header.u64_le(32)?, header.u64_le(72)?);
    let len = u64::from(header.u32_le(80)?).saturating_mul(header.u32_le(84)?.into());
    let header_len = header.u32_le(12)? as usize;
    if own != 1
        || !(34..1 << 50).contains(&other)
        || len > MOST_ENTRIES
        || !(92..=SECTOR).contains(&header_len)
    {
        return Err(broken("the GPT that was saved makes no sense"));
    }
    // 34 sectors of 512 bytes do not hold all of a table in sectors of 4 KiB. Entries that nobody uses are zeros.
    let start = usize::try_from(entries.saturating_mul(sector)).unwrap_or(usize::MAX);
    let mut list = head.get(start..).unwrap_or_default().to_vec();
    list.resize(len as usize, 0);
    if crc32fast::hash(&list) != header.u32_le(88)? {
        return Err(broken("the entries of the GPT that was saved are not whole"));
    }
    let place = other.saturating_sub(len.div_ceil(sector));
    let mut copy = header.all().to_vec();
    let mut put = |at: usize, field: &[u8]| {
        copy.get_mut(at..at + field.len()).into_iter().for_each(|room| room.copy_from_slice(field));
    };
    put(24, &other.to_le_bytes());
    put(32, &own.to_le_bytes());
    put(72, &place.to_le_bytes());
    put(16, &[0; 4]);
    let sum = crc32fast::hash(copy.get(..header_len).unwrap_or_default());
    copy.get_mut(16..20).into_iter().for_each(|room| room.copy_from_slice(&sum.to_le_bytes()));
    Ok((vec![(place * sector, list), (other * sector, copy)], (other + 1) * sector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_old_and_new_sfdisk_are_read() {
        let new = "label: dos\ndevice: /dev/sda\nsector-size: 512\n\n/dev/sda1 : start=        2048, size=      204800, type=83, bootable\n/dev/sda5 : start=      208896, size=        4096, type=82\n";
        let old = "# partition table of /dev/sda\nunit: sectors\n\n/dev/sda1 : start=     2048, size=   204800, Id=83, bootable\n/dev/sda3 : start=        0, size=        0, Id= 0\n/dev/sda5 : start=   208896, size=     4096, Id=82\n";
        let parted = "Model: ATA QEMU HARDDISK (scsi)\nDisk /dev/sda: 1048576s\nSector size (logical/physical): 512B/512B\n";
        let listed = Listed::parse(new, parted);
        assert_eq!(listed, Listed::parse(old, parted));
        assert_eq!((listed.size, listed.sector_size), (512 << 20, 512));
        let first = Line { number: 1, start: 2048, len: 204_800, kind: 0x83, bootable: true };
        assert_eq!(listed.partitions[0], first);
        let nvme = Line::parse("/dev/nvme0n1p3 : start=1, size=2, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
        assert_eq!(nvme.unwrap().number, 3);
    }
}
