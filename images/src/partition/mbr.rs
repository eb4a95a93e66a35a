// SPDX-License-Identifier: Apache-2.0
//! The master boot record and its chain of extended boot records, read as Linux does (`block/partitions/msdos.c`).

use std::collections::HashSet;

use super::{Partition, PartitionTable, Role, TableKind, Warnings, finish_partitions};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, RangeSet, Result};

/// Bytes of an MBR or EBR, whatever the size of the sector that it stands in.
pub(super) const SECTOR: usize = 512;
/// Where the four entries begin.
pub(super) const ENTRIES: usize = 446;
/// Type of the entry that protects a GPT.
pub(super) const PROTECTIVE: u8 = 0xee;
/// Linux shows 255 partitions of a disk and fdisk makes 60; a longer chain is an attack or damage.
const MOST_EBRS: usize = 1024;

/// One of four entries of an MBR or EBR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) flag: u8,
    pub(super) kind: u8,
    /// Sectors: from the disk's start in the MBR, from the EBR or the container's start in an EBR.
    pub(super) start: u32,
    /// Sectors.
    pub(super) count: u32,
    /// All 16 bytes are zero.
    pub(super) empty: bool,
}

impl Entry {
    pub(super) fn is_container(self) -> bool {
        self.count != 0 && matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    /// Linux takes any entry with a size for a partition, type 0 included.
    pub(super) fn is_content(self) -> bool {
        self.count != 0 && !matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// The entries of an MBR or EBR.
pub(super) fn entries(record: Bytes<'_>) -> Result<[Entry; 4]> {
    let mut entries = [Entry { flag: 0, kind: 0, start: 0, count: 0, empty: true }; 4];
    for (entry, index) in entries.iter_mut().zip(0..) {
        let raw = record.sub(ENTRIES + 16 * index, 16)?;
        *entry = Entry {
            flag: raw.u8(0)?,
            kind: raw.u8(4)?,
            start: raw.u32_le(8)?,
            count: raw.u32_le(12)?,
            empty: raw.all().iter().all(|&byte| byte == 0),
        };
    }
    Ok(entries)
}

/// A logical partition: an entry of an EBR.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logical {
    pub(super) number: u32,
    /// Index of its entry in the EBR.
    pub(super) slot: usize,
    /// Sector of the disk.
    pub(super) start: u64,
    pub(super) entry: Entry,
}

/// One extended boot record.
#[derive(Debug, Clone)]
pub(super) struct Ebr {
    /// Sector of the disk.
    pub(super) lba: u64,
    /// That sector, whole.
    pub(super) raw: Vec<u8>,
    /// Index of the MBR entry that is its container.
    pub(super) container: usize,
    /// Its partitions; mostly one.
    pub(super) logicals: Vec<Logical>,
    /// Index of its entry that leads to the next EBR.
    pub(super) link: Option<usize>,
}

/// An MBR and everything that hangs on it.
#[derive(Debug)]
pub(super) struct Mbr {
    /// Bytes per sector in which it counts.
    pub(super) sector: u64,
    /// Sector 0, whole.
    pub(super) raw: Vec<u8>,
    pub(super) entries: [Entry; 4],
    /// Every EBR, container after container, in chain order.
    pub(super) chain: Vec<Ebr>,
    /// Indexes of the MBR entries whose chain could not be followed to its end.
    pub(super) broken: Vec<usize>,
    pub(super) warnings: Warnings,
}

impl Mbr {
    /// Reads sector 0 and follows the chains. What is wrong with them becomes a warning.
    pub(super) fn read(source: &dyn BlockSource, sector: u64) -> Result<Self> {
        let raw = read_vec(source, 0, sector.min(source.size()) as usize)?;
        let entries = entries(Bytes::new(&raw, "MBR"))?;
        let mut mbr = Self {
            sector,
            raw,
            entries,
            chain: Vec::new(),
            broken: Vec::new(),
            warnings: Warnings::default(),
        };
        // A chain that leads to the MBR itself would have that sector written twice.
        let mut visited = HashSet::from([0]);
        let mut number = 5;
        for (index, entry) in entries.iter().enumerate() {
            if entry.is_container()
                && let Err(error) = mbr.follow(source, index, &mut visited, &mut number)
            {
                mbr.broken.push(index);
                mbr.warnings.push(format!(
                    "the chain of logical partitions in partition {} is broken ({}); what is left of that \
                     partition is kept whole",
                    index + 1,
                    error.chain()
                ));
            }
        }
        Ok(mbr)
    }

    fn follow(
        &mut self,
        source: &dyn BlockSource,
        container: usize,
        visited: &mut HashSet<u64>,
        number: &mut u32,
    ) -> Result<()> {
        let Some(&outer) = self.entries.get(container) else { return Ok(()) };
        let (base, end) = (u64::from(outer.start), u64::from(outer.start) + u64::from(outer.count));
        let (mut lba, mut room) = (base, u64::from(outer.count));
        loop {
            let at = lba * self.sector;
            let bad =
                |because: &'static str| Error::malformed("reading an extended boot record", because).at(at);
            if self.chain.len() >= MOST_EBRS {
                return Err(bad("the chain is too long"));
            }
            if !visited.insert(lba) {
                return Err(bad("the chain runs in a circle, or to the MBR"));
            }
            let raw = read_vec(source, at, self.sector as usize)?;
            let record = Bytes::new(&raw, "extended boot record");
            if record.slice(510, 2)? != [0x55, 0xaa] {
                return Err(bad("no signature"));
            }
            let parsed = entries(record)?;
            let mut logicals = Vec::new();
            for (slot, entry) in parsed.iter().enumerate().filter(|(_, entry)| entry.is_content()) {
                let start = lba + u64::from(entry.start);
                let stop = start + u64::from(entry.count);
                // The third and fourth entry are mostly unused; Linux believes them only where they make sense.
                let fits = u64::from(entry.start) + u64::from(entry.count) <= room;
                if slot >= 2 && !(fits && start >= base && stop <= end) {
                    continue;
                }
                logicals.push(Logical { number: *number, slot, start, entry: *entry });
                *number += 1;
            }
            let link = parsed.iter().position(|entry| entry.is_container());
            self.chain.push(Ebr { lba, raw, container, logicals, link });
            let Some(next) = link.and_then(|link| parsed.get(link)) else { return Ok(()) };
            lba = base + u64::from(next.start);
            room = u64::from(next.count);
        }
    }

    /// True if any entry leads to bytes of the disk.
    pub(super) fn has_partitions(&self, size: u64) -> bool {
        self.entries.iter().any(|entry| entry.count != 0 && u64::from(entry.start) * self.sector < size)
    }

    /// The disk signature, which Windows, and Linux's PARTUUID, know the disk by.
    fn disk_id(&self) -> Option<u32> {
        Bytes::new(&self.raw, "MBR").u32_le(440).ok().filter(|&id| id != 0)
    }

    /// The partitions, in order of number.
    pub(super) fn partitions(&self, size: u64) -> Vec<Partition> {
        self.list(size, &mut Warnings::default())
    }

    fn list(&self, size: u64, warnings: &mut Warnings) -> Vec<Partition> {
        let disk_id = self.disk_id();
        let mut partitions = Vec::new();
        let primaries = (1u32..).zip(&self.entries).filter(|(_, entry)| entry.count != 0);
        let primaries = primaries.map(|(number, entry)| (number, u64::from(entry.start), *entry));
        let logicals = self.chain.iter().flat_map(|ebr| &ebr.logicals);
        let logicals = logicals.map(|logical| (logical.number, logical.start, logical.entry));
        for (number, first, entry) in primaries.chain(logicals) {
            let start = first * self.sector;
            let end = start + u64::from(entry.count) * self.sector;
            if start >= size {
                warnings.push(format!("partition {number} lies beyond the end of the disk; it is ignored"));
                continue;
            }
            if end > size {
                warnings.push(format!(
                    "partition {number} ends {} bytes beyond the end of the disk; it is cut there",
                    end - size
                ));
            }
            partitions.push(Partition {
                number,
                start,
                len: end.min(size) - start,
                type_id: format!("{:#04x}", entry.kind),
                role: match entry.kind {
                    _ if entry.is_container() => Role::Extended,
                    0xef => Role::Esp,
                    _ => Role::Content,
                },
                partuuid: disk_id.map(|id| format!("{id:08x}-{number:02x}")),
                name: None,
                bootable: entry.flag == 0x80,
            });
        }
        partitions
    }

    pub(super) fn table(mut self, size: u64) -> PartitionTable {
        let mut warnings = std::mem::take(&mut self.warnings);
        let disk_id = self.disk_id();
        let mut partitions = self.list(size, &mut warnings);
        self.check_containers(&mut warnings);
        finish_partitions(&mut partitions, &mut warnings);
        let mut metadata = vec![(0, self.sector.min(size))];
        metadata.extend(self.places());
        metadata.extend(self.unknown(&partitions, size));
        PartitionTable {
            kind: TableKind::Mbr,
            sector_size: self.sector as u32,
            disk_id: disk_id.map(|id| format!("{id:08x}")),
            partitions,
            metadata,
            warnings: warnings.into_vec(),
        }
    }

    /// Where the EBRs lie, as byte ranges (first byte, length). All were read, so all lie on the disk.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.chain.iter().map(|ebr| (ebr.lba * self.sector, self.sector))
    }

    fn check_containers(&self, warnings: &mut Warnings) {
        for ebr in &self.chain {
            let Some(outer) = self.entries.get(ebr.container) else { continue };
            let (start, end) = (u64::from(outer.start), u64::from(outer.start) + u64::from(outer.count));
            for logical in &ebr.logicals {
                if logical.start < start || logical.start + u64::from(logical.entry.count) > end {
                    warnings.push(format!(
                        "partition {} lies outside its extended partition {}",
                        logical.number,
                        ebr.container + 1
                    ));
                }
            }
        }
    }

    /// What no known partition covers of containers whose chain is broken.
    fn unknown(&self, partitions: &[Partition], size: u64) -> Vec<(u64, u64)> {
        let mut known = RangeSet::new();
        for partition in partitions.iter().filter(|partition| partition.role != Role::Extended) {
            known.insert(partition.start..partition.start + partition.len);
        }
        let mut unknown = Vec::new();
        for outer in self.broken.iter().filter_map(|&index| self.entries.get(index)) {
            let start = u64::from(outer.start) * self.sector;
            let end = (start + u64::from(outer.count) * self.sector).min(size);
            for gap in known.gaps(end) {
                let from = gap.start.max(start);
                if from < gap.end {
                    unknown.push((from, gap.end - from));
                }
            }
        }
        unknown
    }
}
