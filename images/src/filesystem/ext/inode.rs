// SPDX-License-Identifier: Apache-2.0
//! Inodes, and which blocks the journal's one holds.

use super::checksum::crc32c;
use super::groups::Geometry;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

pub(super) const EXTENTS_FLAG: u32 = 0x8_0000;
pub(super) const INLINE_FLAG: u32 = 0x1000_0000;
pub(super) const EXTENT_MAGIC: u16 = 0xf30a;
/// Tree levels below the inode (`EXT4_MAX_EXTENT_DEPTH`).
pub(super) const MOST_DEPTH: u16 = 5;
/// Index blocks that are read for one inode: more than the longest journal with indirect 1 KiB blocks has.
const MOST_INDEXES: u32 = 1 << 17;
/// Blocks of a journal; mke2fs makes up to 10,240,000, and the fast commit area.
const MOST_BLOCKS: u64 = 1 << 24;

/// A run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First block within the file.
    pub(super) logical: u64,
    /// Number of blocks.
    pub(super) len: u64,
    /// First block on the disk.
    pub(super) physical: u64,
}

/// An inode's bytes, and the checksum seed of its structures.
///
/// # Errors
/// `Malformed` for a number that does not exist and for a wrong checksum.
pub(super) fn load(source: &dyn BlockSource, geometry: &Geometry, number: u32) -> Result<(Vec<u8>, u32)> {
    let sb = &geometry.sb;
    let doing = || format!("reading inode {number}");
    let index = number.checked_sub(1).ok_or_else(|| Error::malformed(doing(), "there is no such inode"))?;
    if index / sb.inodes_per_group >= geometry.groups {
        return Err(Error::malformed(doing(), "there is no such inode"));
    }
    let group = geometry.descriptor(source, index / sb.inodes_per_group)?;
    let at = group.inode_table * u64::from(sb.block_size)
        + u64::from(index % sb.inodes_per_group) * u64::from(sb.inode_size);
    let raw = read_vec(source, at, sb.inode_size.into())?;
    let bytes = Bytes::new(&raw, "inode");
    let seed = crc32c(crc32c(sb.checksum_seed, &number.to_le_bytes()), bytes.slice(0x64, 4)?);
    if sb.has_metadata_checksums() && !checksum_holds(bytes, seed)? {
        return Err(Error::malformed(doing(), "checksum mismatch").at(at));
    }
    Ok((raw, seed))
}

/// All blocks of inode `number`, in order and without holes.
///
/// # Errors
/// `Malformed` for a wrong checksum, location or order, and for a file with holes.
pub(super) fn runs(source: &dyn BlockSource, geometry: &Geometry, number: u32) -> Result<Vec<Run>> {
    let sb = &geometry.sb;
    let doing = || format!("reading inode {number}");
    let (raw, seed) = load(source, geometry, number)?;
    let bytes = Bytes::new(&raw, "inode");

    let size = u64::from(bytes.u32_le(0x6c)?) << 32 | u64::from(bytes.u32_le(0x4)?);
    let blocks = size / u64::from(sb.block_size);
    if blocks == 0 || blocks > MOST_BLOCKS {
        return Err(Error::malformed(doing(), format!("a journal of {size} bytes is impossible")));
    }
    let mut walk = Walk { source, geometry, seed, blocks, runs: Vec::new(), next: 0, indexes: 0 };
    let map = bytes.sub(0x28, 60)?;
    match bytes.u32_le(0x20)? {
        flags if flags & INLINE_FLAG != 0 => {
            return Err(Error::malformed(doing(), "its content is in the inode"));
        }
        flags if flags & EXTENTS_FLAG != 0 => walk.extents(map, None)?,
        _ => walk.indirect(map)?,
    }
    if walk.next < blocks {
        return Err(Error::malformed(doing(), format!("block {} is missing", walk.next)));
    }
    Ok(walk.runs)
}

/// `ext4_inode_csum`: the two halves of the checksum count as zeros.
fn checksum_holds(bytes: Bytes<'_>, seed: u32) -> Result<bool> {
    let mut sum = crc32c(seed, bytes.slice(0, 0x7c)?);
    sum = crc32c(crc32c(sum, &[0, 0]), bytes.slice(0x7e, 2)?);
    let low = u32::from(bytes.u16_le(0x7c)?);
    if bytes.len() <= 128 {
        return Ok(sum & 0xffff == low);
    }
    sum = crc32c(sum, bytes.slice(0x80, 2)?);
    if bytes.u16_le(0x80)? < 4 {
        sum = crc32c(sum, bytes.slice(0x82, bytes.len() - 0x82)?);
        return Ok(sum & 0xffff == low);
    }
    sum = crc32c(crc32c(sum, &[0, 0]), bytes.slice(0x84, bytes.len() - 0x84)?);
    Ok(sum == u32::from(bytes.u16_le(0x82)?) << 16 | low)
}

struct Walk<'a> {
    source: &'a dyn BlockSource,
    geometry: &'a Geometry,
    /// Checksum seed of this inode.
    seed: u32,
    /// Length of the file in blocks; what is mapped beyond it is ignored.
    blocks: u64,
    runs: Vec<Run>,
    /// Next block of the file that is to be mapped.
    next: u64,
    indexes: u32,
}

impl Walk<'_> {
    fn add(&mut self, logical: u64, len: u64, physical: u64) -> Result<()> {
        let len = len.min(self.blocks.saturating_sub(logical));
        if len == 0 {
            return Ok(());
        }
        let fits = physical.checked_add(len).is_some_and(|end| end <= self.geometry.sb.blocks_count);
        if logical != self.next || physical <= self.geometry.sb.first_data_block || !fits {
            return Err(Error::malformed(
                "reading the journal's block map",
                "it has a hole or a wrong block",
            ));
        }
        self.next += len;
        match self.runs.last_mut() {
            Some(last) if last.physical + last.len == physical => last.len += len,
            _ => self.runs.push(Run { logical, len, physical }),
        }
        Ok(())
    }

    fn index_block(&mut self, block: u64) -> Result<Vec<u8>> {
        self.indexes += 1;
        if self.indexes > MOST_INDEXES || block == 0 || block >= self.geometry.sb.blocks_count {
            return Err(Error::malformed("reading the journal's block map", "an index block is impossible"));
        }
        let block_size = self.geometry.sb.block_size;
        read_vec(self.source, block * u64::from(block_size), block_size as usize)
    }

    /// One node of an extent tree; `level` is what its parent expects of it.
    fn extents(&mut self, node: Bytes<'_>, level: Option<u16>) -> Result<()> {
        let doing = "reading the journal's extent tree";
        let (entries, most, depth) = (node.u16_le(2)?, node.u16_le(4)?, node.u16_le(6)?);
        if node.u16_le(0)? != EXTENT_MAGIC
            || entries > most
            || depth > MOST_DEPTH
            || level.is_some_and(|level| level != depth)
        {
            return Err(Error::malformed(doing, "a node's header is impossible"));
        }
        if level.is_some() && self.geometry.sb.has_metadata_checksums() {
            let tail = 12 + 12 * usize::from(most);
            if crc32c(self.seed, node.slice(0, tail)?) != node.u32_le(tail)? {
                return Err(Error::malformed(doing, "checksum mismatch"));
            }
        }
        for entry in 0..usize::from(entries) {
            let entry = node.sub(12 + 12 * entry, 12)?;
            if depth == 0 {
                // Above 32768 the extent is preallocated; its blocks are the file's all the same.
                let len = match entry.u16_le(4)? {
                    len if len > 32768 => len - 32768,
                    len => len,
                };
                let physical = u64::from(entry.u16_le(6)?) << 32 | u64::from(entry.u32_le(8)?);
                self.add(entry.u32_le(0)?.into(), len.into(), physical)?;
            } else {
                let child = u64::from(entry.u16_le(8)?) << 32 | u64::from(entry.u32_le(4)?);
                let raw = self.index_block(child)?;
                self.extents(Bytes::new(&raw, "extent tree node"), Some(depth - 1))?;
            }
        }
        Ok(())
    }

    fn indirect(&mut self, map: Bytes<'_>) -> Result<()> {
        for slot in 0..12 {
            self.pointer(map.u32_le(slot * 4)?, 0)?;
        }
        for level in 1..=3 {
            self.pointer(map.u32_le((11 + level) * 4)?, level)?;
        }
        Ok(())
    }

    fn pointer(&mut self, block: u32, level: usize) -> Result<()> {
        if self.next >= self.blocks {
            return Ok(());
        }
        if level == 0 {
            return self.add(self.next, 1, block.into());
        }
        let raw = self.index_block(block.into())?;
        for pointer in raw.chunks_exact(4) {
            if self.next >= self.blocks {
                break;
            }
            self.pointer(Bytes::new(pointer, "indirect block").u32_le(0)?, level - 1)?;
        }
        Ok(())
    }
}
