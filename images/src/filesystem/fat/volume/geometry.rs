// SPDX-License-Identifier: Apache-2.0
//! Where everything lies in a new FAT volume, and its boot sector.

use crate::filesystem::FilesystemKind;
use crate::filesystem::fat::Boot;
use crate::{Error, Result};

/// Sectors before the first FAT, with FAT32: boot sector, FSInfo, and copies of both from [`BACKUP`] on.
const RESERVED_32: u64 = 32;
pub(super) const BACKUP: u64 = 6;
/// Fewer clusters than these are FAT12, or FAT16 (the specification's limits, which Linux and EDK2 follow).
const FAT16_FROM: u64 = 4085;
const FAT32_FROM: u64 = 65525;
const MOST_FAT32: u64 = 0x0FFF_FFF5;
/// Larger clusters are no longer FAT for many implementations.
const MOST_CLUSTER: u32 = 64 << 10;

/// What a volume is to be like, as far as its length allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) kind: FilesystemKind,
    /// In bytes.
    pub(super) cluster_size: u32,
    pub(super) fats: u64,
    /// Bytes of the root directory of FAT12 and FAT16.
    pub(super) root_size: u64,
}

impl From<&Boot> for Shape {
    fn from(old: &Boot) -> Self {
        Self { kind: old.kind, cluster_size: old.cluster_size, fats: old.fats, root_size: old.root_size }
    }
}

/// A volume's geometry; without a unit: counted in sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) kind: FilesystemKind,
    /// In bytes.
    pub(super) sector_size: u32,
    /// In bytes.
    pub(super) cluster_size: u32,
    pub(super) reserved: u64,
    pub(super) fats: u64,
    pub(super) fat_sectors: u64,
    root_sectors: u64,
    total: u64,
    /// Numbered from 2.
    pub(super) clusters: u64,
}

impl Geometry {
    /// For a volume of `len` bytes that has the shape of another.
    ///
    /// FAT32 stays FAT32, also where it gets fewer clusters than Windows would make: Linux, EDK2 and GRUB tell it by its FAT's
    /// length field. For the others the number of clusters decides, as it must. Clusters stay as large as they were, or
    /// become as small as the sectors allow where FAT32 would have too few.
    pub(super) fn new(shape: Shape, len: u64, sector_size: u32) -> Result<Self> {
        let mut cluster_size = shape.cluster_size.max(sector_size);
        let mut geometry = Self::with_clusters(shape, len, sector_size, cluster_size)?;
        let is_32 = shape.kind == FilesystemKind::Fat32;
        while is_32 && geometry.clusters < FAT32_FROM && cluster_size > sector_size {
            cluster_size /= 2;
            geometry = Self::with_clusters(shape, len, sector_size, cluster_size)?;
        }
        while !geometry.is_valid() && cluster_size < MOST_CLUSTER {
            cluster_size *= 2;
            geometry = Self::with_clusters(shape, len, sector_size, cluster_size)?;
        }
        if !geometry.is_valid() || cluster_size > MOST_CLUSTER {
            return Err(Error::refused(
                format!("making a FAT volume of {len} bytes with {sector_size}-byte sectors"),
                "no size of clusters fits",
            ));
        }
        Ok(geometry)
    }

    fn with_clusters(shape: Shape, len: u64, sector_size: u32, cluster_size: u32) -> Result<Self> {
        let sector = u64::from(sector_size);
        let total = len / sector;
        if u32::try_from(total).is_err() {
            return Err(Error::refused(
                format!("making a FAT volume of {len} bytes"),
                "it has too many sectors",
            ));
        }
        let kinds: &[FilesystemKind] = match shape.kind {
            FilesystemKind::Fat32 => &[FilesystemKind::Fat32],
            _ => &[FilesystemKind::Fat12, FilesystemKind::Fat16],
        };
        let mut geometry = Self {
            kind: shape.kind,
            sector_size,
            cluster_size,
            reserved: if shape.kind == FilesystemKind::Fat32 { RESERVED_32 } else { 1 },
            fats: shape.fats,
            fat_sectors: 1,
            root_sectors: shape.root_size.div_ceil(sector),
            total,
            clusters: 0,
        };
        for kind in kinds {
            geometry.kind = *kind;
            geometry.fit();
            if geometry.is_valid() {
                break;
            }
        }
        Ok(geometry)
    }

    /// The smallest FAT that names all clusters behind it. A longer FAT leaves fewer, so this ends.
    fn fit(&mut self) {
        let per_cluster = u64::from(self.cluster_size / self.sector_size);
        self.fat_sectors = 1;
        loop {
            self.clusters = self.total.saturating_sub(self.data_sector()) / per_cluster;
            let bits = (self.clusters + 2) * self.entry_bits();
            let needed = bits.div_ceil(8).div_ceil(self.sector_size.into());
            if needed <= self.fat_sectors {
                return;
            }
            self.fat_sectors = needed;
        }
    }

    fn is_valid(&self) -> bool {
        match self.kind {
            FilesystemKind::Fat32 => (1..=MOST_FAT32).contains(&self.clusters),
            FilesystemKind::Fat16 => (FAT16_FROM..FAT32_FROM).contains(&self.clusters),
            _ => (1..FAT16_FROM).contains(&self.clusters),
        }
    }

    pub(super) fn entry_bits(&self) -> u64 {
        match self.kind {
            FilesystemKind::Fat32 => 32,
            FilesystemKind::Fat16 => 16,
            _ => 12,
        }
    }

    fn data_sector(&self) -> u64 {
        self.reserved + self.fats * self.fat_sectors + self.root_sectors
    }

    /// First byte of the root directory of FAT12 and FAT16.
    pub(super) fn root(&self) -> u64 {
        (self.reserved + self.fats * self.fat_sectors) * u64::from(self.sector_size)
    }

    /// First byte of cluster 2.
    pub(super) fn data(&self) -> u64 {
        self.data_sector() * u64::from(self.sector_size)
    }

    /// First byte of a cluster, which is 2 or more.
    pub(super) fn cluster_at(&self, cluster: u64) -> u64 {
        self.data() + cluster.saturating_sub(2) * u64::from(self.cluster_size)
    }

    /// The boot sector, from the old one's first 512 bytes: name of the system, boot code, serial number and label stay.
    pub(super) fn boot_sector(&self, old: &[u8], start: u64) -> Vec<u8> {
        let is_32 = self.kind == FilesystemKind::Fat32;
        let mut sector = old.to_vec();
        sector.resize(512, 0);
        let short = |value: u64, limit: bool| if limit { value as u16 } else { 0 };
        let few = !is_32 && self.total <= u64::from(u16::MAX);
        put(&mut sector, 11, &(self.sector_size as u16).to_le_bytes());
        put(&mut sector, 13, &[(self.cluster_size / self.sector_size) as u8]);
        put(&mut sector, 14, &(self.reserved as u16).to_le_bytes());
        put(&mut sector, 16, &[self.fats as u8]);
        let root_entries = (self.root_sectors * u64::from(self.sector_size) / 32).min(u16::MAX.into());
        put(&mut sector, 17, &short(root_entries, !is_32).to_le_bytes());
        put(&mut sector, 19, &short(self.total, few).to_le_bytes());
        put(&mut sector, 22, &short(self.fat_sectors, !is_32).to_le_bytes());
        // Sectors before the partition; the field cannot hold more than 2 TiB with small ones, and only BIOS boot code asks.
        let hidden = u32::try_from(start / u64::from(self.sector_size)).unwrap_or(0);
        put(&mut sector, 28, &hidden.to_le_bytes());
        put(&mut sector, 32, &(if few { 0 } else { self.total as u32 }).to_le_bytes());
        if is_32 {
            put(&mut sector, 36, &(self.fat_sectors as u32).to_le_bytes());
            // Flags and version 0; root directory in cluster 2; FSInfo in sector 1.
            put(&mut sector, 40, &[0, 0, 0, 0, 2, 0, 0, 0, 1, 0]);
            put(&mut sector, 50, &(BACKUP as u16).to_le_bytes());
            put(&mut sector, 52, &[0; 12]);
        }
        // "In use" and "surface scan wanted" are no longer true.
        put(&mut sector, if is_32 { 65 } else { 37 }, &[0]);
        let name: &[u8; 8] = match self.kind {
            FilesystemKind::Fat32 => b"FAT32   ",
            FilesystemKind::Fat16 => b"FAT16   ",
            _ => b"FAT12   ",
        };
        put(&mut sector, if is_32 { 82 } else { 54 }, name);
        put(&mut sector, 510, &[0x55, 0xAA]);
        sector
    }
}

/// Sets a field of a structure that is long enough for it.
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = at.checked_add(field.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(field);
    }
}
