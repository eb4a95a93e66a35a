// SPDX-License-Identifier: Apache-2.0
//! The filesystem as it will be after its journal is replayed, without writing anything.

use super::log_block::MAGIC;
use crate::extent::Extent;
use crate::{BlockSource, RangeSet, Result};

/// A block whose content is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patch {
    /// Block number of the filesystem.
    pub(super) target: u64,
    /// Byte offset on the device at which its new content lies.
    pub(super) content_at: u64,
    /// The journal stores four zeros where the content has the journal's magic.
    pub(super) escaped: bool,
}

/// A source with some of its blocks replaced.
pub(super) struct Overlay<'a> {
    base: &'a dyn BlockSource,
    block_size: u64,
    /// Ascending by target, one a block.
    patches: Vec<Patch>,
}

impl<'a> Overlay<'a> {
    /// Where several patches have one target, the last counts.
    pub(super) fn new(base: &'a dyn BlockSource, block_size: u32, mut patches: Vec<Patch>) -> Self {
        patches.reverse();
        patches.sort_by_key(|patch| patch.target);
        patches.dedup_by_key(|patch| patch.target);
        Self { base, block_size: block_size.into(), patches }
    }

    pub(super) fn len(&self) -> usize {
        self.patches.len()
    }

    /// The ranges that read otherwise than below.
    pub(super) fn replaced(&self) -> RangeSet {
        let mut ranges = RangeSet::new();
        for patch in &self.patches {
            let start = patch.target.saturating_mul(self.block_size);
            ranges.insert(start..start.saturating_add(self.block_size));
        }
        ranges
    }
}

impl BlockSource for Overlay<'_> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn sector_size(&self) -> u32 {
        self.base.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.base.read_at(buf, offset)?;
        let end = offset.saturating_add(buf.len() as u64);
        let from = self.patches.partition_point(|patch| (patch.target + 1) * self.block_size <= offset);
        for patch in self.patches.iter().skip(from) {
            let block = patch.target * self.block_size;
            if block >= end {
                break;
            }
            let (first, last) = (block.max(offset), (block + self.block_size).min(end));
            let Some(part) = buf.get_mut((first - offset) as usize..(last - offset) as usize) else { break };
            self.base.read_at(part, patch.content_at + (first - block))?;
            if patch.escaped {
                for (byte, magic) in
                    part.iter_mut().zip(MAGIC.to_be_bytes().iter().skip((first - block) as usize))
                {
                    *byte = *magic;
                }
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        Ok(Extent { offset, len, state: crate::State::Data })
    }
}
