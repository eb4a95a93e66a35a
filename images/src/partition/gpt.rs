// SPDX-License-Identifier: Apache-2.0
//! The GUID partition table (UEFI 2.10, section 5.3): a header and an array of entries, twice.

use super::{Partition, PartitionTable, Role, TableKind, Warnings, finish_partitions};
use crate::parse::{Bytes, guid_bytes, read_vec, uuid_text};
use crate::{BlockSource, Error, Result, ResultExt};

/// 21686148-6449-6E6F-744E-656564454649 as it stands on disk.
const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";
/// C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it stands on disk.
const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// Linux refuses larger arrays too (`KMALLOC_MAX_SIZE` in `alloc_read_gpt_entries`); 128 entries take 16 KiB.
const MOST_ENTRY_BYTES: u64 = 4 << 20;

/// Bytes of a header that the specification defines; its checksum may cover more.
pub(super) const HEADER_BYTES: usize = 92;

/// One valid copy of the table: its header and its entries.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    /// The whole sector of the header, reserved bytes included.
    pub(super) raw: Vec<u8>,
    /// The entry array, in whole sectors.
    pub(super) entries: Vec<u8>,
    /// Bytes of the header under its checksum.
    pub(super) header_size: usize,
    pub(super) lba: u64,
    pub(super) alternate: u64,
    pub(super) first_usable: u64,
    pub(super) last_usable: u64,
    pub(super) disk_guid: [u8; 16],
    pub(super) entries_lba: u64,
    pub(super) count: usize,
    pub(super) entry_size: usize,
}

/// A partition as an entry states it, before it is held against the disk. Sectors, both inclusive.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) kind: [u8; 16],
    guid: [u8; 16],
    attributes: u64,
    name: String,
}

impl Copy {
    /// Reads and checks the copy whose header is at `lba`. What is wrong with it is the error.
    fn read(source: &dyn BlockSource, sector: u64, lba: u64) -> Result<Self> {
        let bad = |because: &'static str| Error::malformed("reading the GPT header", because);
        let at = lba.checked_mul(sector).ok_or_else(|| bad("its address is beyond any disk"))?;
        let raw = read_vec(source, at, sector as usize).doing(|| "reading the GPT header")?;
        let header = Bytes::new(&raw, "GPT header");
        if header.slice(0, 8)? != b"EFI PART" {
            return Err(bad("no signature").at(at));
        }
        // Revision 1.0 is the only one; a higher major revision may change the meaning of fields.
        if header.u32_le(8)? >> 16 != 1 {
            return Err(bad("unknown revision").at(at));
        }
        let header_size = header.u32_le(12)? as usize;
        if !(HEADER_BYTES..=raw.len()).contains(&header_size) {
            return Err(bad("impossible header size").at(at));
        }
        if header.u32_le(16)? != header_checksum(header.slice(0, header_size)?) {
            return Err(bad("checksum mismatch").at(at));
        }
        if header.u64_le(24)? != lba {
            return Err(bad("it says that it belongs elsewhere").at(at));
        }
        let entries_lba = header.u64_le(72)?;
        let (count, entry_size) = (u64::from(header.u32_le(80)?), u64::from(header.u32_le(84)?));
        // 128 * 2^n bytes each; Linux takes 128 only.
        if !entry_size.is_power_of_two() || !(128..=4096).contains(&entry_size) {
            return Err(bad("impossible entry size").at(at));
        }
        let len = count * entry_size;
        if len == 0 || len > MOST_ENTRY_BYTES {
            return Err(bad("impossible number of entries").at(at));
        }
        let mut disk_guid = [0; 16];
        disk_guid.copy_from_slice(header.slice(56, 16)?);
        let (first_usable, last_usable) = (header.u64_le(40)?, header.u64_le(48)?);
        if first_usable > last_usable {
            return Err(bad("the usable range is empty").at(at));
        }

        let bad = |because: &'static str| Error::malformed("reading the GPT entries", because);
        let sectors = len.div_ceil(sector);
        let entries_at =
            entries_lba.checked_mul(sector).ok_or_else(|| bad("their address is beyond any disk"))?;
        if entries_lba == 0 || (entries_lba <= lba && lba - entries_lba < sectors) {
            return Err(bad("they overlap the MBR or their own header").at(entries_at));
        }
        let entries =
            read_vec(source, entries_at, (sectors * sector) as usize).doing(|| "reading the GPT entries")?;
        let used = Bytes::new(&entries, "GPT entries").slice(0, len as usize)?;
        if crc32fast::hash(used) != header.u32_le(88)? {
            return Err(bad("checksum mismatch").at(entries_at));
        }
        Ok(Self {
            header_size,
            lba,
            alternate: header.u64_le(32)?,
            first_usable,
            last_usable,
            disk_guid,
            entries_lba,
            count: count as usize,
            entry_size: entry_size as usize,
            raw,
            entries,
        })
    }

    /// Bytes of the array under its checksum.
    pub(super) fn entry_bytes(&self) -> &[u8] {
        self.entries.get(..self.count * self.entry_size).unwrap_or(&self.entries)
    }

    /// The entries in use, in order of number.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.entry_bytes().chunks_exact(self.entry_size).zip(1u32..).filter_map(|(raw, number)| {
            let entry = Bytes::new(raw, "GPT entry");
            let (mut kind, mut guid) = ([0; 16], [0; 16]);
            kind.copy_from_slice(entry.slice(0, 16).ok()?);
            guid.copy_from_slice(entry.slice(16, 16).ok()?);
            if kind == [0; 16] {
                return None;
            }
            let units: Vec<u16> = entry
                .slice(56, 72)
                .ok()?
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&unit| u16::from_le_bytes(unit))
                .take_while(|&unit| unit != 0)
                .collect();
            Some(Slot {
                number,
                first: entry.u64_le(32).ok()?,
                last: entry.u64_le(40).ok()?,
                kind,
                guid,
                attributes: entry.u64_le(48).ok()?,
                name: String::from_utf16_lossy(&units),
            })
        })
    }

    /// Header sector and entry array as byte ranges (first byte, length).
    fn places(&self, sector: u64) -> [(u64, u64); 2] {
        [
            (self.lba.saturating_mul(sector), sector),
            (self.entries_lba.saturating_mul(sector), self.entries.len() as u64),
        ]
    }
}

/// CRC-32 of a header, its own field taken as zero.
pub(super) fn header_checksum(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let (before, rest) = header.split_at(header.len().min(16));
    let (_, after) = rest.split_at(rest.len().min(4));
    hasher.update(before);
    hasher.update(&[0; 4]);
    hasher.update(after);
    hasher.finalize()
}

/// A GUID as text: the first three fields are little-endian (UEFI 2.10, appendix A).
pub(super) fn guid_text(raw: &[u8; 16]) -> String {
    uuid_text(&guid_bytes(raw))
}

/// The table of a disk, in as many valid copies as there are.
#[derive(Debug)]
pub(super) struct Gpt {
    /// Bytes per sector in which it counts.
    pub(super) sector: u64,
    /// Sector 0, whole: the protective MBR.
    pub(super) boot: Vec<u8>,
    /// The copy to believe: the primary, unless only the backup is valid.
    pub(super) used: Copy,
    /// The primary is damaged.
    pub(super) from_backup: bool,
    /// The other copy, if `used` is the primary and the backup is valid.
    pub(super) backup: Option<Copy>,
    /// What was found wrong.
    pub(super) warnings: Warnings,
}

impl Gpt {
    /// Finds a valid primary, or else a valid backup, for sectors of `sector` bytes. The error says what is wrong with the primary.
    pub(super) fn find(source: &dyn BlockSource, sector: u64) -> Result<Self> {
        let total = source.size() / sector;
        let mut warnings = Warnings::default();
        let boot = read_vec(source, 0, sector as usize).doing(|| "reading the first sector")?;
        let damage = match Copy::read(source, sector, 1) {
            Ok(used) => {
                let backup = match Copy::read(source, sector, used.alternate) {
                    Ok(backup) => Some(backup),
                    Err(error) => {
                        warnings.push(format!("the backup GPT cannot be used: {}", error.chain()));
                        None
                    }
                };
                let mut gpt = Self { sector, boot, used, from_backup: false, backup, warnings };
                gpt.compare(total);
                return Ok(gpt);
            }
            Err(error) => error,
        };
        // The true end of the disk first; then where a primary with a wrong checksum says, for a disk that grew.
        let named = read_vec(source, sector, sector as usize).ok().and_then(|raw| {
            let header = Bytes::new(&raw, "GPT header");
            (header.slice(0, 8).ok()? == b"EFI PART").then(|| header.u64_le(32).ok()).flatten()
        });
        for lba in [total.checked_sub(1), named].into_iter().flatten().filter(|&lba| lba > 1) {
            if let Ok(used) = Copy::read(source, sector, lba) {
                warnings.push(format!(
                    "the primary GPT is damaged ({}), the backup is used; repair it with 'sgdisk -e' or 'gdisk'",
                    damage.chain()
                ));
                let mut gpt = Self { sector, boot, used, from_backup: true, backup: None, warnings };
                gpt.compare(total);
                return Ok(gpt);
            }
        }
        Err(damage)
    }

    /// Warns of what is not as it should be with both copies and the size of the disk.
    fn compare(&mut self, total: u64) {
        let used = &self.used;
        if let Some(backup) = &self.backup {
            let agree = backup.disk_guid == used.disk_guid && backup.entry_bytes() == used.entry_bytes();
            if !agree {
                self.warnings.push("the two copies of the GPT differ; the primary is used");
            }
            if backup.lba != total.saturating_sub(1) {
                self.warnings.push(
                    "the backup GPT is not at the end of the disk: the disk was enlarged after it was partitioned",
                );
            }
        }
        if used.last_usable >= total {
            self.warnings.push(format!(
                "the GPT was made for a larger disk: usable sectors up to {}, but there are only {total}",
                used.last_usable
            ));
        }
    }

    /// Where the table lies: headers and entry arrays, the places of damaged copies included.
    pub(super) fn places(&self, size: u64) -> Vec<(u64, u64)> {
        let array = self.used.entries.len() as u64;
        let mut places = self.used.places(self.sector).to_vec();
        if self.from_backup {
            places.extend([(self.sector, self.sector), (2 * self.sector, array)]);
        }
        match &self.backup {
            Some(backup) => places.extend(backup.places(self.sector)),
            None => {
                let end = size / self.sector * self.sector;
                let start = end.saturating_sub(array + self.sector);
                places.push((start, end - start));
            }
        }
        places.retain(|&(start, _)| start < size);
        for (start, len) in &mut places {
            *len = (*len).min(size - *start);
        }
        places.sort_unstable();
        places
    }

    pub(super) fn table(mut self, size: u64) -> PartitionTable {
        let mut warnings = std::mem::take(&mut self.warnings);
        let mut partitions = Vec::new();
        for slot in self.used.slots() {
            let number = slot.number;
            let (start, end) = match (
                slot.first.checked_mul(self.sector),
                slot.last.checked_add(1).and_then(|end| end.checked_mul(self.sector)),
            ) {
                (Some(start), Some(end)) if start < end => (start, end),
                _ => {
                    warnings.push(format!("partition {number} ends before it starts; it is ignored"));
                    continue;
                }
            };
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
            if slot.first < self.used.first_usable || slot.last > self.used.last_usable {
                warnings.push(format!("partition {number} lies outside the range that the GPT calls usable"));
            }
            partitions.push(Partition {
                number,
                start,
                len: end.min(size) - start,
                type_id: guid_text(&slot.kind),
                role: match slot.kind {
                    BIOS_BOOT => Role::BiosBoot,
                    ESP => Role::Esp,
                    _ => Role::Content,
                },
                partuuid: Some(guid_text(&slot.guid)),
                name: Some(slot.name).filter(|name| !name.is_empty()),
                bootable: slot.attributes & 4 != 0,
            });
        }
        finish_partitions(&mut partitions, &mut warnings);
        let mut metadata = vec![(0, self.sector.min(size))];
        metadata.extend(self.places(size));
        PartitionTable {
            kind: TableKind::Gpt,
            sector_size: self.sector as u32,
            disk_id: Some(guid_text(&self.used.disk_guid)),
            partitions,
            metadata,
            warnings: warnings.into_vec(),
        }
    }
}
