// SPDX-License-Identifier: Apache-2.0
//! The refcounts of an existing image: read block by block, changed in memory, written when asked.

use std::collections::BTreeMap;
use std::fs::File;

use super::{bad, read, write};
use crate::formats::qcow2::REFCOUNT_TABLE_MOST;
use crate::formats::qcow2::header::Header;
use crate::{Error, Result};

/// Bits of a refcount table entry that hold a block's offset (specification, "Reference count table").
const BLOCK: u64 = 0xffff_ffff_ffff_fe00;

struct Block {
    bytes: Box<[u8]>,
    /// Where it lies; 0 where it has no place yet.
    place: u64,
    changed: bool,
}

/// Refcounts by number of cluster of the file.
pub(super) struct Refcounts {
    cluster: u64,
    order: u32,
    /// Offsets of the blocks.
    table: Vec<u64>,
    /// Where the table lies, and how many clusters it has.
    place: (u64, u64),
    blocks: BTreeMap<u64, Block>,
    /// Entries of the table that are not in the file yet.
    new_entries: bool,
}

impl Refcounts {
    pub(super) fn read(header: &Header, file: &File, file_len: u64) -> Result<Self> {
        let cluster = header.cluster();
        let (offset, clusters) = (header.refcounts.offset, header.refcounts.clusters);
        let bytes = clusters.saturating_mul(cluster);
        if header.refcounts.order > 6 {
            return Err(bad("a refcount width that is not possible").at(96));
        }
        if clusters == 0 || bytes > REFCOUNT_TABLE_MOST || offset == 0 || !offset.is_multiple_of(cluster) {
            return Err(bad("a refcount table that cannot be").at(48));
        }
        if offset.checked_add(bytes).is_none_or(|end| end > file_len.next_multiple_of(cluster)) {
            return Err(bad("the refcount table lies outside the file").at(48));
        }
        let raw = read(file, offset, bytes, file_len)?;
        let table = raw
            .chunks_exact(8)
            .map(|word| <[u8; 8]>::try_from(word).map(u64::from_be_bytes).unwrap_or_default())
            .collect();
        Ok(Self {
            cluster,
            order: header.refcounts.order,
            table,
            place: (offset, clusters),
            blocks: BTreeMap::new(),
            new_entries: false,
        })
    }

    /// How many refcounts a block holds.
    fn per_block(&self) -> u64 {
        (self.cluster * 8) >> self.order
    }

    /// The largest refcount.
    pub(super) fn most(&self) -> u64 {
        if self.order == 6 { u64::MAX } else { (1 << (1u32 << self.order)) - 1 }
    }

    /// Offsets of the clusters that hold blocks, as the table has them.
    pub(super) fn block_places(&self) -> impl Iterator<Item = u64> + '_ {
        self.table.iter().map(|entry| entry & BLOCK).filter(|place| *place != 0)
    }

    /// The table's place: offset and clusters.
    pub(super) fn place(&self) -> (u64, u64) {
        self.place
    }

    fn block(&mut self, index: u64, file: &File, file_len: u64) -> Result<&mut Block> {
        use std::collections::btree_map::Entry;
        match self.blocks.entry(index) {
            Entry::Occupied(have) => Ok(have.into_mut()),
            Entry::Vacant(free) => {
                let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index));
                let place = entry.copied().unwrap_or(0) & BLOCK;
                let bytes = if place == 0 {
                    vec![0; self.cluster as usize]
                } else {
                    if !place.is_multiple_of(self.cluster) || place >= file_len {
                        return Err(bad("a refcount block outside the file, or not aligned").at(place));
                    }
                    read(file, place, self.cluster, file_len)?
                };
                Ok(free.insert(Block { bytes: bytes.into(), place, changed: false }))
            }
        }
    }

    /// How often cluster number `cluster` is used.
    pub(super) fn get(&mut self, cluster: u64, file: &File, file_len: u64) -> Result<u64> {
        let (order, per_block) = (self.order, self.per_block());
        let block = self.block(cluster / per_block, file, file_len)?;
        Ok(load(&block.bytes, order, cluster % per_block))
    }

    /// Sets it, in memory.
    pub(super) fn set(&mut self, cluster: u64, value: u64, file: &File, file_len: u64) -> Result<()> {
        if value > self.most() {
            return Err(Error::unsupported("changing the image", "a cluster would be shared too often"));
        }
        let (order, per_block) = (self.order, self.per_block());
        let block = self.block(cluster / per_block, file, file_len)?;
        if load(&block.bytes, order, cluster % per_block) != value {
            store(&mut block.bytes, order, cluster % per_block, value);
            block.changed = true;
        }
        Ok(())
    }

    /// Blocks that were changed and have no place in the file.
    pub(super) fn homeless(&self) -> Vec<u64> {
        let new = self.blocks.iter().filter(|(_, block)| block.changed && block.place == 0);
        new.map(|(index, _)| *index).collect()
    }

    /// Gives block `index` its place; true if the table has to become longer for it.
    pub(super) fn give_place(&mut self, index: u64, place: u64) -> Result<bool> {
        if index >= REFCOUNT_TABLE_MOST / 8 {
            return Err(Error::unsupported("changing the image", "its file grows beyond what qcow2 counts"));
        }
        if let Some(block) = self.blocks.get_mut(&index) {
            block.place = place;
        }
        let index = index as usize;
        if self.table.len() <= index {
            self.table.resize(index + 1, 0);
        }
        if let Some(entry) = self.table.get_mut(index) {
            *entry = place;
        }
        self.new_entries = true;
        Ok(self.table.len() as u64 * 8 > self.place.1 * self.cluster)
    }

    /// How many clusters a table of the present length needs, with room to grow by half.
    pub(super) fn wanted_clusters(&self) -> u64 {
        (self.table.len() as u64 * 12).div_ceil(self.cluster).min(REFCOUNT_TABLE_MOST / self.cluster)
    }

    /// The table moves; its old place is answered.
    pub(super) fn move_to(&mut self, offset: u64, clusters: u64) -> (u64, u64) {
        self.table.resize((clusters * self.cluster / 8) as usize, 0);
        self.new_entries = true;
        std::mem::replace(&mut self.place, (offset, clusters))
    }

    /// Writes all changed blocks; true if there were any.
    pub(super) fn write_blocks(&mut self, file: &File) -> Result<bool> {
        let mut any = false;
        for block in self.blocks.values_mut().filter(|block| block.changed) {
            write(file, &block.bytes, block.place)?;
            block.changed = false;
            any = true;
        }
        Ok(any)
    }

    /// Writes the table if it has new entries; true if so.
    pub(super) fn write_table(&mut self, file: &File) -> Result<bool> {
        if !std::mem::take(&mut self.new_entries) {
            return Ok(false);
        }
        let mut raw: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        raw.resize((self.place.1 * self.cluster) as usize, 0);
        write(file, &raw, self.place.0)?;
        Ok(true)
    }
}

/// Refcount number `index` of a block. Widths under a byte fill it from its low bits up (specification, "Refcount blocks").
fn load(bytes: &[u8], order: u32, index: u64) -> u64 {
    let bits = index << order;
    let at = (bits / 8) as usize;
    if order < 3 {
        let byte = u64::from(bytes.get(at).copied().unwrap_or_default());
        return byte >> (bits % 8) & ((1 << (1u32 << order)) - 1);
    }
    let width = 1usize << (order - 3);
    bytes.get(at..at + width).unwrap_or_default().iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn store(bytes: &mut [u8], order: u32, index: u64, value: u64) {
    let bits = index << order;
    let at = (bits / 8) as usize;
    if order < 3 {
        let mask = ((1u64 << (1u32 << order)) - 1) as u8;
        if let Some(byte) = bytes.get_mut(at) {
            let shift = (bits % 8) as u32;
            *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
        }
        return;
    }
    let width = 1usize << (order - 3);
    let raw = value.to_be_bytes();
    if let (Some(to), Some(from)) = (bytes.get_mut(at..at + width), raw.get(8 - width..)) {
        to.copy_from_slice(from);
    }
}
