// SPDX-License-Identifier: Apache-2.0
//! Sparse disks in memory, and their encoding, in which every sequence of bytes is some machine.
//!
//! ```text
//!   u8 disks - 1    u64 choices (what the target makes of it: options, places to read)
//!   each disk:      u64 size    u8 sector (odd: 4096 bytes)
//!   chunks:         u8 disk     u64 offset    u32 length    bytes
//! ```
//!
//! All little-endian; numbers out of bounds are taken modulo the bound, what is missing is 0, what lies behind the end is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Result};

const PAGE: u64 = 4096;
/// Larger disks would only make rounds slow; what counts in sectors overflows at sizes that no disk has anyway.
pub const MOST_SIZE: u64 = 1 << 44;
/// Pages that one input may hold: a chunk of one byte costs a page.
const MOST_PAGES: usize = 1 << 15;
const CHUNK: usize = 512;

/// One sparse disk that counts what is read from it.
#[derive(Debug, Default)]
pub struct Disk {
    size: u64,
    large_sectors: bool,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    reads: AtomicU64,
    bytes: AtomicU64,
    /// Pages that were read, where somebody wants to know.
    seen: Option<Mutex<BTreeSet<u64>>>,
}

/// The disks of one input.
#[derive(Debug, Default)]
pub struct Machine {
    /// What the target makes of it.
    pub choices: u64,
    /// At least one.
    pub disks: Vec<Disk>,
}

impl Disk {
    /// An empty disk.
    pub fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// The disk whose bytes these are.
    pub fn of(bytes: &[u8]) -> Self {
        let mut disk = Self::new(bytes.len() as u64);
        disk.write(0, bytes);
        disk
    }

    /// Another size; what lies behind it is gone.
    pub fn resize(&mut self, size: u64) {
        let size = size % (MOST_SIZE + 1);
        self.pages.retain(|page, _| page * PAGE < size);
        if let Some(mut last) = self.pages.last_entry()
            && (last.key() + 1) * PAGE > size
        {
            let within = (size - last.key() * PAGE) as usize;
            last.get_mut()[within..].fill(0);
        }
        self.size = size;
    }

    /// Numbers of the 4 KiB pages that hold something.
    pub fn pages(&self) -> Vec<u64> {
        self.pages.keys().copied().collect()
    }

    /// Writes what lies within the disk.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() && at < self.size {
            let within = (at % PAGE) as usize;
            let len = rest.len().min(PAGE as usize - within).min((self.size - at) as usize);
            let (now, later) = rest.split_at(len);
            let full = self.pages.len() >= MOST_PAGES;
            match self.pages.get_mut(&(at / PAGE)) {
                Some(page) => page[within..within + len].copy_from_slice(now),
                None if full || now.iter().all(|byte| *byte == 0) => {}
                None => {
                    let mut page = Box::new([0; PAGE as usize]);
                    page[within..within + len].copy_from_slice(now);
                    self.pages.insert(at / PAGE, page);
                }
            }
            rest = later;
            at += len as u64;
        }
    }

    /// Remembers from now on which pages are read.
    pub fn watch(&mut self) {
        self.seen = Some(Mutex::default());
    }

    /// Forgets all pages that were not read.
    pub fn keep_seen(&mut self) {
        if let Some(seen) = self.seen.take() {
            let seen = seen.into_inner().unwrap();
            self.pages.retain(|page, _| seen.contains(page));
        }
    }

    /// Reads without counting; zeros behind the end.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.fill(&mut data, offset);
        data
    }

    /// A little-endian number of 1 to 8 bytes, not counted.
    pub fn number(&self, offset: u64, len: usize) -> u64 {
        self.peek(offset, len).iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn fill(&self, data: &mut [u8], offset: u64) {
        data.fill(0);
        let end = offset.saturating_add(data.len() as u64);
        for (page, content) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let (from, to) = ((page * PAGE).max(offset), ((page + 1) * PAGE).min(end));
            let within = (from - page * PAGE) as usize;
            let into = &mut data[(from - offset) as usize..(to - offset) as usize];
            into.copy_from_slice(&content[within..within + into.len()]);
        }
    }
}

impl BlockSource for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        if self.large_sectors { 4096 } else { 512 }
    }

    /// Panics once more was read than any parser needs: each byte twice and 64 MiB, in a million
    /// pieces and one for each 4 KiB.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        assert!(reads <= 1_000_000 + self.size / 4096, "a parser has read {reads} times, which has no end");
        assert!(bytes <= (64 << 20) + 2 * self.size, "a parser has read {bytes} bytes of {}", self.size);
        if let Some(seen) = &self.seen {
            let end = offset.saturating_add(buf.len() as u64);
            seen.lock().unwrap().extend(offset / PAGE..end.div_ceil(PAGE));
        }
        self.fill(buf, offset);
        Ok(())
    }
}

impl Machine {
    /// A machine of one disk.
    pub fn of(disk: Disk) -> Self {
        Self { choices: 0, disks: vec![disk] }
    }

    /// The first disk.
    pub fn first(&self) -> &Disk {
        &self.disks[0]
    }

    /// Reads from all disks, and bytes read.
    pub fn spent(&self) -> (u64, u64) {
        let sum = |field: fn(&Disk) -> &AtomicU64| {
            self.disks.iter().map(|disk| field(disk).load(Ordering::Relaxed)).sum()
        };
        (sum(|disk| &disk.reads), sum(|disk| &disk.bytes))
    }

    /// Never fails.
    pub fn decode(data: &[u8]) -> Self {
        let mut rest = data;
        let mut take = |len: usize| {
            let (now, later) = rest.split_at(len.min(rest.len()));
            rest = later;
            now
        };
        let number = |raw: &[u8]| raw.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let count = number(take(1)) % 4 + 1;
        let choices = number(take(8));
        let mut disks: Vec<Disk> = Vec::new();
        for _ in 0..count {
            let size = number(take(8)) % (MOST_SIZE + 1);
            disks.push(Disk { size, large_sectors: number(take(1)) % 2 == 1, ..Disk::default() });
        }
        loop {
            let disk = take(1);
            if disk.is_empty() {
                return Self { choices, disks };
            }
            let disk = &mut disks[(number(disk) % count) as usize];
            let offset = number(take(8)) % disk.size.max(1);
            let len = number(take(4)) as usize;
            disk.write(offset, take(len));
        }
    }

    /// What [`decode`](Self::decode) makes this machine of.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.disks.len().saturating_sub(1) as u8];
        out.extend(self.choices.to_le_bytes());
        for disk in &self.disks {
            out.extend(disk.size.to_le_bytes());
            out.push(disk.large_sectors.into());
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let mut open: Option<(u64, Vec<u8>)> = None;
            let mut close = |open: &mut Option<(u64, Vec<u8>)>| {
                if let Some((at, bytes)) = open.take() {
                    out.push(index as u8);
                    out.extend(at.to_le_bytes());
                    out.extend((bytes.len() as u32).to_le_bytes());
                    out.extend(bytes);
                }
            };
            for (page, content) in &disk.pages {
                for (part, bytes) in content.chunks(CHUNK).enumerate() {
                    let at = page * PAGE + (part * CHUNK) as u64;
                    let bytes = &bytes[..bytes.len().min(disk.size.saturating_sub(at) as usize)];
                    if bytes.iter().all(|byte| *byte == 0) {
                        continue;
                    }
                    match &mut open {
                        Some((start, have)) if *start + have.len() as u64 == at => have.extend(bytes),
                        _ => {
                            close(&mut open);
                            open = Some((at, bytes.to_vec()));
                        }
                    }
                }
            }
            close(&mut open);
        }
        out
    }

    /// Sets the first disk's sectors to 4096 bytes.
    pub fn large_sectors(&mut self) {
        self.disks.iter_mut().for_each(|disk| disk.large_sectors = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_garbage_is_some_machine() {
        let mut disk = Disk::new(1 << 30);
        disk.write(4000, &[7; 5000]);
        disk.write((1 << 30) - 3, b"abcdef");
        let mut machine = Machine { choices: 9, disks: vec![Disk::new(77), disk] };
        machine.large_sectors();
        let again = Machine::decode(&machine.encode());
        assert_eq!((again.choices, again.disks[1].sector_size()), (9, 4096));
        for (offset, len) in [(0, 20_000), ((1 << 30) - 100, 100)] {
            assert_eq!(again.disks[1].peek(offset, len), machine.disks[1].peek(offset, len));
        }
        assert_eq!(again.encode(), machine.encode());
        let mut random = crate::random::Random::new(1);
        for len in 0..200 {
            let garbage: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
            let _ = Machine::decode(&garbage).encode();
        }
    }

    #[test]
    #[should_panic(expected = "which has no end")]
    fn reading_without_end_is_noticed() {
        let disk = Disk::new(4096);
        while disk.read_at(&mut [0], 5).is_ok() {}
    }
}
