// SPDX-License-Identifier: Apache-2.0
//! The FAT boot sector, read as tolerantly as Linux' `fs/fat/inode.c` reads it.

use crate::filesystem::FilesystemKind;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// FAT12 has at most this many clusters (Linux `MAX_FAT12`), FAT16 at most that many.
const MOST_FAT12: u64 = 0xFF4;
const MOST_FAT16: u64 = 0xFFF4;
const MOST_FAT32: u64 = 0x0FFF_FFF6;
/// All copies are read side by side; formatters make one or two.
const MOST_FATS: u64 = 4;

/// Systems that leave the first sector alone, so that an old FAT boot sector may stand before them: where their
/// magic lies in bytes, and the magic.
const OTHERS: &[(u64, &[u8])] = &[
    (512, b"LABELONE"),
    (1024, &0xF2F5_2010u32.to_le_bytes()),
    (1030, &0x3434u16.to_le_bytes()),
    (4096, &0xA92B_4EFCu32.to_le_bytes()),
    (4086, b"SWAPSPACE2"),
];

/// A BitLocker To Go volume looks like FAT32 and bears this GUID; what it holds is encrypted.
const BITLOCKER_TO_GO: [u8; 16] =
    [0x3B, 0xD6, 0x67, 0x49, 0x29, 0x2E, 0xD8, 0x4A, 0x83, 0x99, 0xF6, 0xA3, 0x39, 0xE3, 0xD0, 0x01];

/// Geometry of one volume; offsets and sizes in bytes from its start.
#[derive(Debug, Clone)]
pub struct Boot {
    /// FAT12, FAT16 or FAT32.
    pub kind: FilesystemKind,
    /// Bytes of the sector that the volume counts in.
    pub sector_size: u32,
    /// Bytes of a cluster.
    pub cluster_size: u32,
    /// Clusters, numbered from 2.
    pub clusters: u64,
    /// First copy of the FAT.
    pub fat: u64,
    /// Bytes of each copy.
    pub fat_size: u64,
    /// Copies of the FAT, at most four.
    pub fats: u64,
    /// Only one copy is kept current (FAT32 flag): this one, counted from 0.
    pub active: Option<u8>,
    /// Root directory of FAT12 and FAT16.
    pub root: u64,
    /// Bytes of that directory, in whole sectors.
    pub root_size: u64,
    /// First cluster of the root directory of FAT32.
    pub root_cluster: u64,
    /// Cluster 2.
    pub data: u64,
    /// The whole volume; may be less than its partition.
    pub size: u64,
    /// Low byte of the first FAT entry.
    pub media: u8,
    /// Linux' and Windows' "in use" bit, and "surface scan wanted".
    pub state: u8,
    /// Volume serial number, as it stands on disk.
    pub serial: Option<[u8; 4]>,
    /// The boot sector's label, padded with spaces.
    pub label: Option<[u8; 11]>,
}

impl Boot {
    /// `None` where the sector is not FAT's, an error where it is and makes no sense.
    pub fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        if source.size() < 512 {
            return Ok(None);
        }
        let raw = read_vec(source, 0, 512)?;
        let raw = Bytes::new(&raw, "FAT boot sector");
        if !looks_like_fat(&raw)? || is_another(source, &raw)? {
            return Ok(None);
        }
        let broken = |because: &'static str| Error::malformed("reading the FAT boot sector", because);
        let sector_size = u64::from(raw.u16_le(11)?);
        let fats = u64::from(raw.u8(16)?);
        let nonzero = |short: u16, long: u32| if short != 0 { u64::from(short) } else { u64::from(long) };
        let fat_sectors_16 = raw.u16_le(22)?;
        let is_32 = fat_sectors_16 == 0;
        let fat_sectors = nonzero(fat_sectors_16, raw.u32_le(36)?);
        if fat_sectors == 0 {
            return Err(broken("the file allocation table is empty"));
        }
        if fats > MOST_FATS {
            return Err(broken("it names more than four file allocation tables"));
        }
        let size = nonzero(raw.u16_le(19)?, raw.u32_le(32)?) * sector_size;
        if size == 0 || size > source.size() {
            return Err(broken("the volume is larger than the partition"));
        }
        let cluster_size = u64::from(raw.u8(13)?) * sector_size;
        let fat = u64::from(raw.u16_le(14)?) * sector_size;
        let fat_size = fat_sectors * sector_size;
        let root = fat + fats * fat_size;
        let root_size = (u64::from(raw.u16_le(17)?) * 32).next_multiple_of(sector_size);
        let data = root + root_size;
        if data >= size {
            return Err(broken("the tables are larger than the volume"));
        }
        let clusters = (size - data) / cluster_size;
        let (kind, entry_bits, most) = match clusters {
            _ if is_32 => (FilesystemKind::Fat32, 32, MOST_FAT32),
            0..=MOST_FAT12 => (FilesystemKind::Fat12, 12, MOST_FAT12),
            _ => (FilesystemKind::Fat16, 16, MOST_FAT16),
        };
        // A table may be too short for the volume; clusters that it cannot name do not exist (as Linux has it).
        let clusters = clusters.min((fat_size * 8 / entry_bits).saturating_sub(2));
        if clusters == 0 || clusters > most {
            return Err(broken("the number of clusters does not fit the kind of FAT"));
        }
        let extended = if is_32 { 64 } else { 36 };
        let signature = raw.u8(extended + 2)?;
        let fixed = |at, len| raw.slice(at, len).ok();
        Ok(Some(Self {
            kind,
            sector_size: sector_size as u32,
            cluster_size: cluster_size as u32,
            clusters,
            fat,
            fat_size,
            fats,
            active: Some(raw.u16_le(40)?)
                .filter(|flags| is_32 && flags & 0x80 != 0)
                .map(|flags| flags as u8 & 0xF),
            root,
            root_size,
            root_cluster: if is_32 { raw.u32_le(44)?.into() } else { 0 },
            data,
            size,
            media: raw.u8(21)?,
            state: raw.u8(extended + 1)?,
            serial: fixed(extended + 3, 4)
                .filter(|_| matches!(signature, 0x28 | 0x29))
                .and_then(|serial| serial.try_into().ok()),
            label: fixed(extended + 7, 11)
                .filter(|_| signature == 0x29)
                .and_then(|label| label.try_into().ok()),
        }))
    }

    /// First byte of a cluster.
    pub fn cluster_at(&self, cluster: u64) -> u64 {
        self.data + (cluster - 2) * u64::from(self.cluster_size)
    }
}

/// FAT has no magic: the parameter block must make sense, and the sector must begin with a jump or end with 55 AA.
fn looks_like_fat(raw: &Bytes<'_>) -> Result<bool> {
    let sector_size = raw.u16_le(11)?;
    let bootable = matches!(raw.u8(0)?, 0xEB | 0xE9) || raw.u16_le(510)? == 0xAA55;
    Ok(bootable
        && sector_size.is_power_of_two()
        && (512..=4096).contains(&sector_size)
        && raw.u8(13)?.is_power_of_two()
        && raw.u16_le(14)? != 0
        && raw.u8(16)? != 0
        && matches!(raw.u8(21)?, 0xF0 | 0xF8..))
}

/// True if the sector is another system's, or an old one before another system's superblock.
fn is_another(source: &dyn BlockSource, raw: &Bytes<'_>) -> Result<bool> {
    let name = raw.slice(3, 8)?;
    if matches!(name, b"NTFS    " | b"EXFAT   " | b"-FVE-FS-") || raw.slice(424, 16)? == BITLOCKER_TO_GO {
        return Ok(true);
    }
    // Behind the reserved sectors these bytes may be anybody's file.
    let reserved = u64::from(raw.u16_le(14)?) * u64::from(raw.u16_le(11)?);
    for (at, magic) in OTHERS {
        if at + magic.len() as u64 <= reserved.min(source.size())
            && read_vec(source, *at, magic.len())? == *magic
        {
            return Ok(true);
        }
    }
    Ok(false)
}
