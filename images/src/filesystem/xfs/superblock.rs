// SPDX-License-Identifier: Apache-2.0
//! The superblock of group 0: geometry and feature bits.

use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const READING: &str = "reading the XFS superblock";

/// What the reader needs of `struct xfs_dsb`. Sizes in bytes or in blocks, as said.
pub(super) struct Superblock {
    /// Bytes of a filesystem block, 512 to 65536.
    pub(super) block_size: u32,
    /// Bytes of a sector, 512 to 32768: what AG headers are made of.
    pub(super) sector_size: u32,
    /// Blocks of the data device.
    pub(super) blocks: u64,
    /// Blocks of the realtime device.
    pub(super) realtime_blocks: u64,
    /// First block of the internal log as (group << group_log | block in group); 0: external.
    pub(super) log_start: u64,
    /// Blocks of the log.
    pub(super) log_blocks: u32,
    /// Blocks of every group but the last.
    pub(super) group_blocks: u32,
    pub(super) groups: u32,
    /// Bits of a block number that count within the group.
    pub(super) group_log: u8,
    /// As people and `blkid` see it.
    pub(super) uuid: [u8; 16],
    /// As metadata blocks bear it; differs after `xfs_admin -U` (feature META_UUID).
    pub(super) meta_uuid: [u8; 16],
    pub(super) label: [u8; 12],
    pub(super) features: Features,
}

/// Version and feature bits.
#[derive(Clone, Copy)]
pub(super) struct Features {
    version: u16,
    features2: u32,
    ro_compat: u32,
    incompat: u32,
}

pub(super) const INCOMPAT_META_UUID: u32 = 1 << 2;
const INCOMPAT_NEEDSREPAIR: u32 = 1 << 4;

/// A feature bit, its name, and whether it leaves alone what this reader relies on.
type Bit = (u32, &'static str, bool);

/// Names as `xfs_info` prints them. A `true` says that the bit leaves groups, free-space trees and log as this reader
/// knows them: parent pointers are extended attributes, exchange-range is a kind of log item. A
/// metadata directory moves the realtime fields, and zoned groups have no free-space trees.
const INCOMPAT: &[Bit] = &[
    (1 << 0, "ftype", true),
    (1 << 1, "sparse", true),
    (INCOMPAT_META_UUID, "meta_uuid", true),
    (1 << 3, "bigtime", true),
    (INCOMPAT_NEEDSREPAIR, "needsrepair", true),
    (1 << 5, "nrext64", true),
    (1 << 6, "exchange", true),
    (1 << 7, "parent", true),
    (1 << 8, "metadir", false),
    (1 << 9, "zoned", false),
    (1 << 10, "zone-gaps", false),
];

const RO_COMPAT: &[Bit] = &[
    (1 << 0, "finobt", true),
    (1 << 1, "rmapbt", true),
    (1 << 2, "reflink", true),
    (1 << 3, "inobtcount", true),
];

/// Of `sb_features2`; the kernel mounts version 4 with these alone (`xfs_sb_good_v4_features`). 0x100 is "crc".
const FEATURES2: &[Bit] =
    &[(0x2, "lazy-count", true), (0x8, "attr2", true), (0x80, "projid32bit", true), (0x200, "ftype", true)];

const VERSION_SHARED: u16 = 0x0200;
/// `sb_features2` is in use.
const VERSION_MOREBITS: u16 = 0x8000;

impl Features {
    pub(super) fn is_v5(self) -> bool {
        self.version & 0xf == 5
    }

    /// Directory entries say what they name.
    pub(super) fn has_types(self) -> bool {
        if self.is_v5() { self.incompat & 1 != 0 } else { self.features2 & 0x200 != 0 }
    }

    pub(super) fn needs_repair(self) -> bool {
        self.is_v5() && self.incompat & INCOMPAT_NEEDSREPAIR != 0
    }

    fn tables(self) -> [(u32, &'static [Bit]); 3] {
        // Version 5 implies attr2, lazy counters and 32-bit project IDs, and has its own bit for ftype.
        let (v5, features2) = if self.is_v5() { (u32::MAX, 0) } else { (0, self.features2) };
        [(features2, FEATURES2), (self.incompat & v5, INCOMPAT), (self.ro_compat & v5, RO_COMPAT)]
    }

    /// As `xfs_info` spells them, first the version.
    pub(super) fn names(self) -> Vec<String> {
        let mut names = vec![if self.is_v5() { "crc".to_owned() } else { "v4".to_owned() }];
        for (bits, table) in self.tables() {
            names.extend(
                table.iter().filter(|(bit, ..)| bits & bit != 0).map(|(_, name, _)| (*name).to_owned()),
            );
        }
        names
    }
}

impl Superblock {
    /// `None` without the magic.
    pub(super) fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        if source.size() < 512 {
            return Ok(None);
        }
        let first = read_vec(source, 0, 512)?;
        if !first.starts_with(b"XFSB") {
            return Ok(None);
        }
        let sector_size = Bytes::new(&first, "the XFS superblock").u16_be(102)?;
        if !(512..=32768).contains(&sector_size) || !sector_size.is_power_of_two() {
            return Err(bad(format!("sector size {sector_size}")));
        }
        if u64::from(sector_size) > source.size() {
            return Err(bad("the partition ends within it"));
        }
        let sector = read_vec(source, 0, usize::from(sector_size))?;
        let raw = Bytes::new(&sector, "the XFS superblock");
        let superblock = Self::parse(raw)?;
        if superblock.features.is_v5() && !checksum_matches(&sector, 224)? {
            return Err(bad("checksum mismatch"));
        }
        superblock.check()?;
        if raw.u8(126)? != 0 {
            return Err(bad("mkfs.xfs or a copy onto it was not finished"));
        }
        Ok(Some(superblock))
    }

    fn parse(raw: Bytes<'_>) -> Result<Self> {
        let version = raw.u16_be(100)?;
        let features = Features {
            version,
            features2: if version & VERSION_MOREBITS != 0 { raw.u32_be(200)? } else { 0 },
            ro_compat: raw.u32_be(212)?,
            incompat: raw.u32_be(216)?,
        };
        let uuid = array(raw, 32)?;
        let meta_uuid = match features.is_v5() && features.incompat & INCOMPAT_META_UUID != 0 {
            true => array(raw, 248)?,
            false => uuid,
        };
        Ok(Self {
            block_size: raw.u32_be(4)?,
            sector_size: raw.u16_be(102)?.into(),
            blocks: raw.u64_be(8)?,
            realtime_blocks: raw.u64_be(16)?,
            log_start: raw.u64_be(48)?,
            log_blocks: raw.u32_be(96)?,
            group_blocks: raw.u32_be(84)?,
            groups: raw.u32_be(88)?,
            group_log: raw.u8(124)?,
            uuid,
            meta_uuid,
            label: array(raw, 108)?,
            features,
        })
    }

    /// The limits of the kernel's `xfs_validate_sb_common`, so that nothing below can overflow.
    fn check(&self) -> Result<()> {
        if !matches!(self.features.version & 0xf, 4 | 5) {
            return Err(Error::unsupported(READING, format!("version {}", self.features.version & 0xf)).at(0));
        }
        if !(512..=65536).contains(&self.block_size)
            || !self.block_size.is_power_of_two()
            || self.block_size < self.sector_size
        {
            return Err(bad(format!("block size {} with sector size {}", self.block_size, self.sector_size)));
        }
        // A group holds its headers and at least 64 blocks, and at most 1 TiB.
        let group_bytes = u64::from(self.group_blocks) * u64::from(self.block_size);
        if self.group_blocks < 64 || group_bytes > 1 << 40 {
            return Err(bad(format!("groups of {} blocks", self.group_blocks)));
        }
        if self.group_blocks.next_power_of_two().trailing_zeros() != u32::from(self.group_log) {
            return Err(bad(format!("group size {} with log {}", self.group_blocks, self.group_log)));
        }
        let whole = u64::from(self.groups) * u64::from(self.group_blocks);
        if self.groups == 0 || self.blocks > whole || self.blocks + u64::from(self.group_blocks) < whole + 64
        {
            return Err(bad(format!("{} blocks in {} groups", self.blocks, self.groups)));
        }
        if self.blocks.checked_mul(u64::from(self.block_size)).is_none_or(|bytes| bytes > i64::MAX as u64) {
            return Err(bad(format!("{} blocks", self.blocks)));
        }
        Ok(())
    }

    /// Metadata blocks bear another UUID than the superblock.
    pub(super) fn has_meta_uuid(&self) -> bool {
        self.features.is_v5() && self.features.incompat & INCOMPAT_META_UUID != 0
    }

    /// `Unsupported` where a bit is set whose effect on the free-space trees is not known.
    pub(super) fn refuse_unknown_features(&self) -> Result<()> {
        for (bits, table) in self.features.tables() {
            let known = table.iter().filter(|row| row.2).fold(0, |known, (bit, ..)| known | bit);
            if let Some((_, name, _)) = table.iter().find(|(bit, _, fine)| bits & bit != 0 && !fine) {
                return Err(Error::unsupported(READING, format!("feature {name}")).at(0));
            }
            if bits & !known != 0 {
                return Err(Error::unsupported(READING, format!("feature bits {:#x}", bits & !known)).at(0));
            }
        }
        if !self.features.is_v5() && self.features.version & VERSION_SHARED != 0 {
            return Err(Error::unsupported(READING, "a shared volume").at(0));
        }
        Ok(())
    }

    /// Bytes of the data device.
    pub(super) fn size_bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_size)
    }

    /// Blocks of group `group`, which must exist.
    pub(super) fn blocks_of_group(&self, group: u32) -> u32 {
        let before = u64::from(group) * u64::from(self.group_blocks);
        (self.blocks - before).min(u64::from(self.group_blocks)) as u32
    }

    /// Byte at which block `block` of `group` starts.
    pub(super) fn byte_of(&self, group: u32, block: u32) -> u64 {
        (u64::from(group) * u64::from(self.group_blocks) + u64::from(block)) * u64::from(self.block_size)
    }

    /// The internal log as (group, first block in it, blocks); an error unless it lies within one group.
    pub(super) fn log(&self) -> Result<(u32, u32, u32)> {
        let (group, block) = (self.log_start >> self.group_log, self.log_start & ((1 << self.group_log) - 1));
        let group = u32::try_from(group).ok().filter(|group| *group < self.groups);
        let placed = group.and_then(|group| {
            let end = block.checked_add(u64::from(self.log_blocks))?;
            (self.log_blocks != 0 && end <= u64::from(self.blocks_of_group(group))).then_some(group)
        });
        match placed {
            Some(group) => Ok((group, block as u32, self.log_blocks)),
            None => Err(bad(format!("a log of {} blocks at {:#x}", self.log_blocks, self.log_start))),
        }
    }
}

/// True if the little-endian CRC-32C at `field` is that of `data` with the field taken as zero.
pub(super) fn checksum_matches(data: &[u8], field: usize) -> Result<bool> {
    Ok(checksum(data, field)? == Bytes::new(data, "an XFS structure").u32_le(field)?)
}

/// CRC-32C of `data` with the four bytes at `field` taken as zero.
pub(super) fn checksum(data: &[u8], field: usize) -> Result<u32> {
    let raw = Bytes::new(data, "an XFS structure");
    let (before, after) = (raw.slice(0, field)?, raw.slice(field + 4, data.len().saturating_sub(field + 4))?);
    Ok(crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after))
}

fn array<const N: usize>(raw: Bytes<'_>, offset: usize) -> Result<[u8; N]> {
    let mut out = [0; N];
    out.copy_from_slice(raw.slice(offset, N)?);
    Ok(out)
}

fn bad(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::malformed(READING, because).at(0)
}
