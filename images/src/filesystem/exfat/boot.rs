// SPDX-License-Identifier: Apache-2.0
//! The exFAT boot region and its FAT ("exFAT file system specification", 3 and 4.1).

use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// Geometry of one volume; offsets and sizes in bytes from its start.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    pub(super) sector_size: u32,
    /// At most 32 MiB.
    pub(super) cluster_size: u32,
    /// Clusters, numbered from 2.
    pub(super) clusters: u64,
    /// The active FAT.
    fat: u64,
    pub(super) fats: u8,
    /// Cluster 2.
    pub(super) heap: u64,
    pub(super) size: u64,
    pub(super) root_cluster: u64,
    /// Bit 0 second FAT active, 1 dirty, 2 media failure.
    pub(super) flags: u16,
    pub(super) serial: [u8; 4],
}

impl Boot {
    /// `None` if there is no exFAT magic; an error if what stands behind the magic makes no sense.
    pub(super) fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        if source.size() < 512 {
            return Ok(None);
        }
        let raw = read_vec(source, 0, 512)?;
        let raw = Bytes::new(&raw, "exFAT boot sector");
        // The specification demands zeros where FAT has its parameters, so that no FAT driver takes it (3.1.3).
        if raw.slice(3, 8)? != b"EXFAT   " || raw.slice(11, 53)?.iter().any(|byte| *byte != 0) {
            return Ok(None);
        }
        let broken = |because: &'static str| Error::malformed("reading the exFAT boot sector", because);
        let (sector_shift, cluster_shift) = (u32::from(raw.u8(108)?), u32::from(raw.u8(109)?));
        if !(9..=12).contains(&sector_shift) || cluster_shift > 25 - sector_shift {
            return Err(broken("the sector or cluster size is out of bounds"));
        }
        check_sum(source, 1 << sector_shift)?;
        let sectors =
            |count: u64| count.checked_mul(1 << sector_shift).filter(|bytes| *bytes <= source.size());
        let outside = || broken("the volume is larger than the partition");
        let size = sectors(raw.u64_le(72)?).ok_or_else(outside)?;
        let fat = sectors(raw.u32_le(80)?.into()).ok_or_else(outside)?;
        let fat_size = sectors(raw.u32_le(84)?.into()).ok_or_else(outside)?;
        let heap = sectors(raw.u32_le(88)?.into()).ok_or_else(outside)?;
        let clusters = u64::from(raw.u32_le(92)?);
        let (fats, flags) = (raw.u8(110)?, raw.u16_le(106)?);
        let cluster_size = 1u32 << (sector_shift + cluster_shift);
        let heap_end = clusters.checked_mul(cluster_size.into()).and_then(|bytes| bytes.checked_add(heap));
        if !(1..=2).contains(&fats)
            || clusters == 0
            || fat < 24 << sector_shift
            || fat_size / 4 < clusters + 2
            || fat_size
                .checked_mul(fats.into())
                .and_then(|all| all.checked_add(fat))
                .is_none_or(|end| end > heap)
            || heap_end.is_none_or(|end| end > size)
        {
            return Err(broken("its regions overlap or leave the volume"));
        }
        let mut serial = [0; 4];
        serial.copy_from_slice(raw.slice(100, 4)?);
        let active = if fats == 2 && flags & 1 != 0 { fat + fat_size } else { fat };
        let mut boot = Self {
            sector_size: 1 << sector_shift,
            cluster_size,
            clusters,
            fat: active,
            fats,
            heap,
            size,
            root_cluster: 0,
            flags,
            serial,
        };
        boot.root_cluster = boot.valid(raw.u32_le(96)?)?;
        Ok(Some(boot))
    }

    /// First byte of a cluster.
    pub(super) fn cluster_at(&self, cluster: u64) -> u64 {
        self.heap + cluster.saturating_sub(2) * u64::from(self.cluster_size)
    }

    /// Refuses numbers that name no cluster.
    pub(super) fn valid(&self, cluster: u32) -> Result<u64> {
        let cluster = u64::from(cluster);
        if (2..self.clusters + 2).contains(&cluster) {
            return Ok(cluster);
        }
        Err(Error::malformed("following exFAT clusters", format!("there is no cluster {cluster}")))
    }

    /// The cluster behind `cluster` in its chain; `None` at its end.
    pub(super) fn next(&self, source: &dyn BlockSource, cluster: u64) -> Result<Option<u64>> {
        let entry = read_vec(source, self.fat + cluster * 4, 4)?;
        match Bytes::new(&entry, "FAT entry").u32_le(0)? {
            u32::MAX => Ok(None),
            next => self.valid(next).map(Some),
        }
    }
}

/// The twelfth sector repeats a checksum of the eleven before it, less the fields that change in use (3.4).
fn check_sum(source: &dyn BlockSource, sector_size: usize) -> Result<()> {
    if source.size() < 12 * sector_size as u64 {
        return Err(Error::malformed("reading the exFAT boot region", "the partition is shorter"));
    }
    let region = read_vec(source, 0, 12 * sector_size)?;
    let (region, sums) = region.split_at(11 * sector_size);
    let mut sum = 0u32;
    for (at, byte) in region.iter().enumerate() {
        if !matches!(at, 106 | 107 | 112) {
            sum = sum.rotate_right(1).wrapping_add((*byte).into());
        }
    }
    if sums.chunks_exact(4).any(|word| word != sum.to_le_bytes()) {
        return Err(Error::malformed("reading the exFAT boot region", "checksum mismatch"));
    }
    Ok(())
}
