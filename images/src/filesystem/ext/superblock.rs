// SPDX-License-Identifier: Apache-2.0
//! The superblock, 1024 bytes at byte 1024 (Documentation/filesystems/ext4/super.rst).

use super::checksum::crc32c;
use super::features::{
    BIGALLOC, BITS_64, CSUM_SEED, Features, GDT_CSUM, HAS_JOURNAL, JOURNAL_DEV, METADATA_CSUM, MMP,
    NEEDS_RECOVERY,
};
use crate::parse::{Bytes, c_text, uuid_text};
use crate::{BlockSource, Error, Result};

/// Where the superblock begins, and its length, in bytes.
pub(super) const OFFSET: u64 = 1024;
pub(super) const SIZE: usize = 1024;

pub(super) const MAGIC: u16 = 0xef53;
pub(super) const CHECKSUM_AT: usize = 0x3fc;
const STATE_VALID: u16 = 0x1;
const STATE_ERROR: u16 = 0x2;
const DOING: &str = "reading the ext superblock";

/// The fields that this reader needs. Plausible by themselves; [`super::groups::Geometry`] holds them against
/// each other and against the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) features: Features,
    pub(super) uuid: [u8; 16],
    pub(super) label: String,
    pub(super) blocks_count: u64,
    pub(super) first_data_block: u64,
    /// Bytes: 1 KiB to 64 KiB.
    pub(super) block_size: u32,
    /// Blocks per cluster, a power of two; 1 without `bigalloc`.
    pub(super) cluster_ratio: u32,
    pub(super) blocks_per_group: u32,
    pub(super) clusters_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    /// Bytes of one group descriptor.
    pub(super) desc_size: u16,
    pub(super) reserved_gdt_blocks: u16,
    pub(super) first_meta_bg: u32,
    pub(super) backup_groups: [u32; 2],
    pub(super) mmp_block: Option<u64>,
    pub(super) journal_inode: u32,
    pub(super) journal_uuid: [u8; 16],
    /// Start value of all CRC-32C of metadata.
    pub(super) checksum_seed: u32,
    state: u16,
}

impl Superblock {
    /// `None` where the magic is not there.
    ///
    /// # Errors
    /// `Malformed` where the magic is right and the checksum or a basic field is not.
    pub(super) fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        if source.size() < OFFSET + SIZE as u64 {
            return Ok(None);
        }
        let mut raw = [0; SIZE];
        source.read_at(&mut raw, OFFSET)?;
        let bytes = Bytes::new(&raw, "ext superblock");
        if bytes.u16_le(0x38)? != MAGIC {
            return Ok(None);
        }
        Self::parse(bytes).map(Some).map_err(|error| error.at(OFFSET))
    }

    fn parse(bytes: Bytes<'_>) -> Result<Self> {
        let features = Features {
            compat: bytes.u32_le(0x5c)?,
            incompat: bytes.u32_le(0x60)?,
            ro_compat: bytes.u32_le(0x64)?,
        };
        if features.ro_compat & METADATA_CSUM != 0 {
            if bytes.u8(0x175)? != 1 {
                return Err(Error::unsupported(DOING, "checksums are of an unknown type"));
            }
            if crc32c(!0, bytes.slice(0, CHECKSUM_AT)?) != bytes.u32_le(CHECKSUM_AT)? {
                return Err(Error::malformed(DOING, "checksum mismatch"));
            }
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(bytes.slice(0x68, 16)?);
        let mut journal_uuid = [0; 16];
        journal_uuid.copy_from_slice(bytes.slice(0xd0, 16)?);

        let wide = features.incompat & BITS_64 != 0;
        let bigalloc = features.ro_compat & BIGALLOC != 0;
        let (log_block, log_cluster) = (bytes.u32_le(0x18)?, bytes.u32_le(0x1c)?);
        if log_block > 6 {
            return Err(Error::malformed(DOING, "the block size is over 64 KiB"));
        }
        let log_ratio = if bigalloc { log_cluster.wrapping_sub(log_block) } else { 0 };
        if log_ratio > 20 {
            return Err(Error::malformed(DOING, "the cluster size is impossible"));
        }
        let high = if wide { bytes.u32_le(0x150)? } else { 0 };
        let block_size = 1024 << log_block;
        let blocks_count = u64::from(high) << 32 | u64::from(bytes.u32_le(0x4)?);
        if blocks_count == 0 || blocks_count.checked_mul(u64::from(block_size)).is_none() {
            return Err(Error::malformed(DOING, "the number of blocks is impossible"));
        }
        Ok(Self {
            features,
            label: c_text(bytes.slice(0x78, 16)?),
            blocks_count,
            first_data_block: bytes.u32_le(0x14)?.into(),
            block_size,
            cluster_ratio: 1 << log_ratio,
            blocks_per_group: bytes.u32_le(0x20)?,
            clusters_per_group: bytes.u32_le(if bigalloc { 0x24 } else { 0x20 })?,
            inodes_per_group: bytes.u32_le(0x28)?,
            inode_size: if bytes.u32_le(0x4c)? == 0 { 128 } else { bytes.u16_le(0x58)? },
            desc_size: if wide { bytes.u16_le(0xfe)? } else { 32 },
            reserved_gdt_blocks: bytes.u16_le(0xce)?,
            first_meta_bg: bytes.u32_le(0x104)?,
            backup_groups: [bytes.u32_le(0x24c)?, bytes.u32_le(0x250)?],
            mmp_block: if features.incompat & MMP != 0 { Some(bytes.u64_le(0x168)?) } else { None },
            journal_inode: bytes.u32_le(0xe0)?,
            journal_uuid,
            checksum_seed: if features.incompat & CSUM_SEED != 0 {
                bytes.u32_le(0x270)?
            } else {
                crc32c(!0, &uuid)
            },
            uuid,
            state: bytes.u16_le(0x3a)?,
        })
    }

    /// Bytes that the filesystem says it covers.
    pub(super) fn size_bytes(&self) -> u64 {
        self.blocks_count.saturating_mul(self.block_size.into())
    }

    pub(super) fn is_journal_device(&self) -> bool {
        self.features.incompat & JOURNAL_DEV != 0
    }

    pub(super) fn has_journal(&self) -> bool {
        self.features.compat & HAS_JOURNAL != 0
    }

    /// The journal is on another device: no inode holds it.
    pub(super) fn external_journal(&self) -> Option<String> {
        (self.has_journal() && self.journal_inode == 0).then(|| uuid_text(&self.journal_uuid))
    }

    pub(super) fn needs_recovery(&self) -> bool {
        self.features.incompat & NEEDS_RECOVERY != 0
    }

    /// Group descriptors carry a checksum, and so may have the UNINIT flags.
    pub(super) fn has_descriptor_checksums(&self) -> bool {
        self.features.ro_compat & (GDT_CSUM | METADATA_CSUM) != 0
    }

    pub(super) fn has_metadata_checksums(&self) -> bool {
        self.features.ro_compat & METADATA_CSUM != 0
    }

    /// Why the bitmaps may be wrong although nothing in the journal says so.
    ///
    /// With a journal the kernel leaves the valid flag set while the filesystem is mounted; without one it clears it
    /// (`ext4_setup_super`), and bitmaps reach the disk whenever writeback comes to them.
    pub(super) fn distrust(&self) -> Option<&'static str> {
        if self.state & STATE_ERROR != 0 {
            Some("the filesystem is marked as having errors")
        } else if self.state & STATE_VALID == 0 {
            Some("the filesystem was not unmounted, and no journal says what is missing")
        } else {
            None
        }
    }
}
