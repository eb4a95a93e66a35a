// SPDX-License-Identifier: Apache-2.0
//! Block groups: where their descriptors are, what the descriptors say, and the metadata that each group begins with.
//!
//! ```text
//!   group with a copy     | superblock | descriptors (all) | reserved for growth | bitmaps, inodes | data
//!   meta_bg, 3 of n       | [superblock] | descriptors (of these n groups) | bitmaps, inodes | data
//!   other groups          | bitmaps, inodes (with flex_bg: in the first group of a bundle) | data
//! ```

use std::ops::Range;

use super::checksum::{crc16, crc32c};
use super::features::{BITS_64, META_BG, SPARSE_SUPER, SPARSE_SUPER2};
use super::superblock::Superblock;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// More groups than this are not walked: 2 PiB with 4 KiB blocks. It bounds the time a hostile image can take.
const MOST_GROUPS: u64 = 1 << 24;
/// Descriptors are read and held in pieces of this many bytes (or one block).
const PIECE: u32 = 256 * 1024;
const BLOCK_UNINIT: u16 = 0x2;

/// One group descriptor, checked against the bounds of the filesystem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) index: u32,
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    /// The bitmap block holds nothing: only the group's metadata are in use.
    pub(super) block_uninit: bool,
    pub(super) free_clusters: u32,
    /// Checksum of the block bitmap, and the bits of it that the descriptor has room for.
    pub(super) bitmap_checksum: (u32, u32),
}

/// The sizes that follow from a superblock, checked.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) sb: Superblock,
    pub(super) groups: u32,
    /// Blocks of one group's inode table.
    pub(super) inode_table_blocks: u64,
    desc_per_block: u32,
    desc_blocks: u32,
}

impl Geometry {
    /// # Errors
    /// `Malformed` where fields contradict each other or the filesystem is larger than `device_size` bytes;
    /// `Unsupported` for unknown feature bits.
    pub(super) fn new(sb: Superblock, device_size: u64) -> Result<Self> {
        let bad = |because: &'static str| {
            Error::malformed("reading the ext superblock", because).at(super::superblock::OFFSET)
        };
        let unknown = sb.features.unknown();
        if !unknown.is_empty() {
            return Err(Error::unsupported(
                "reading the ext superblock",
                format!("unknown features: {}", unknown.join(", ")),
            ));
        }
        if sb.size_bytes() > device_size {
            return Err(bad("the filesystem is larger than its device"));
        }
        let block_bits = sb.block_size * 8;
        if sb.clusters_per_group == 0
            || sb.clusters_per_group > block_bits
            || !sb.clusters_per_group.is_multiple_of(8)
        {
            return Err(bad("the number of clusters in a group is impossible"));
        }
        if sb.clusters_per_group.checked_mul(sb.cluster_ratio) != Some(sb.blocks_per_group) {
            return Err(bad("the numbers of clusters and blocks in a group contradict each other"));
        }
        let lowest = u64::from(sb.block_size == 1024 && sb.cluster_ratio == 1);
        if sb.first_data_block != lowest || sb.blocks_count <= lowest {
            return Err(bad("the first data block is impossible"));
        }
        let inode_size = u32::from(sb.inode_size);
        if !inode_size.is_power_of_two() || inode_size < 128 || inode_size > sb.block_size {
            return Err(bad("the inode size is impossible"));
        }
        if sb.inodes_per_group == 0 || sb.inodes_per_group > block_bits {
            return Err(bad("the number of inodes in a group is impossible"));
        }
        let desc_size = u32::from(sb.desc_size);
        let smallest = if sb.features.incompat & BITS_64 != 0 { 64 } else { 32 };
        if !desc_size.is_power_of_two() || !(smallest..=1024).contains(&desc_size) {
            return Err(bad("the size of a group descriptor is impossible"));
        }
        let groups = (sb.blocks_count - sb.first_data_block).div_ceil(sb.blocks_per_group.into());
        if groups > MOST_GROUPS {
            return Err(Error::unsupported(
                "reading the ext superblock",
                format!("{groups} block groups are more than this reader walks"),
            ));
        }
        let groups = groups as u32;
        let desc_per_block = sb.block_size / desc_size;
        let desc_blocks = groups.div_ceil(desc_per_block);
        if sb.features.incompat & META_BG != 0 && sb.first_meta_bg > desc_blocks {
            return Err(bad("the first meta block group lies behind the end"));
        }
        let inode_table_blocks =
            (u64::from(sb.inodes_per_group) * u64::from(inode_size)).div_ceil(sb.block_size.into());
        Ok(Self { groups, inode_table_blocks, desc_per_block, desc_blocks, sb })
    }

    /// Blocks of group `index`; the last group may be short.
    pub(super) fn blocks_of(&self, index: u32) -> Range<u64> {
        let start = self.sb.first_data_block + u64::from(index) * u64::from(self.sb.blocks_per_group);
        start..(start + u64::from(self.sb.blocks_per_group)).min(self.sb.blocks_count)
    }

    /// Superblock copy, descriptors and blocks reserved for more descriptors at the start of group `index`.
    pub(super) fn leading_metadata(&self, index: u32) -> Range<u64> {
        let has_super = self.has_super(index);
        let meta_group = index / self.desc_per_block;
        let mut blocks = u64::from(has_super);
        if self.is_meta_bg(meta_group) {
            let within = index % self.desc_per_block;
            blocks += u64::from(within <= 1 || within == self.desc_per_block - 1);
        } else if has_super {
            let meta_bg = self.sb.features.incompat & META_BG != 0;
            blocks += u64::from(if meta_bg { self.sb.first_meta_bg } else { self.desc_blocks });
            // Not only with `resize_inode`: the kernel counts them whatever the feature bit says.
            blocks += u64::from(self.sb.reserved_gdt_blocks);
        }
        let mut start = self.blocks_of(index).start;
        if index == 0 && start == 0 && self.sb.block_size == 1024 {
            start = 1; // 1 KiB blocks with bigalloc: the boot block is block 0 of group 0.
        }
        start..start.saturating_add(blocks).min(self.sb.blocks_count)
    }

    fn is_meta_bg(&self, meta_group: u32) -> bool {
        self.sb.features.incompat & META_BG != 0 && meta_group >= self.sb.first_meta_bg
    }

    fn has_super(&self, index: u32) -> bool {
        let power_of = |base: u32| {
            let mut power = base;
            while power < index {
                power = power.saturating_mul(base);
            }
            power == index
        };
        if index == 0 {
            true
        } else if self.sb.features.compat & SPARSE_SUPER2 != 0 {
            self.sb.backup_groups.contains(&index)
        } else if self.sb.features.ro_compat & SPARSE_SUPER == 0 || index == 1 {
            true
        } else {
            power_of(3) || power_of(5) || power_of(7)
        }
    }

    /// Block that holds descriptor block number `number` (the primary copy).
    fn descriptor_block(&self, number: u32) -> u64 {
        let primary_super = u64::from(self.sb.block_size == 1024);
        if !self.is_meta_bg(number) {
            return primary_super + 1 + u64::from(number);
        }
        let group = number * self.desc_per_block;
        if number == 0 {
            return primary_super + 1;
        }
        self.blocks_of(group).start + u64::from(self.has_super(group))
    }

    /// First byte of every superblock: the one that counts, then the copies.
    pub(super) fn superblocks(&self) -> impl Iterator<Item = u64> + '_ {
        let copies = (1..self.groups).filter(|&index| self.has_super(index));
        let block_size = u64::from(self.sb.block_size);
        std::iter::once(super::superblock::OFFSET)
            .chain(copies.map(move |index| self.blocks_of(index).start.saturating_mul(block_size)))
    }

    /// Every block with descriptors, copies included, and the group that its first descriptor is of; at most `most` of them.
    pub(super) fn descriptor_copies(&self, most: usize) -> Option<Vec<(u64, u32)>> {
        let copies: Vec<u32> = (1..self.groups).filter(|&index| self.has_super(index)).take(most).collect();
        let mut blocks = Vec::new();
        for number in 0..self.desc_blocks {
            let first = number.saturating_mul(self.desc_per_block);
            blocks.push((self.descriptor_block(number), first));
            if self.is_meta_bg(number) {
                // In the second and the last group of the bundle too.
                for index in [first.saturating_add(1), first.saturating_add(self.desc_per_block - 1)] {
                    if index < self.groups && index != first {
                        blocks.push((self.blocks_of(index).start + u64::from(self.has_super(index)), first));
                    }
                }
            } else {
                let copy = |&index: &u32| (self.blocks_of(index).start + 1 + u64::from(number), first);
                blocks.extend(copies.iter().map(copy));
            }
            if blocks.len() > most {
                return None;
            }
        }
        Some(blocks)
    }

    /// Hands all descriptors to `visit`, in ascending pieces of at most a few thousand.
    ///
    /// # Errors
    /// `Malformed` for a checksum or a location that is wrong.
    pub(super) fn each_piece(
        &self,
        source: &dyn BlockSource,
        mut visit: impl FnMut(&[Group]) -> Result<()>,
    ) -> Result<()> {
        let block_size = u64::from(self.sb.block_size);
        let mut number = 0;
        while number < self.desc_blocks {
            let mut run = 1;
            while number + run < self.desc_blocks
                && (run + 1) * self.sb.block_size <= PIECE
                && self.descriptor_block(number + run) == self.descriptor_block(number) + u64::from(run)
            {
                run += 1;
            }
            let at = self.descriptor_block(number) * block_size;
            let raw = read_vec(source, at, (run * self.sb.block_size) as usize)?;
            let first = number * self.desc_per_block;
            let last = (number + run).saturating_mul(self.desc_per_block).min(self.groups);
            let mut piece = Vec::with_capacity((last - first) as usize);
            for (index, raw) in (first..last).zip(raw.chunks_exact(self.sb.desc_size.into())) {
                let offset = u64::from(index - first) * u64::from(self.sb.desc_size);
                piece.push(self.parse_descriptor(index, raw).map_err(|error| error.at(at + offset))?);
            }
            visit(&piece)?;
            number += run;
        }
        Ok(())
    }

    /// One descriptor.
    pub(super) fn descriptor(&self, source: &dyn BlockSource, index: u32) -> Result<Group> {
        let at = self.descriptor_block(index / self.desc_per_block) * u64::from(self.sb.block_size)
            + u64::from(index % self.desc_per_block) * u64::from(self.sb.desc_size);
        let raw = read_vec(source, at, self.sb.desc_size.into())?;
        self.parse_descriptor(index, &raw).map_err(|error| error.at(at))
    }

    fn parse_descriptor(&self, index: u32, raw: &[u8]) -> Result<Group> {
        let bad =
            |because: &'static str| Error::malformed(format!("reading group descriptor {index}"), because);
        let bytes = Bytes::new(raw, "group descriptor");
        // The 64-bit halves exist only in descriptors that have room for them.
        let wide = raw.len() >= 64;
        let wide_u64 = |low: usize, high: usize| -> Result<u64> {
            let high = if wide { bytes.u32_le(high)? } else { 0 };
            Ok(u64::from(high) << 32 | u64::from(bytes.u32_le(low)?))
        };
        let wide_u32 = |low: usize, high: usize| -> Result<u32> {
            let high = if wide { bytes.u16_le(high)? } else { 0 };
            Ok(u32::from(high) << 16 | u32::from(bytes.u16_le(low)?))
        };
        let checksums = self.sb.has_descriptor_checksums();
        if checksums && self.descriptor_checksum(index, bytes)? != bytes.u16_le(0x1e)? {
            return Err(bad("checksum mismatch"));
        }
        let group = Group {
            index,
            block_bitmap: wide_u64(0x0, 0x20)?,
            inode_bitmap: wide_u64(0x4, 0x24)?,
            inode_table: wide_u64(0x8, 0x28)?,
            block_uninit: checksums && bytes.u16_le(0x12)? & BLOCK_UNINIT != 0,
            free_clusters: wide_u32(0xc, 0x2c)?,
            bitmap_checksum: (wide_u32(0x18, 0x38)?, if wide { !0 } else { 0xffff }),
        };
        let fits = |start: u64, blocks: u64| {
            start >= self.sb.first_data_block.max(1)
                && start.checked_add(blocks).is_some_and(|end| end <= self.sb.blocks_count)
        };
        if !fits(group.block_bitmap, 1)
            || !fits(group.inode_bitmap, 1)
            || !fits(group.inode_table, self.inode_table_blocks)
        {
            return Err(bad("it points outside of the filesystem"));
        }
        Ok(group)
    }

    /// Documentation/filesystems/ext4/checksums.rst; with both features `metadata_csum` decides.
    pub(super) fn descriptor_checksum(&self, index: u32, bytes: Bytes<'_>) -> Result<u16> {
        let (head, tail) = (bytes.slice(0, 0x1e)?, bytes.slice(0x20, bytes.len() - 0x20)?);
        if self.sb.has_metadata_checksums() {
            let sum = crc32c(self.sb.checksum_seed, &index.to_le_bytes());
            let sum = crc32c(crc32c(sum, head), &[0, 0]);
            return Ok(crc32c(sum, tail) as u16);
        }
        let sum = crc16(crc16(!0, &self.sb.uuid), &index.to_le_bytes());
        Ok(crc16(crc16(sum, head), tail))
    }
}
