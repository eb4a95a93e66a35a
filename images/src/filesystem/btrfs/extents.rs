// SPDX-License-Identifier: Apache-2.0
//! From the extent tree to byte ranges of the device.

use super::chunks::{self, Chunks, Parsed};
use super::superblock::{COPIES, LEN, Root, Superblock};
use super::tree::{Key, Trees};
use crate::filesystem::Used;
use crate::parse::Bytes;
use crate::{BlockSource, Error, RangeSet, Result, ResultExt};

const EXTENT_TREE: u64 = 2;
const BLOCK_GROUP_TREE: u64 = 11;
pub(super) const ROOT_ITEM: u8 = 132;
const EXTENT_ITEM: u8 = 168;
/// An extent item of one tree block, whose key has the level instead of the length ("skinny").
const METADATA_ITEM: u8 = 169;
const BLOCK_GROUP_ITEM: u8 = 192;
/// Never allocated by the kernel: boot loaders live here, and the superblock.
const RESERVED: u64 = 1 << 20;

/// All extents, wherever their chunks put them, and what lies outside chunks.
pub(super) fn used(source: &dyn BlockSource, superblock: &Superblock) -> Result<Used> {
    let mut trees = Trees { source, superblock, damaged: 0 };
    let chunks = match read_chunks(&mut trees)? {
        Ok(chunks) => chunks,
        Err(why) => return Ok(Used::everything(source.size(), why)),
    };
    let (extent_root, group_root) =
        roots(&mut trees, &chunks).doing(|| "reading the btrfs tree of tree roots")?;

    let mut out = Out::new(superblock, &chunks);
    out.ranges.insert(0..RESERVED);
    for at in COPIES {
        out.ranges.insert(at..at + LEN);
    }
    trees
        .walk(&chunks, extent_root, |key, item| out.item(key, item))
        .doing(|| "reading the btrfs extent tree")?;
    out.flush()?;
    if let Some(root) = group_root {
        trees
            .walk(&chunks, root, |key, item| match key.kind {
                BLOCK_GROUP_ITEM => out.block_group(key, item),
                _ => Ok(()),
            })
            .doing(|| "reading the btrfs block group tree")?;
    }
    out.compare()?;

    out.ranges.truncate(superblock.device_bytes);
    let mut warnings = Vec::new();
    if trees.damaged != 0 {
        warnings.push(format!(
            "{} metadata blocks are damaged in one of their two copies: run btrfs scrub",
            trees.damaged
        ));
    }
    Ok(Used { ranges: out.ranges, warnings, everything_because: None })
}

pub(super) fn read_chunks(trees: &mut Trees<'_>) -> Result<std::result::Result<Chunks, String>> {
    let superblock = trees.superblock;
    let system = match Chunks::of_superblock(superblock)? {
        Ok(chunks) => chunks,
        Err(why) => return Ok(Err(why)),
    };
    let (mut all, mut elsewhere) = (Chunks::default(), None);
    trees
        .walk(&system, superblock.chunk_root, |key, item| {
            match chunks::parse(superblock, key, item)? {
                Some(Parsed::Chunk(chunk)) => all.add(chunk)?,
                Some(Parsed::Elsewhere(why)) => elsewhere = Some(why),
                None => {}
            }
            Ok(())
        })
        .doing(|| "reading the btrfs chunk tree")?;
    if let Some(why) = elsewhere {
        return Ok(Err(why));
    }
    for chunk in system.iter() {
        all.add(chunk.clone()).doing(|| "comparing the btrfs system chunks")?;
    }
    Ok(Ok(all))
}

/// Roots of the extent tree and, if the filesystem has one, of the block group tree.
fn roots(trees: &mut Trees<'_>, chunks: &Chunks) -> Result<(Root, Option<Root>)> {
    let superblock = trees.superblock;
    let (mut extents, mut groups) = (None, None);
    trees.walk(chunks, superblock.root, |key, item| {
        let slot = match (key.object, key.kind) {
            (EXTENT_TREE, ROOT_ITEM) => &mut extents,
            (BLOCK_GROUP_TREE, ROOT_ITEM) => &mut groups,
            _ => return Ok(()),
        };
        *slot = Some(Root::of_item(item)?);
        Ok(())
    })?;
    let missing = |what| Error::malformed("looking for a tree", format!("there is no {what}"));
    if superblock.has_block_group_tree() && groups.is_none() {
        return Err(missing("block group tree"));
    }
    Ok((extents.ok_or_else(|| missing("extent tree"))?, groups.filter(|_| superblock.has_block_group_tree())))
}

/// Collects extents; those that follow each other in logical addresses are put on the device as one.
struct Out<'a> {
    superblock: &'a Superblock,
    chunks: &'a Chunks,
    ranges: RangeSet,
    /// Chunk, first logical address, length.
    run: Option<(usize, u64, u64)>,
    /// Of each chunk: bytes in use by the extents, and by its block group item.
    sums: Vec<(u64, Option<u64>)>,
}

impl<'a> Out<'a> {
    fn new(superblock: &'a Superblock, chunks: &'a Chunks) -> Self {
        let sums = vec![(0, None); chunks.iter().count()];
        Self { superblock, chunks, ranges: RangeSet::new(), run: None, sums }
    }

    fn item(&mut self, key: Key, item: Bytes<'_>) -> Result<()> {
        match key.kind {
            EXTENT_ITEM => self.extent(key.object, key.offset),
            METADATA_ITEM => self.extent(key.object, u64::from(self.superblock.node_size)),
            BLOCK_GROUP_ITEM => self.block_group(key, item),
            _ => Ok(()),
        }
    }

    fn extent(&mut self, logical: u64, len: u64) -> Result<()> {
        let sector = u64::from(self.superblock.sector_size);
        if len == 0 || !len.is_multiple_of(sector) || !logical.is_multiple_of(sector) {
            return Err(Error::malformed("reading an extent", format!("{len} bytes at {logical:#x}")));
        }
        let chunk = self.chunks.find(logical, len)?;
        if let Some((found, _)) = self.sums.get_mut(chunk) {
            // Extents of a chunk do not overlap, so this stays below its length.
            *found += len;
        }
        match &mut self.run {
            Some((_, start, run)) if *start + *run > logical => {
                return Err(Error::malformed("reading an extent", format!("{logical:#x} is in use twice")));
            }
            Some((same, start, run)) if *same == chunk && *start + *run == logical => *run += len,
            _ => {
                self.flush()?;
                self.run = Some((chunk, logical, len));
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some((index, logical, len)) = self.run.take() else { return Ok(()) };
        let chunk = self.chunks.get(index)?;
        for place in &chunk.places {
            let at = place + (logical - chunk.logical);
            self.ranges.insert(at..at + len);
        }
        Ok(())
    }

    fn block_group(&mut self, key: Key, item: Bytes<'_>) -> Result<()> {
        let index = self.chunks.find(key.object, key.offset)?;
        let chunk = self.chunks.get(index)?;
        if chunk.logical != key.object || chunk.len != key.offset {
            return Err(Error::malformed("reading a block group", "it is not its chunk").at(key.object));
        }
        if let Some((_, stated)) = self.sums.get_mut(index) {
            *stated = Some(item.u64_le(0)?);
        }
        Ok(())
    }

    /// What the extents add up to must be what the block groups say.
    fn compare(&self) -> Result<()> {
        for (chunk, (found, stated)) in self.chunks.iter().zip(&self.sums) {
            if *stated != Some(*found) {
                let why = format!("{found} bytes found in use, {stated:?} stated");
                return Err(Error::malformed("adding up a btrfs block group", why).at(chunk.logical));
            }
        }
        Ok(())
    }
}
