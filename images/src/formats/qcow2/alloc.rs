// SPDX-License-Identifier: Apache-2.0
//! Places in a qcow2 file under construction, and the tables that describe them.
//!
//! ```text
//!   header | L1 | refcount table | ... appended: plain clusters, ranges for compressed ones, L2 tables, refcount blocks
//!   (written last, at finish)          `- range: | segment | segment | ...: filled with compressed clusters back to back
//! ```
//!
//! Memory is bounded whatever the disk's size: L2 tables and refcount blocks beyond a limit are written out, lowest
//! first (the copy goes upwards), and read back in the rare case that one is touched again.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use super::codec::Compressed;
use super::{COMPRESSED, COPIED, L1_MOST, OFFSET, REFCOUNT_TABLE_MOST, ZERO};
use crate::formats::aligned::{ALIGNMENT, AlignedBuffer};
use crate::formats::file::Writer;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Bytes of compressed clusters that are written at once.
const SEGMENT: u64 = 1 << 20;
/// Bytes by which the file is made longer ahead of writing: direct writes within a file's length need not
/// wait for each other.
const GROWTH: u64 = 256 << 20;
/// Bytes of L2 tables, and of refcount blocks, in memory.
const L2_MEMORY: u64 = 24 << 20;
const REFCOUNT_MEMORY: u64 = 8 << 20;

/// Where the fixed parts lie, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) cluster_bits: u32,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    pub(super) refcount_offset: u64,
    /// Clusters reserved for the refcount table.
    pub(super) refcount_clusters: u64,
    /// First byte after the fixed parts.
    end: u64,
}

impl Layout {
    /// For a disk of `size` bytes. A usage error if clusters are too small for it.
    pub(super) fn new(size: u64, cluster_bits: u32) -> Result<Self> {
        let cluster = 1u64 << cluster_bits;
        let clusters = size.div_ceil(cluster);
        let l1_entries = clusters.div_ceil(cluster / 8).max(1);
        let l1_clusters = (l1_entries * 8).div_ceil(cluster);
        // Ends of ranges that stay unused are under a sixteenth.
        let counted =
            clusters + clusters / 8 + l1_entries + l1_clusters + 2 * range_len(cluster) / cluster + 16;
        let per_block = cluster / 2;
        let blocks = counted.div_ceil(per_block - 1) + 2;
        // The table counts its own clusters too; a block more for them.
        let refcount_clusters = (blocks * 8).div_ceil(cluster).max(1);
        let blocks = blocks + refcount_clusters.div_ceil(per_block);
        let refcount_clusters = (blocks * 8).div_ceil(cluster);
        if l1_entries * 8 > L1_MOST || refcount_clusters * cluster > REFCOUNT_TABLE_MOST {
            return Err(Error::new(ErrorKind::Usage, format!("laying out a disk of {size} bytes"))
                .because(format!("clusters of {cluster} bytes are too small for it; take larger ones")));
        }
        let refcount_offset = cluster * (1 + l1_clusters);
        let end = refcount_offset + refcount_clusters * cluster;
        Ok(Self { cluster_bits, l1_offset: cluster, l1_entries, refcount_offset, refcount_clusters, end })
    }

    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
}

/// Bytes of the file that are set aside for compressed clusters at a time.
fn range_len(cluster: u64) -> u64 {
    (16 * cluster).max(4 * SEGMENT)
}

/// Tables of one cluster each, of which some are in memory and some in the file.
struct TableSet {
    resident: BTreeMap<u64, Box<[u8]>>,
    /// Each table's offset in the file; 0 for none yet.
    places: Vec<u64>,
    most: usize,
}

impl TableSet {
    fn new(count: u64, memory: u64, cluster: u64) -> Self {
        Self {
            resident: BTreeMap::new(),
            places: vec![0; count as usize],
            most: (memory / cluster).max(4) as usize,
        }
    }

    /// Table `index`, read back if it has been written out.
    fn table(&mut self, index: u64, cluster: u64, writer: &Writer) -> Result<&mut [u8]> {
        use std::collections::btree_map::Entry;
        match self.resident.entry(index) {
            Entry::Occupied(have) => Ok(have.into_mut()),
            Entry::Vacant(free) => {
                let place = usize::try_from(index).ok().and_then(|index| self.places.get(index));
                let place = *place.ok_or_else(|| {
                    Error::unsupported("writing the image", "it grows beyond what its tables describe")
                })?;
                let mut table = vec![0; cluster as usize].into_boxed_slice();
                if place != 0 {
                    let read = writer.file().read_exact_at(&mut table, place);
                    read.doing(|| "reading a table back")?;
                }
                Ok(free.insert(table))
            }
        }
    }

    fn too_many(&self) -> bool {
        self.resident.len() > self.most
    }
}

/// A buffer of bytes at an offset of the file, to be written without the lock.
pub(super) struct Segment {
    pub(super) buffer: AlignedBuffer,
    pub(super) offset: u64,
    pub(super) len: usize,
}

/// Everything that threads must agree on; used under one lock, for microseconds.
pub(super) struct Allocator {
    layout: Layout,
    /// First byte of the file that nobody has.
    end: u64,
    /// The file's length as set so far.
    file_len: u64,
    /// Next byte for compressed clusters, and the end of their range.
    pack: u64,
    pack_end: u64,
    segment: Option<Segment>,
    /// Buffers to be used again.
    spare: Vec<AlignedBuffer>,
    l2: TableSet,
    refcounts: TableSet,
}

impl Allocator {
    pub(super) fn new(layout: Layout, writer: &Writer) -> Result<Self> {
        let cluster = layout.cluster();
        let refcount_entries = layout.refcount_clusters * cluster / 8;
        let mut new = Self {
            layout,
            // Pages of the fixed parts are written through the page cache, others past it.
            end: layout.end.next_multiple_of(cluster.max(ALIGNMENT as u64)),
            file_len: 0,
            pack: 0,
            pack_end: 0,
            segment: None,
            spare: Vec::new(),
            l2: TableSet::new(layout.l1_entries, L2_MEMORY, cluster),
            refcounts: TableSet::new(refcount_entries, REFCOUNT_MEMORY, cluster),
        };
        new.count(0, layout.end, writer)?;
        Ok(new)
    }

    /// Adds one to the refcount of every cluster that `len` bytes at `offset` touch.
    fn count(&mut self, offset: u64, len: u64, writer: &Writer) -> Result<()> {
        // Cannot overflow: a zstd block of at least 4 bytes yields at most 128 KiB, so that at most
        // 2 MiB / (4 * 16) = 32768 compressed clusters lie in one of 2 MiB; smaller ones hold fewer.
        self.recount(offset, len, |count| count.saturating_add(1), writer)
    }

    /// Takes back what [`count`](Self::count) has added for what an L2 entry refers to.
    fn release(&mut self, entry: u64, writer: &Writer) -> Result<()> {
        let bits = self.layout.cluster_bits;
        let (offset, len) = match entry {
            0 | ZERO => return Ok(()),
            _ if entry & COMPRESSED != 0 => {
                let compressed = Compressed::from_entry(entry, bits);
                (compressed.offset, compressed.len)
            }
            _ => (entry & OFFSET, self.layout.cluster()),
        };
        self.recount(offset, len, |count| count.saturating_sub(1), writer)
    }

    fn recount(&mut self, offset: u64, len: u64, change: fn(u16) -> u16, writer: &Writer) -> Result<()> {
        let bits = self.layout.cluster_bits;
        let per_block = self.layout.cluster() / 2;
        for cluster in offset >> bits..=(offset + len.saturating_sub(1)) >> bits {
            let block = self.refcounts.table(cluster / per_block, 1 << bits, writer)?;
            let at = (cluster % per_block * 2) as usize;
            if let Some(entry) = block.get_mut(at..at + 2).and_then(|raw| <&mut [u8; 2]>::try_from(raw).ok())
            {
                *entry = change(u16::from_be_bytes(*entry)).to_be_bytes();
            }
        }
        Ok(())
    }

    /// Takes `len` bytes at the end of the file.
    fn extend(&mut self, len: u64, writer: &Writer) -> Result<u64> {
        let at = self.end;
        self.end = at.saturating_add(len);
        if self.end > self.file_len {
            self.file_len = self.end.saturating_add(GROWTH);
            writer.set_len(self.file_len)?;
        }
        Ok(at)
    }

    /// Places `count` uncompressed clusters side by side; returns the offset of the first.
    pub(super) fn plain(&mut self, count: u64, writer: &Writer) -> Result<u64> {
        let len = count << self.layout.cluster_bits;
        let at = self.extend(len, writer)?;
        if len > 0 {
            self.count(at, len, writer)?;
        }
        Ok(at)
    }

    /// Places one compressed cluster and copies its bytes; segments that are full come out at `full`. Returns its L2 entry.
    pub(super) fn compressed(
        &mut self,
        data: &[u8],
        full: &mut Vec<Segment>,
        writer: &Writer,
    ) -> Result<u64> {
        let len = data.len() as u64;
        if self.pack + len > self.pack_end {
            let more = range_len(self.layout.cluster());
            if self.pack_end == self.end && self.pack_end != 0 {
                self.extend(more, writer)?;
            } else {
                full.extend(self.close_segment());
                self.pack = self.extend(more, writer)?;
            }
            self.pack_end = self.end;
        }
        let entry = Compressed::entry(self.pack, len, self.layout.cluster_bits);
        self.count(self.pack, len, writer)?;
        let mut rest = data;
        while !rest.is_empty() {
            let spare = &mut self.spare;
            let offset = self.pack;
            let segment = self.segment.get_or_insert_with(|| Segment {
                buffer: spare.pop().unwrap_or_else(|| AlignedBuffer::new(SEGMENT as usize)),
                offset,
                len: 0,
            });
            let room = segment.buffer.get_mut(segment.len..).unwrap_or_default();
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            if let Some(room) = room.get_mut(..now.len()) {
                room.copy_from_slice(now);
            }
            segment.len += now.len();
            self.pack += now.len() as u64;
            rest = later;
            if segment.len == segment.buffer.len() {
                full.extend(self.segment.take());
            }
        }
        Ok(entry)
    }

    /// The segment under way, padded to whole pages of its own.
    fn close_segment(&mut self) -> Option<Segment> {
        let mut segment = self.segment.take()?;
        let unit = (self.layout.cluster() as usize).min(ALIGNMENT);
        let padded = segment.len.next_multiple_of(unit).min(segment.buffer.len());
        if let Some(padding) = segment.buffer.get_mut(segment.len..padded) {
            padding.fill(0);
        }
        segment.len = padded;
        Some(segment)
    }

    /// Gives a written segment's buffer back.
    pub(super) fn reuse(&mut self, segment: Segment) {
        self.spare.push(segment.buffer);
    }

    /// Sets the L2 entries of successive clusters from guest cluster `first` on. What they referred to is free then.
    pub(super) fn map(
        &mut self,
        first: u64,
        entries: impl Iterator<Item = u64>,
        writer: &Writer,
    ) -> Result<()> {
        let cluster = self.layout.cluster();
        let per_table = cluster / 8;
        for (guest, entry) in (first..).zip(entries) {
            let table = self.l2.table(guest / per_table, cluster, writer)?;
            let at = (guest % per_table * 8) as usize;
            let Some(slot) = table.get_mut(at..at + 8).and_then(|slot| slot.first_chunk_mut()) else {
                continue;
            };
            let before = u64::from_be_bytes(*slot);
            *slot = entry.to_be_bytes();
            self.release(before, writer)?;
        }
        self.write_out_some(writer)
    }

    /// Makes `count` clusters from guest cluster `first` on read as zeros.
    ///
    /// The address space of an L2 table that holds nothing else stays without one (see [`blank`]).
    pub(super) fn zeros(&mut self, first: u64, count: u64, writer: &Writer) -> Result<()> {
        let per_table = self.layout.cluster() / 8;
        let end = first.saturating_add(count);
        let mut guest = first;
        while guest < end {
            let index = guest / per_table;
            let to = ((index + 1) * per_table).min(end);
            let nothing_yet = !self.l2.resident.contains_key(&index)
                && self.l2.places.get(index as usize).is_some_and(|place| *place == 0);
            if !(nothing_yet && to - guest == per_table) {
                self.map(guest, std::iter::repeat_n(ZERO, (to - guest) as usize), writer)?;
            }
            guest = to;
        }
        Ok(())
    }

    fn write_out_some(&mut self, writer: &Writer) -> Result<()> {
        if self.l2.too_many() {
            let keep = self.l2.most / 2;
            self.write_l2(keep, writer)?;
        }
        if self.refcounts.too_many() {
            let keep = self.refcounts.most / 2;
            let mut places = Vec::new();
            for index in first_keys(&self.refcounts, keep) {
                if self.refcounts.places.get(index as usize).is_some_and(|place| *place == 0) {
                    places.push(index);
                }
            }
            self.place_refcounts(&places, writer)?;
            write_tables(&mut self.refcounts, keep, writer)?;
        }
        Ok(())
    }

    /// Writes out all but the `keep` highest L2 tables.
    fn write_l2(&mut self, keep: usize, writer: &Writer) -> Result<()> {
        for index in first_keys(&self.l2, keep) {
            if self.l2.places.get(index as usize).is_some_and(|place| *place != 0) {
                continue;
            }
            if self.l2.resident.get(&index).is_some_and(|table| blank(table)) {
                self.l2.resident.remove(&index);
                continue;
            }
            let at = self.plain(1, writer)?;
            if let Some(place) = self.l2.places.get_mut(index as usize) {
                *place = at;
            }
        }
        let keep = keep.min(self.l2.resident.len());
        write_tables(&mut self.l2, keep, writer)
    }

    fn place_refcounts(&mut self, blocks: &[u64], writer: &Writer) -> Result<()> {
        for &index in blocks {
            // Counts the new block itself, which may bring up another block.
            let at = self.plain(1, writer)?;
            if let Some(place) = self.refcounts.places.get_mut(index as usize) {
                *place = at;
            }
        }
        Ok(())
    }

    /// Writes everything but the header; returns the file's length.
    pub(super) fn finish(&mut self, writer: &Writer) -> Result<u64> {
        if let Some(last) = self.close_segment() {
            let data = last.buffer.get(..last.len).unwrap_or_default();
            writer.write(data, last.offset)?;
        }
        if self.pack_end == self.end && self.pack_end != 0 {
            self.end = self.pack.next_multiple_of(self.layout.cluster());
        }
        self.pack_end = 0;
        self.write_l2(0, writer)?;
        loop {
            let homeless: Vec<u64> = (self.refcounts.resident.keys().copied())
                .filter(|index| self.refcounts.places.get(*index as usize).is_some_and(|place| *place == 0))
                .collect();
            if homeless.is_empty() {
                break;
            }
            self.place_refcounts(&homeless, writer)?;
        }
        write_tables(&mut self.refcounts, 0, writer)?;
        let l1 = self.l2.places.iter().map(|&place| if place == 0 { 0 } else { place | COPIED });
        write_words(l1, self.layout.l1_offset, writer)?;
        write_words(self.refcounts.places.iter().copied(), self.layout.refcount_offset, writer)?;
        writer.set_len(self.end)?;
        Ok(self.end)
    }
}

/// True for an L2 table that says nothing but "zero": in an image without a backing file its absence reads the same,
/// and an 8 TiB disk of zeros would need 1 GiB of such tables. What is zero and what is hole, the manifest tells.
fn blank(table: &[u8]) -> bool {
    table.chunks_exact(8).all(|entry| entry == ZERO.to_be_bytes())
}

/// Keys of all resident tables but the `keep` highest.
fn first_keys(set: &TableSet, keep: usize) -> Vec<u64> {
    let count = set.resident.len().saturating_sub(keep);
    set.resident.keys().take(count).copied().collect()
}

/// Writes all placed tables but the `keep` highest, and forgets them. Tables side by side are written together.
fn write_tables(set: &mut TableSet, keep: usize, writer: &Writer) -> Result<()> {
    let mut run: Vec<u8> = Vec::new();
    let mut start = 0u64;
    for index in first_keys(set, keep) {
        let Some(&place) = set.places.get(index as usize).filter(|place| **place != 0) else { continue };
        let Some(table) = set.resident.remove(&index) else { continue };
        if start + run.len() as u64 != place || run.len() as u64 >= SEGMENT {
            writer.write(&run, start)?;
            run.clear();
            start = place;
        }
        run.extend_from_slice(&table);
    }
    writer.write(&run, start)
}

fn write_words(words: impl Iterator<Item = u64>, offset: u64, writer: &Writer) -> Result<()> {
    let raw: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
    writer.write(&raw, offset)
}
