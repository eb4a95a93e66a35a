// SPDX-License-Identifier: Apache-2.0
//! Changing an existing image in place.
//!
//! ```text
//!   write_at: cluster used once -> its bytes in the file          shared, compressed, zero or none -> a new cluster at the end
//!   finish:   flush | refcounts of what is new | flush | L2 | flush | L1 | flush | refcounts of what is free | flush
//! ```
//!
//! A crash between the steps of `finish` leaves clusters that are counted and not used, never the other way round: the image
//! reads well, and [`Qcow2Patcher::open`] with `repair` counts anew. Bytes of clusters that are used once are overwritten at
//! once: whoever needs all or nothing keeps a redo log (`crate::overlay`).

mod count;
mod refcounts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::codec::Compressed;
use super::header::{Header, incompatible};
use super::source::{ImageFile, Qcow2Source};
use super::{COMPRESSED, COPIED, OFFSET, ZERO};
use crate::formats::file;
use crate::source::check_range;
use crate::{BlockSource, Error, Result, ResultExt};
use refcounts::Refcounts;

const DOING: &str = "changing a qcow2 image";

fn bad(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}

fn refused(path: &Path, because: &'static str) -> Error {
    Error::refused(DOING, because).path(path)
}

/// Reads `len` bytes; what lies behind the file's end is zeros.
fn read(file: &File, offset: u64, len: u64, file_len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let present = file_len.saturating_sub(offset).min(len) as usize;
    if let Some(present) = bytes.get_mut(..present) {
        file.read_exact_at(present, offset)
            .map_err(|error| Error::io("reading the image", error).at(offset))?;
    }
    Ok(bytes)
}

fn write(file: &File, bytes: &[u8], offset: u64) -> Result<()> {
    #[cfg(test)]
    tests::may_write()?;
    file.write_all_at(bytes, offset).map_err(|error| Error::io("writing the image", error).at(offset))
}

/// An L2 table in memory.
struct Table {
    entries: Vec<u64>,
    place: u64,
    changed: bool,
}

/// An image opened for changing.
pub(in crate::formats) struct Qcow2Patcher {
    file: File,
    file_len: u64,
    header: Header,
    /// The image as it was: new clusters take from it what is not overwritten.
    before: Qcow2Source,
    l1: Vec<u64>,
    l1_changed: bool,
    l2: BTreeMap<usize, Table>,
    refcounts: Refcounts,
    /// First cluster of the file that nobody has.
    next: u64,
    /// Clusters that lose a user when all else is written.
    freed: Vec<u64>,
}

impl Qcow2Patcher {
    /// Opens `path`. With `repair`, or where the image was not closed cleanly, refcounts are made anew from what is used.
    pub(in crate::formats) fn open(path: &Path, repair: bool) -> Result<Self> {
        let (file, header) = Self::header(path)?;
        if header.backing.is_some() {
            return Err(refused(path, "it has a backing file: merge them with qemu-img convert first"));
        }
        let file_len = file::len(&file)?;
        let image = ImageFile { file: file.try_clone().doing(|| DOING)?, len: file_len };
        let before = Qcow2Source::new(&header, image, None, None)?;
        Self::new(file, header, before, repair)
    }

    /// Opens an overlay, `before` being what it shows now.
    pub(in crate::formats) fn open_overlay(path: &Path, before: Qcow2Source) -> Result<Self> {
        let (file, header) = Self::header(path)?;
        Self::new(file, header, before, false)
    }

    fn header(path: &Path) -> Result<(File, Header)> {
        let opening = || format!("opening {}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(path).doing(opening)?;
        let header = Header::read(&file, file::len(&file)?).doing(opening)?;
        let because = if header.extended_l2 {
            "it has subclusters (extended L2 entries): convert it with qemu-img convert first"
        } else if header.external_data {
            "its data lies in another file: convert it with qemu-img convert first"
        } else if header.bitmaps {
            "it has dirty bitmaps, which would no longer be true: remove them with qemu-img bitmap --remove"
        } else {
            return Ok((file, header));
        };
        Err(refused(path, because))
    }

    fn new(file: File, header: Header, before: Qcow2Source, repair: bool) -> Result<Self> {
        let file_len = file::len(&file)?;
        let l1 = words(&read(&file, header.l1_offset, header.l1_entries * 8, file_len)?);
        let refcounts = Refcounts::read(&header, &file, file_len)?;
        let next = file_len.div_ceil(header.cluster());
        let mut patcher = Self {
            file,
            file_len,
            before,
            l1,
            l1_changed: false,
            l2: BTreeMap::new(),
            refcounts,
            next,
            freed: Vec::new(),
            header,
        };
        if repair || patcher.header.dirty {
            patcher.count_anew()?;
        }
        Ok(patcher)
    }

    /// Size of the disk in bytes.
    pub(in crate::formats) fn size(&self) -> u64 {
        self.header.size
    }

    /// Writes `bytes` at `offset` of the disk.
    pub(in crate::formats) fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        check_range(self.header.size, offset, bytes.len()).doing(|| DOING)?;
        let cluster = self.header.cluster();
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let len = (cluster - at % cluster).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at(len);
            self.write_cluster(now, at)?;
            rest = later;
            at += len as u64;
        }
        Ok(())
    }

    fn write_cluster(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        let (bits, cluster) = (self.header.cluster_bits, self.header.cluster());
        let per_table = cluster / 8;
        let l1_index = (at >> bits) / per_table;
        let l1_index = usize::try_from(l1_index).map_err(|_| bad("an address beyond the L1 table"))?;
        let slot = ((at >> bits) % per_table) as usize;
        self.load_table(l1_index)?;
        let entry = self.l2.get(&l1_index).and_then(|table| table.entries.get(slot)).copied();
        let entry = entry.ok_or_else(|| bad("an L2 table that is too short"))?;
        let (start, within) = (at - at % cluster, (at % cluster) as usize);
        let place = entry & OFFSET;
        if entry & COMPRESSED == 0 && place != 0 {
            if !place.is_multiple_of(cluster) || place >= self.next << bits {
                return Err(bad("a cluster outside the file, or not aligned").at(at));
            }
            if self.users(place >> bits)? == 1 {
                if entry & ZERO == 0 {
                    write(&self.file, bytes, place + within as u64)?;
                } else {
                    // Room that was set aside for a cluster of zeros.
                    let mut whole = vec![0; cluster as usize];
                    overwrite(&mut whole, within, bytes);
                    write(&self.file, &whole, place)?;
                }
                self.set_entry(l1_index, slot, place | COPIED);
                return Ok(());
            }
        }
        let mut whole = vec![0; cluster as usize];
        let present = (self.header.size - start).min(cluster) as usize;
        if bytes.len() < present
            && let Some(present) = whole.get_mut(..present)
        {
            self.before.read_at(present, start)?;
        }
        overwrite(&mut whole, within, bytes);
        let new = self.allocate()?;
        write(&self.file, &whole, new)?;
        self.set_entry(l1_index, slot, new | COPIED);
        self.free(entry);
        Ok(())
    }

    /// Has the L2 table of L1 entry `index` in memory, at a place of its own.
    fn load_table(&mut self, index: usize) -> Result<()> {
        if self.l2.contains_key(&index) {
            return Ok(());
        }
        let (bits, cluster) = (self.header.cluster_bits, self.header.cluster());
        let l1 = self.l1.get(index).copied().ok_or_else(|| bad("an address beyond the L1 table"))?;
        let place = l1 & OFFSET;
        let table = if place == 0 {
            let new = self.allocate()?;
            Table { entries: vec![0; (cluster / 8) as usize], place: new, changed: true }
        } else {
            if !place.is_multiple_of(cluster) || place >= self.file_len {
                return Err(bad("an L2 table outside the file, or not aligned").at(place));
            }
            let entries = words(&read(&self.file, place, cluster, self.file_len)?);
            if self.users(place >> bits)? == 1 {
                Table { entries, place, changed: false }
            } else {
                // It belongs to a snapshot too, and what it points to is counted for each.
                let new = self.allocate()?;
                self.freed.push(place >> bits);
                Table { entries, place: new, changed: true }
            }
        };
        let entry = table.place | COPIED;
        if let Some(slot) = self.l1.get_mut(index)
            && *slot != entry
        {
            *slot = entry;
            self.l1_changed = true;
        }
        self.l2.insert(index, table);
        Ok(())
    }

    fn set_entry(&mut self, index: usize, slot: usize, entry: u64) {
        if let Some(table) = self.l2.get_mut(&index)
            && let Some(old) = table.entries.get_mut(slot)
            && *old != entry
        {
            *old = entry;
            table.changed = true;
        }
    }

    /// Who uses a cluster that somebody uses.
    fn users(&mut self, cluster: u64) -> Result<u64> {
        match self.refcounts.get(cluster, &self.file, self.file_len)? {
            0 => Err(Error::refused(
                DOING,
                "a cluster in use is counted as free: repair the image with qemu-img check -r all",
            )
            .at(cluster << self.header.cluster_bits)),
            users => Ok(users),
        }
    }

    /// A new cluster at the end of the file.
    fn allocate(&mut self) -> Result<u64> {
        self.allocate_run(1)
    }

    fn allocate_run(&mut self, count: u64) -> Result<u64> {
        let first = self.next;
        let end = first.saturating_add(count);
        // Bits 9 to 55 of an entry hold an offset.
        if end >= 1 << (56 - self.header.cluster_bits) {
            return Err(Error::unsupported(DOING, "its file grows beyond what qcow2 can address"));
        }
        for cluster in first..end {
            self.refcounts.set(cluster, 1, &self.file, self.file_len)?;
        }
        self.next = end;
        Ok(first << self.header.cluster_bits)
    }

    /// What an L2 entry pointed to loses a user.
    fn free(&mut self, entry: u64) {
        let clusters = used_clusters(entry, self.header.cluster_bits);
        self.freed.extend(clusters.into_iter().flatten());
    }

    /// Writes what is still in memory, in the order that the module's head shows. Without it nothing new is part of the image.
    pub(in crate::formats) fn finish(mut self) -> Result<()> {
        loop {
            let homeless = self.refcounts.homeless();
            if homeless.is_empty() {
                break;
            }
            let mut too_short = false;
            for index in homeless {
                let place = self.allocate()?;
                too_short |= self.refcounts.give_place(index, place)?;
            }
            if too_short {
                let clusters = self.refcounts.wanted_clusters();
                let place = self.allocate_run(clusters)?;
                let (old, count) = self.refcounts.move_to(place, clusters);
                let first = old >> self.header.cluster_bits;
                self.freed.extend(first..first.saturating_add(count));
            }
        }
        let len = self.next << self.header.cluster_bits;
        if len > self.file_len {
            self.file.set_len(len).doing(|| "growing the image")?;
        }
        self.sync()?;
        self.refcounts.write_blocks(&self.file)?;
        self.sync()?;
        if self.refcounts.write_table(&self.file)? {
            self.sync()?;
            let (offset, clusters) = self.refcounts.place();
            if offset != self.header.refcounts.offset {
                let mut field = offset.to_be_bytes().to_vec();
                field.extend((clusters as u32).to_be_bytes());
                // Twelve bytes of one sector: there whole or not at all.
                write(&self.file, &field, 48)?;
                self.sync()?;
            }
        }
        for table in self.l2.values().filter(|table| table.changed) {
            let raw: Vec<u8> = table.entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            write(&self.file, &raw, table.place)?;
        }
        self.sync()?;
        if self.l1_changed {
            let raw: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            write(&self.file, &raw, self.header.l1_offset)?;
            self.sync()?;
        }
        for cluster in std::mem::take(&mut self.freed) {
            let users = self.refcounts.get(cluster, &self.file, self.file_len)?;
            self.refcounts.set(cluster, users.saturating_sub(1), &self.file, self.file_len)?;
        }
        self.refcounts.write_blocks(&self.file)?;
        self.sync()?;
        if self.header.dirty {
            let mut field = [0; 8];
            self.file.read_exact_at(&mut field, 72).doing(|| "reading the header")?;
            let features = u64::from_be_bytes(field) & !incompatible::DIRTY;
            write(&self.file, &features.to_be_bytes(), 72)?;
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().doing(|| "flushing the image to stable storage")
    }
}

/// The clusters of the file that an L2 entry uses.
fn used_clusters(entry: u64, bits: u32) -> Option<std::ops::Range<u64>> {
    if entry & COMPRESSED != 0 {
        let place = Compressed::from_entry(entry, bits);
        let end = place.offset.saturating_add(place.len).saturating_sub(1);
        return Some(place.offset >> bits..(end >> bits).saturating_add(1));
    }
    let place = entry & OFFSET;
    (place != 0).then(|| place >> bits..(place >> bits).saturating_add(1))
}

fn overwrite(whole: &mut [u8], within: usize, bytes: &[u8]) {
    if let Some(part) = whole.get_mut(within..within.saturating_add(bytes.len())) {
        part.copy_from_slice(bytes);
    }
}

fn words(raw: &[u8]) -> Vec<u64> {
    raw.chunks_exact(8)
        .map(|word| <[u8; 8]>::try_from(word).map(u64::from_be_bytes).unwrap_or_default())
        .collect()
}
