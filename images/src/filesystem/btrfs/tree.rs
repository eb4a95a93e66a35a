// SPDX-License-Identifier: Apache-2.0
//! Copy-on-write B-trees: checked blocks, and a walk over all items in key order.

use std::ops::RangeInclusive;

use super::chunks::Chunks;
use super::superblock::{Root, Superblock};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// The kernel's `BTRFS_MAX_LEVEL`.
const MOST_LEVELS: u8 = 8;
const HEADER: usize = 101;
pub(super) const LEN_OF_KEY: usize = 17;
const LEN_OF_POINTER: usize = 33;
const LEN_OF_ITEM: usize = 25;

/// Object, type, offset: in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) object: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    pub(super) const FIRST: Self = Self { object: 0, kind: 0, offset: 0 };
    pub(super) const LAST: Self = Self { object: u64::MAX, kind: u8::MAX, offset: u64::MAX };

    /// All keys of one kind that an object has.
    pub(super) fn all(object: u64, kind: u8) -> RangeInclusive<Self> {
        Self { object, kind, offset: 0 }..=Self { object, kind, offset: u64::MAX }
    }

    pub(super) fn read(raw: Bytes<'_>, at: usize) -> Result<Self> {
        let raw = raw.sub(at, LEN_OF_KEY)?;
        Ok(Self { object: raw.u64_le(0)?, kind: raw.u8(8)?, offset: raw.u64_le(9)? })
    }
}

/// Reads trees of one filesystem.
pub(super) struct Trees<'a> {
    pub(super) source: &'a dyn BlockSource,
    pub(super) superblock: &'a Superblock,
    /// Blocks of which the first copy was damaged and the second was not.
    pub(super) damaged: u64,
}

impl Trees<'_> {
    /// Calls `each` for every item of a tree in key order, with a bounded number of blocks in memory.
    ///
    /// Keys must rise over the whole walk and every block but an empty tree's holds an item, so no block is met
    /// twice; a level is always one below its parent's, so there is no loop.
    pub(super) fn walk(
        &mut self,
        chunks: &Chunks,
        root: Root,
        each: impl FnMut(Key, Bytes<'_>) -> Result<()>,
    ) -> Result<()> {
        self.walk_range(chunks, root, Key::FIRST..=Key::LAST, each)
    }

    /// The same for the items with keys in `range`; blocks without any are not read.
    pub(super) fn walk_range(
        &mut self,
        chunks: &Chunks,
        root: Root,
        range: RangeInclusive<Key>,
        mut each: impl FnMut(Key, Bytes<'_>) -> Result<()>,
    ) -> Result<()> {
        if root.level >= MOST_LEVELS {
            return Err(Error::malformed("reading a tree", format!("{} levels", root.level)));
        }
        let mut last: Option<Key> = None;
        let mut path = vec![self.block(chunks, root, true)?];
        while let Some(block) = path.last_mut() {
            if block.level == 0 {
                for index in 0..block.items {
                    let (key, item) = block.item(index)?;
                    if last.is_some_and(|last| last >= key) {
                        return Err(Error::malformed("reading a tree", "keys out of order").at(block.at));
                    }
                    last = Some(key);
                    if range.contains(&key) {
                        each(key, item)?;
                    }
                }
                block.next = block.items;
            }
            if block.next >= block.items {
                path.pop();
                continue;
            }
            let (key, logical, generation) = block.pointer(block.next)?;
            block.next += 1;
            if key > *range.end() {
                block.next = block.items;
                continue;
            }
            if block.next < block.items && block.key(block.next)? <= *range.start() {
                continue;
            }
            let child = Root { logical, level: block.level - 1, generation };
            let (at, limit) = (block.at, block.generation);
            let child = self.block(chunks, child, false)?;
            // A block is rewritten whenever one below it is.
            if child.key(0)? != key || generation > limit || last.is_some_and(|last| last >= key) {
                return Err(Error::malformed("reading a tree", "a block is not what its parent says").at(at));
            }
            path.push(child);
        }
        Ok(())
    }

    /// From the first copy that is sound.
    fn block(&mut self, chunks: &Chunks, root: Root, is_root: bool) -> Result<Block> {
        let len = self.superblock.node_size;
        let sector = u64::from(self.superblock.sector_size);
        if !root.logical.is_multiple_of(sector) {
            return Err(Error::malformed("reading a tree", format!("a block at {:#x}", root.logical)));
        }
        let chunk = chunks.get(chunks.find(root.logical, u64::from(len))?)?;
        let mut first_error = None;
        for place in &chunk.places {
            let at = place + (root.logical - chunk.logical);
            match read_vec(self.source, at, len as usize).and_then(|data| self.check(data, at, root, is_root))
            {
                Ok(block) => {
                    self.damaged += u64::from(first_error.is_some());
                    return Ok(block);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| Error::malformed("reading a tree", "a chunk without a place")))
    }

    fn check(&self, data: Vec<u8>, at: u64, root: Root, is_root: bool) -> Result<Block> {
        let bad = |why: String| Err(Error::malformed("reading a tree block", why).at(at));
        if !self.superblock.checksum.matches(&data) {
            return bad("checksum mismatch".into());
        }
        let raw = Bytes::new(&data, "a tree block");
        if raw.slice(32, 16)? != self.superblock.metadata_uuid || raw.u64_le(48)? != root.logical {
            return bad("it was written for another place".into());
        }
        let (generation, items, level) = (raw.u64_le(80)?, raw.u32_le(96)? as usize, raw.u8(100)?);
        if generation != root.generation || generation > self.superblock.generation {
            return bad(format!("generation {generation}, not {}", root.generation));
        }
        let width = if level == 0 { LEN_OF_ITEM } else { LEN_OF_POINTER };
        let empty = items == 0 && !(is_root && level == 0);
        if level != root.level || items > (data.len() - HEADER) / width || empty {
            return bad(format!("level {level} with {items} items where level {} belongs", root.level));
        }
        Ok(Block { at, level, items, generation, next: 0, data })
    }
}

/// One sound block.
struct Block {
    /// Byte address on the device, for errors.
    at: u64,
    level: u8,
    items: usize,
    generation: u64,
    /// The child to visit next.
    next: usize,
    data: Vec<u8>,
}

impl Block {
    fn raw(&self) -> Bytes<'_> {
        Bytes::new(&self.data, "a tree block")
    }

    fn key(&self, index: usize) -> Result<Key> {
        Key::read(self.raw(), HEADER + index * if self.level == 0 { LEN_OF_ITEM } else { LEN_OF_POINTER })
    }

    fn item(&self, index: usize) -> Result<(Key, Bytes<'_>)> {
        let at = HEADER + index * LEN_OF_ITEM + LEN_OF_KEY;
        let (offset, len) = (self.raw().u32_le(at)? as usize, self.raw().u32_le(at + 4)? as usize);
        Ok((self.key(index)?, self.raw().sub(HEADER, self.data.len() - HEADER)?.sub(offset, len)?))
    }

    /// First key below, logical address, generation.
    fn pointer(&self, index: usize) -> Result<(Key, u64, u64)> {
        let at = HEADER + index * LEN_OF_POINTER + LEN_OF_KEY;
        Ok((self.key(index)?, self.raw().u64_le(at)?, self.raw().u64_le(at + 8)?))
    }
}
