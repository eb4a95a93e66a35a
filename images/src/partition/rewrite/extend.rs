// SPDX-License-Identifier: Apache-2.0
//! Partitions added to a disk, and an MBR that becomes a GPT for it (UEFI 2.10, section 5.3).
//!
//! Numbers stay: a logical partition 5 is entry 5 of the GPT, and the extended partition's entry stays empty, so that
//! "/dev/sda5" goes on to mean what it meant. What else is on the disk stays where it is.

use std::ops::Range;

use super::{Options, Placement, TableRewrite, human, put, refused, stale, usage};
use crate::parse::{Bytes, guid_bytes};
use crate::partition::gpt::{HEADER_BYTES, header_checksum};
use crate::partition::mbr::{self, ENTRIES, PROTECTIVE};
use crate::partition::{Partition, Role, TableKind, detect};
use crate::{BlockSource, Result};

/// Type of an EFI system partition.
pub const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Type of a partition for GRUB's core image.
pub const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";

const ENTRY_BYTES: usize = 128;
const COUNT: usize = 128;

/// A partition that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPartition {
    /// Its number; `None` takes the lowest that is free.
    pub number: Option<u32>,
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// Type GUID.
    pub type_id: String,
    /// Its own GUID, as 16 bytes in the order of the text.
    pub guid: [u8; 16],
    /// At most 36 UTF-16 units.
    pub name: String,
}

/// What a disk's table is to become.
#[derive(Debug, Clone, Default)]
pub struct Extension {
    /// Size of the target in bytes.
    pub size: u64,
    /// Partitions that become shorter: number and new length in bytes.
    pub shorten: Vec<(u32, u64)>,
    /// Partitions to make.
    pub add: Vec<NewPartition>,
    /// The first 440 bytes of the disk; `None` keeps them.
    pub boot_code: Option<Vec<u8>>,
    /// GUIDs for a GPT that is made of an MBR: the disk's, and that of each partition by its number.
    pub disk_guid: [u8; 16],
    /// See `disk_guid`; a partition without one here is an error.
    pub guids: Vec<(u32, [u8; 16])>,
}

/// Types of MBR partitions, as GPT knows them, and the name that the partition gets (sgdisk and sfdisk agree on these).
const TYPES: &[(&str, &str, &str)] = &[
    ("0x83", "0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux filesystem"),
    ("0x82", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("0x8e", "e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("0xfd", "a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("0xef", ESP, "EFI system partition"),
    ("0x27", "de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows RE"),
    ("0x01", MICROSOFT, "Microsoft basic data"),
    ("0x04", MICROSOFT, "Microsoft basic data"),
    ("0x06", MICROSOFT, "Microsoft basic data"),
    ("0x07", MICROSOFT, "Microsoft basic data"),
    ("0x0b", MICROSOFT, "Microsoft basic data"),
    ("0x0c", MICROSOFT, "Microsoft basic data"),
    ("0x0e", MICROSOFT, "Microsoft basic data"),
];
const MICROSOFT: &str = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";

/// Bytes that a GPT takes at the start of a disk, and at its end.
pub fn gpt_ends(sector_size: u32) -> (u64, u64) {
    let sector = u64::from(sector_size.max(512));
    let array = ((COUNT * ENTRY_BYTES) as u64).next_multiple_of(sector);
    (2 * sector + array, sector + array)
}

/// Plans a GPT for the disk: its own with what `extension` adds, or one made of its MBR.
///
/// # Errors
///
/// `Refused` where something does not fit (it says by how many bytes), overlaps, or has a number over 128; `Usage` for a
/// disk without a table and for GUIDs that are missing.
pub fn to_gpt(source: &dyn BlockSource, extension: &Extension) -> Result<TableRewrite> {
    let found = detect::detect(source)?;
    let mut rewrite = match found {
        detect::Found::Gpt(table) => {
            let sector_size = table.sector as u32;
            let placements = extension.shorten.iter().map(|&(number, len)| Placement {
                number,
                start: None,
                len: Some(len),
            });
            let placements = placements.collect();
            let options = Options { size: extension.size, sector_size, placements, ..Options::default() };
            super::gpt::plan(&table, source.size(), &options)?
        }
        detect::Found::Mbr(table) => converted(&table, source.size(), extension)?,
        detect::Found::Nothing(_) => return Err(usage("the disk has no partition table")),
    };
    let sector_size = source.sector_size();
    let mut entries = Table::of(&rewrite, sector_size)?;
    for new in &extension.add {
        let number = entries.add(new)?;
        rewrite.notes.push(format!(
            "partition {number}: {}, {} from byte {}",
            new.name,
            human(new.range.end - new.range.start),
            new.range.start
        ));
    }
    entries.store(&mut rewrite.writes)?;
    if let (Some(code), Some((_, first))) = (&extension.boot_code, rewrite.writes.first_mut()) {
        put(first, 0, code.get(..440).unwrap_or(code))?;
    }
    let target = super::Planned { writes: &rewrite.writes, size: extension.size, sector_size };
    let table = crate::partition::read(&target)?;
    if table.kind != TableKind::Gpt {
        return Err(crate::Error::malformed(super::DOING, "the planned table does not read back as a GPT"));
    }
    check(&table.partitions, sector_size, extension.size)?;
    rewrite.partitions = table.partitions;
    Ok(rewrite)
}

/// No two partitions may share bytes, and none the table's.
fn check(partitions: &[Partition], sector_size: u32, size: u64) -> Result<()> {
    let (head, tail) = gpt_ends(sector_size);
    let mut end = head;
    let mut before = "the table".to_owned();
    for partition in partitions {
        if partition.start < end {
            return Err(refused(format!(
                "partition {} begins {} before the end of {before}",
                partition.number,
                human(end - partition.start)
            )));
        }
        end = partition.start.saturating_add(partition.len);
        before = format!("partition {}", partition.number);
    }
    let limit = size.saturating_sub(tail);
    if end > limit {
        return Err(refused(format!(
            "{before} ends {} too late for the second copy of a GPT at the end of the disk; a disk of at least {} is needed",
            human(end - limit),
            human(end.saturating_add(tail))
        )));
    }
    Ok(())
}

/// A GPT of an MBR's partitions, in the form that [`super::gpt::plan`] answers in.
fn converted(table: &mbr::Mbr, source_size: u64, extension: &Extension) -> Result<TableRewrite> {
    if !table.broken.is_empty() {
        return Err(refused("the chain of logical partitions is broken: repair it first (sfdisk, testdisk)"));
    }
    let (sector, total) = (table.sector, extension.size / table.sector);
    let (head, tail) = gpt_ends(sector as u32);
    if extension.size < head + tail {
        return Err(usage(format!("{} bytes are too few for a GPT", extension.size)));
    }
    let mut boot = table.raw.clone();
    // The signature of an MBR disk has no meaning beside a GPT ("unique MBR disk signature: unused").
    put(&mut boot, 440, &[0; 6])?;
    put(&mut boot, ENTRIES, &[0; 64])?;
    put(&mut boot, ENTRIES, &[0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff, 1, 0, 0, 0])?;
    put(&mut boot, ENTRIES + 12, &u32::try_from(total - 1).unwrap_or(u32::MAX).to_le_bytes())?;
    let ends = (head / sector, total - tail / sector - 1);
    let array = (COUNT * ENTRY_BYTES).next_multiple_of(sector as usize);
    let backup_entries = total - tail / sector;
    let header = |own: u64, alternate: u64, entries: u64| -> Result<Vec<u8>> {
        let mut raw = vec![0; sector as usize];
        put(&mut raw, 0, b"EFI PART")?;
        put(&mut raw, 8, &[0, 0, 1, 0, HEADER_BYTES as u8])?;
        for (at, value) in [(24, own), (32, alternate), (40, ends.0), (48, ends.1), (72, entries)] {
            put(&mut raw, at, &value.to_le_bytes())?;
        }
        put(&mut raw, 56, &guid_bytes(&extension.disk_guid))?;
        put(&mut raw, 80, &(COUNT as u32).to_le_bytes())?;
        put(&mut raw, 84, &(ENTRY_BYTES as u32).to_le_bytes())?;
        Ok(raw)
    };
    let writes = vec![
        (0, boot),
        (sector, header(1, total - 1, 2)?),
        (2 * sector, vec![0; array]),
        (backup_entries * sector, vec![0; array]),
        ((total - 1) * sector, header(total - 1, 1, backup_entries)?),
    ];
    let mut notes = vec!["the MBR becomes a GPT, with the same partition numbers".to_owned()];
    let (places, partitions) = (table.places().collect::<Vec<_>>(), table.partitions(source_size));
    let mut entries = Table { sector, count: COUNT, size: ENTRY_BYTES, array: vec![0; array] };
    for partition in partitions.iter().filter(|partition| partition.role != Role::Extended) {
        let (_, type_id, name) =
            TYPES.iter().find(|(kind, ..)| *kind == partition.type_id).copied().unwrap_or_else(|| {
                notes.push(format!(
                    "partition {} has the type {}, which GPT has no name for: it becomes a Linux filesystem's",
                    partition.number, partition.type_id
                ));
                TYPES.first().copied().unwrap_or(("", "", ""))
            });
        let guid = extension.guids.iter().find(|(number, _)| *number == partition.number);
        let guid = guid.ok_or_else(|| usage(format!("partition {} gets no GUID", partition.number)))?.1;
        let shorter = extension.shorten.iter().find(|(number, _)| *number == partition.number);
        let len = shorter.map_or(partition.len, |(_, len)| partition.len.min(*len));
        entries.add(&NewPartition {
            number: Some(partition.number),
            range: partition.start..partition.start.saturating_add(len),
            type_id: type_id.to_owned(),
            guid,
            name: name.to_owned(),
        })?;
    }
    let keep = partitions.iter().filter(|partition| partition.role != Role::Extended);
    let keep = keep.map(|partition| partition.start..partition.start.saturating_add(partition.len));
    let clear = stale(places, &writes, keep, extension.size);
    let mut rewrite = TableRewrite { writes, clear, partitions: Vec::new(), notes };
    entries.store(&mut rewrite.writes)?;
    Ok(rewrite)
}

/// The array of entries of a planned GPT.
struct Table {
    sector: u64,
    count: usize,
    size: usize,
    array: Vec<u8>,
}

impl Table {
    fn of(rewrite: &TableRewrite, sector_size: u32) -> Result<Self> {
        let [_, (_, header), (_, array), ..] = rewrite.writes.as_slice() else {
            return Err(usage("the table has no header"));
        };
        let header = Bytes::new(header, "GPT header");
        Ok(Self {
            sector: sector_size.into(),
            count: header.u32_le(80)? as usize,
            size: header.u32_le(84)? as usize,
            array: array.clone(),
        })
    }

    /// Fills an entry; its number.
    fn add(&mut self, new: &NewPartition) -> Result<u32> {
        let is_free = |index: usize| {
            let kind = self.array.get(index * self.size..index * self.size + 16);
            kind.is_some_and(|kind| kind.iter().all(|byte| *byte == 0))
        };
        let index = match new.number {
            Some(number) => {
                (number as usize).checked_sub(1).filter(|index| *index < self.count && is_free(*index))
            }
            None => (0..self.count).find(|index| is_free(*index)),
        };
        let index = index.ok_or_else(|| match new.number {
            Some(number) => refused(format!("the GPT has no free entry {number} (of {})", self.count)),
            None => refused("the GPT has no free entry"),
        })?;
        let aligned = [new.range.start, new.range.end].iter().all(|at| at.is_multiple_of(self.sector));
        if !aligned || new.range.is_empty() {
            return Err(usage(format!(
                "a partition cannot reach from byte {} to {}",
                new.range.start, new.range.end
            )));
        }
        let Some(kind) = parse_guid(&new.type_id) else {
            return Err(usage(format!("{:?} is no GUID", new.type_id)));
        };
        let at = index * self.size;
        put(&mut self.array, at, &vec![0; self.size])?;
        put(&mut self.array, at, &guid_bytes(&kind))?;
        put(&mut self.array, at + 16, &guid_bytes(&new.guid))?;
        put(&mut self.array, at + 32, &(new.range.start / self.sector).to_le_bytes())?;
        put(&mut self.array, at + 40, &(new.range.end / self.sector - 1).to_le_bytes())?;
        for (unit, place) in new.name.encode_utf16().take(36).zip((at + 56..).step_by(2)) {
            put(&mut self.array, place, &unit.to_le_bytes())?;
        }
        Ok(index as u32 + 1)
    }

    /// Puts the array into both copies, and its checksum into both headers.
    fn store(&self, writes: &mut [(u64, Vec<u8>)]) -> Result<()> {
        let [_, (_, primary), (_, first), (_, second), (_, backup)] = writes else {
            return Err(usage("the table is not complete"));
        };
        let used = self.array.get(..self.count * self.size).unwrap_or(&self.array);
        let sum = crc32fast::hash(used);
        for array in [first, second] {
            put(array, 0, used)?;
        }
        // Some tools begin the usable range at 1 MiB; what is before is usable as well.
        let lowest = used.chunks_exact(self.size).filter_map(|entry| {
            let entry = Bytes::new(entry, "GPT entry");
            (entry.slice(0, 16).ok()? != [0; 16]).then(|| entry.u64_le(32).ok()).flatten()
        });
        let lowest = lowest.min().unwrap_or(u64::MAX);
        for header in [primary, backup] {
            let first = Bytes::new(header, "GPT header").u64_le(40)?.min(lowest);
            put(header, 40, &first.to_le_bytes())?;
            put(header, 88, &sum.to_le_bytes())?;
            let size = Bytes::new(header, "GPT header").u32_le(12)? as usize;
            let own = header_checksum(Bytes::new(header, "GPT header").slice(0, size)?);
            put(header, 16, &own.to_le_bytes())?;
        }
        Ok(())
    }
}

/// A GUID's text, as 16 bytes in the order of the text.
fn parse_guid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    let mut raw = [0; 16];
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    for (byte, at) in raw.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    Some(raw)
}
