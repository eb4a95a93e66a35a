// SPDX-License-Identifier: Apache-2.0
//! The NTFS boot sector (the BIOS parameter block that ntfs-3g's `layout.h` and Linux' `fs/ntfs3/ntfs.h` describe).

use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// Largest cluster: 2 MiB, since Windows 10 1709.
const MOST_CLUSTER: u64 = 2 << 20;

/// Geometry of one volume.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// Bytes per sector: 512 to 4096.
    pub(super) sector_size: u32,
    /// Bytes per cluster: 512 to 2 MiB.
    pub(super) cluster_size: u32,
    /// Whole clusters; `$Bitmap` has one bit for each.
    pub(super) clusters: u64,
    /// Bytes of the sectors that the boot sector counts; its backup lies behind them.
    pub(super) counted_bytes: u64,
    /// First cluster of the master file table.
    pub(super) mft: u64,
    /// Bytes per record of the master file table.
    pub(super) record_size: usize,
    /// Volume serial number.
    pub(super) serial: u64,
}

impl Boot {
    /// `None` if there is no NTFS magic; an error if what stands behind the magic makes no sense.
    pub(super) fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        if source.size() < 512 {
            return Ok(None);
        }
        let raw = read_vec(source, 0, 512)?;
        let raw = Bytes::new(&raw, "NTFS boot sector");
        if raw.slice(3, 8)? != b"NTFS    " {
            return Ok(None);
        }
        let broken = |because: &'static str| Error::malformed("reading the NTFS boot sector", because);
        let sector_size = u64::from(raw.u16_le(11)?);
        if !sector_size.is_power_of_two() || !(512..=4096).contains(&sector_size) {
            return Err(broken("the sector size is not a power of two from 512 to 4096"));
        }
        // Above 128 the count is a negated exponent: 0xF4 is 2^12 sectors.
        let sectors_per_cluster = match raw.u8(13)? {
            count if count.is_power_of_two() => u64::from(count),
            exponent @ 0xF4.. => 1 << (256 - u32::from(exponent)),
            _ => return Err(broken("the sectors per cluster are not a power of two")),
        };
        let cluster_size = sector_size * sectors_per_cluster;
        if cluster_size > MOST_CLUSTER {
            return Err(broken("the clusters are larger than 2 MiB"));
        }
        let sectors = raw.u64_le(40)?;
        let counted_bytes = sectors
            .checked_mul(sector_size)
            .filter(|bytes| *bytes <= source.size())
            .ok_or_else(|| broken("the volume is larger than the partition"))?;
        let clusters = sectors / sectors_per_cluster;
        let mft = raw.u64_le(48)?;
        if mft >= clusters {
            return Err(broken("the master file table lies outside the volume"));
        }
        let record_size = match raw.u8(64)? as i8 {
            count if count > 0 => cluster_size * count as u64,
            exponent if exponent >= -16 => 1 << -i32::from(exponent),
            _ => 0,
        };
        if !record_size.is_power_of_two() || !(512..=65536).contains(&record_size) {
            return Err(broken("the file record size is not a power of two from 512 to 65536"));
        }
        Ok(Some(Self {
            sector_size: sector_size as u32,
            cluster_size: cluster_size as u32,
            clusters,
            counted_bytes,
            mft,
            record_size: record_size as usize,
            serial: raw.u64_le(72)?,
        }))
    }

    /// True if the sector behind the counted ones is a boot sector of the same geometry.
    pub(super) fn is_backed_up(&self, source: &dyn BlockSource) -> Result<bool> {
        let geometry = 3..80;
        if self.counted_bytes.checked_add(512).is_none_or(|end| end > source.size()) {
            return Ok(false);
        }
        let (first, backup) = (read_vec(source, 0, 512)?, read_vec(source, self.counted_bytes, 512)?);
        Ok(first.get(geometry.clone()) == backup.get(geometry))
    }
}
