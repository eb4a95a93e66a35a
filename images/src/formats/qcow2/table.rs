// SPDX-License-Identifier: Apache-2.0
//! From guest address to place in the file: L1 and L2 tables, read through a bounded cache.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::codec::Compressed;
use super::header::Header;
use super::{COMPRESSED, COPIED, L1_RESERVED, L2_RESERVED, OFFSET, ZERO};
use crate::formats::qcow2::source::ImageFile;
use crate::{Error, Result};

/// What a guest range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// Not in this image: the backing file's content, or zeros.
    Unallocated,
    /// Zeros.
    Zero,
    /// Uncompressed at this offset of the (data) file.
    Plain(u64),
    /// A whole cluster, compressed.
    Compressed(Compressed),
}

/// A guest range with one mapping: (mapping, bytes it goes on for).
pub(super) type Mapped = (Mapping, u64);

/// Slices by their offset in the file, each with the time of its last use.
type Shard = HashMap<u64, (Arc<[u64]>, u64)>;

/// Slices of L2 tables. Sharded, so that threads seldom meet.
struct SliceCache {
    shards: Vec<Mutex<Shard>>,
    per_shard: usize,
}

const SHARDS: usize = 16;
/// Bytes of an L2 table that are read at once.
const SLICE: u64 = 16 << 10;
/// Bytes of L2 slices kept at most.
const CACHE: u64 = 4 << 20;

impl SliceCache {
    fn new(slice: u64) -> Self {
        let per_shard = (CACHE / SHARDS as u64 / slice.max(1)).clamp(8, 64) as usize;
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), per_shard }
    }

    fn get(&self, at: u64, slice: u64, read: impl FnOnce() -> Result<Arc<[u64]>>) -> Result<Arc<[u64]>> {
        let index = (at / slice.max(1)) as usize % SHARDS;
        let Some(shard) = self.shards.get(index) else { return read() };
        let mut map = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = map.values().map(|(_, used)| *used).max().unwrap_or(0) + 1;
        if let Some((entries, used)) = map.get_mut(&at) {
            *used = now;
            return Ok(Arc::clone(entries));
        }
        let entries = read()?;
        if map.len() >= self.per_shard
            && let Some(oldest) = map.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            map.remove(&oldest);
        }
        map.insert(at, (Arc::clone(&entries), now));
        Ok(entries)
    }
}

/// The tables of one image.
pub(super) struct Tables {
    l1: Vec<u64>,
    slices: SliceCache,
    cluster_bits: u32,
    version: u32,
    extended: bool,
    /// Plain clusters lie in another file, where offset 0 is a place like any other.
    external: bool,
    /// Length of the file that holds plain clusters, rounded up to a cluster.
    data_end: u64,
}

impl Tables {
    /// Reads the L1 table. `data_len` is the length of the file that holds plain clusters.
    pub(super) fn read(header: &Header, file: &ImageFile, data_len: u64) -> Result<Self> {
        let mut raw = vec![0; (header.l1_entries * 8) as usize];
        file.file
            .read_exact_at(&mut raw, header.l1_offset)
            .map_err(|error| Error::io("reading the L1 table", error).at(header.l1_offset))?;
        Ok(Self {
            l1: words(&raw),
            slices: SliceCache::new(SLICE.min(header.cluster())),
            cluster_bits: header.cluster_bits,
            version: header.version,
            extended: header.extended_l2,
            external: header.external_data,
            data_end: data_len.checked_next_multiple_of(header.cluster()).unwrap_or(u64::MAX),
        })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn entry_bytes(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Calls `each` with the mappings of `offset..end` in order, until it answers false.
    pub(super) fn walk(
        &self,
        file: &ImageFile,
        offset: u64,
        end: u64,
        mut each: impl FnMut(u64, Mapped) -> Result<bool>,
    ) -> Result<()> {
        let slice_bytes = SLICE.min(self.cluster());
        let per_slice = slice_bytes / self.entry_bytes();
        let slice_span = per_slice << self.cluster_bits;
        let table_span = (self.cluster() / self.entry_bytes()) << self.cluster_bits;
        let mut at = offset;
        while at < end {
            let l1 = usize::try_from(at / table_span).ok().and_then(|index| self.l1.get(index));
            let Some(&l1) = l1 else {
                return Err(Error::malformed("reading the L1 table", "the disk goes on beyond it").at(at));
            };
            let table = l1 & OFFSET;
            if l1 & L1_RESERVED != 0 || !table.is_multiple_of(self.cluster()) {
                return Err(Error::malformed("reading an L1 entry", "reserved bits are set").at(at));
            }
            if table == 0 {
                let to = (at / table_span + 1).saturating_mul(table_span).min(end);
                if !each(at, (Mapping::Unallocated, to - at))? {
                    return Ok(());
                }
                at = to;
                continue;
            }
            let place = table.saturating_add(at % table_span / slice_span * slice_bytes);
            let entries =
                self.slices.get(place, slice_bytes, || self.read_slice(file, place, slice_bytes))?;
            let to = (at / slice_span + 1).saturating_mul(slice_span).min(end);
            while at < to {
                let index = (at % slice_span) >> self.cluster_bits;
                let mapped = self.map_entry(&entries, index as usize, at, file)?;
                let len = mapped.1.min(to - at);
                if !each(at, (mapped.0, len))? {
                    return Ok(());
                }
                at += len;
            }
        }
        Ok(())
    }

    fn read_slice(&self, file: &ImageFile, at: u64, len: u64) -> Result<Arc<[u64]>> {
        let mut raw = vec![0; len as usize];
        if at.checked_add(len).is_none_or(|end| end > file.len) {
            return Err(Error::malformed("reading an L2 table", "it lies outside the file").at(at));
        }
        file.file
            .read_exact_at(&mut raw, at)
            .map_err(|error| Error::io("reading an L2 table", error).at(at))?;
        Ok(words(&raw).into())
    }

    /// The mapping at guest address `at`, whose cluster's entry is number `index`, and how far it goes on in this cluster.
    fn map_entry(&self, entries: &[u64], index: usize, at: u64, file: &ImageFile) -> Result<Mapped> {
        let stride = if self.extended { 2 } else { 1 };
        let bad = |why: &'static str| Error::malformed("reading an L2 entry for guest address", why).at(at);
        let entry = entries.get(index * stride).copied().ok_or_else(|| bad("the table is too short"))?;
        let within = at & (self.cluster() - 1);
        let rest = self.cluster() - within;
        if entry & COMPRESSED != 0 {
            if self.external {
                return Err(bad("a compressed cluster in an image with an external data file"));
            }
            let place = Compressed::from_entry(entry, self.cluster_bits);
            if place.offset >= file.len {
                return Err(bad("compressed data outside the file"));
            }
            return Ok((Mapping::Compressed(place), rest));
        }
        // Bit 0 is the zero flag in version 3 without subclusters only.
        let flag_allowed = self.version >= 3 && !self.extended;
        if entry & L2_RESERVED != 0 || (entry & ZERO != 0 && !flag_allowed) {
            return Err(bad("reserved bits are set"));
        }
        let offset = entry & OFFSET;
        let allocated = offset != 0 || (self.external && entry & COPIED != 0);
        if allocated {
            if !offset.is_multiple_of(self.cluster()) {
                return Err(bad("a cluster that is not aligned"));
            }
            let end = offset.saturating_add(self.cluster());
            if end > self.data_end && entry & ZERO == 0 {
                return Err(bad("a cluster outside the file"));
            }
        }
        if self.extended {
            let bitmap =
                entries.get(index * stride + 1).copied().ok_or_else(|| bad("the table is too short"))?;
            return self.map_subclusters(bitmap, allocated.then_some(offset), within).ok_or_else(|| {
                bad("a subcluster that is both allocated and zero, or allocated without a cluster")
            });
        }
        let mapping = match (entry & ZERO != 0, allocated) {
            (true, _) => Mapping::Zero,
            (false, true) => Mapping::Plain(offset + within),
            (false, false) => Mapping::Unallocated,
        };
        Ok((mapping, rest))
    }

    /// Extended L2 entries: bit n of the low half says that subcluster n is allocated, of the high half that it is zero.
    fn map_subclusters(&self, bitmap: u64, offset: Option<u64>, within: u64) -> Option<Mapped> {
        let bits = self.cluster_bits - 5;
        let kind = |sub: u64| (bitmap >> sub & 1 == 1, bitmap >> (sub + 32) & 1 == 1);
        let first = within >> bits;
        let this = kind(first);
        let count = (first..32).take_while(|&sub| kind(sub) == this).count() as u64;
        let mapping = match (this, offset) {
            ((true, true), _) | ((true, false), None) => return None,
            ((true, false), Some(offset)) => Mapping::Plain(offset + within),
            ((false, true), _) => Mapping::Zero,
            ((false, false), _) => Mapping::Unallocated,
        };
        Some((mapping, ((first + count) << bits) - within))
    }
}

fn words(raw: &[u8]) -> Vec<u64> {
    raw.chunks_exact(8)
        .map(|word| <[u8; 8]>::try_from(word).map(u64::from_be_bytes).unwrap_or_default())
        .collect()
}
