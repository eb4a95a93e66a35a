// SPDX-License-Identifier: Apache-2.0
//! The log (section 2.3): a ring of 4 KiB sectors with entries, of which the last complete sequence is to be replayed.
//!
//! ```text
//!   entry: header, descriptors | data sector | data sector ...     each descriptor: zeros, or one data sector, to a place
//!   sequence: entries one behind the other with ascending numbers; its last entry names its first ("tail")
//! ```

use std::sync::Arc;

use super::guid;
use super::replayed::Patches;
use crate::parse::Bytes;
use crate::{Error, Result};

const DOING: &str = "replaying the VHDX log";
/// Bytes of a log sector, and of a page that a data descriptor replaces.
pub(super) const SECTOR: usize = 4096;
/// Bytes of a log at most. Hyper-V and QEMU make logs of 1 MiB.
pub(super) const MOST: u64 = 64 << 20;
/// Descriptors of zeros in one replay, each of which may cost a hundred bytes of memory.
const MOST_ZEROS: usize = 1 << 16;
const HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// A log in memory.
struct Log<'a> {
    raw: &'a [u8],
    guid: u128,
    /// Bytes that may still be checksummed: entries that lie over each other would take very long.
    budget: std::cell::Cell<u64>,
}

/// An entry whose checksum is right.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Its first sector.
    at: usize,
    sectors: usize,
    sequence: u64,
    /// First sector of the first entry of the sequence that this one ends.
    tail: usize,
    descriptors: usize,
    /// The file had at least as many bytes when this was written.
    flushed: u64,
    /// Everything fits into so many bytes.
    last: u64,
}

/// What the log has to say.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) patches: Patches,
    /// Entries that were replayed; 0 if there is no sequence.
    pub(super) entries: usize,
    /// Bytes of the file after it.
    pub(super) end: u64,
}

/// Finds the active sequence in the log `raw`, whose entries carry `guid`, and collects what it changes.
pub(super) fn replay(raw: &[u8], guid: u128, file_len: u64) -> Result<Replay> {
    let budget = std::cell::Cell::new(8 * raw.len() as u64 + (64 << 20));
    let log = Log { raw, guid, budget };
    let mut replay = Replay { end: file_len, ..Replay::default() };
    for entry in log.active_sequence()? {
        if entry.flushed > file_len {
            let reason = format!("the file had {} bytes once: it is cut short", entry.flushed);
            return Err(Error::malformed(DOING, reason));
        }
        log.apply(&entry, &mut replay.patches)?;
        replay.entries += 1;
        replay.end = replay.end.max(entry.last);
    }
    Ok(replay)
}

impl<'a> Log<'a> {
    fn count(&self) -> usize {
        self.raw.len() / SECTOR
    }

    /// Sector `index`, counted around the ring.
    fn sector(&self, index: usize) -> &'a [u8] {
        let start = index.checked_rem(self.count()).unwrap_or(0) * SECTOR;
        self.raw.get(start..start + SECTOR).unwrap_or_default()
    }

    /// The sequence with the highest number whose last entry's tail is one of its own (section 2.3.3): from there on.
    fn active_sequence(&self) -> Result<Vec<Entry>> {
        let mut best: Vec<Entry> = Vec::new();
        let mut at = 0;
        while at < self.count() {
            let sequence = self.sequence(at)?;
            at += sequence.iter().map(|entry| entry.sectors).sum::<usize>().max(1);
            let Some(head) = sequence.last() else { continue };
            let Some(first) = sequence.iter().position(|entry| entry.at == head.tail) else { continue };
            if best.last().is_none_or(|known| head.sequence > known.sequence) {
                best = sequence.get(first..).unwrap_or_default().to_vec();
            }
        }
        Ok(best)
    }

    /// All entries from sector `at` on that follow each other in place and number.
    fn sequence(&self, at: usize) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut next = at;
        while let Some(entry) = self.entry(next)? {
            let follows =
                entries.last().is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
            if !follows || next - at + entry.sectors > self.count() {
                break;
            }
            next += entry.sectors;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The entry at a sector; `None` if there is none that is whole.
    fn entry(&self, at: usize) -> Result<Option<Entry>> {
        let first = Bytes::new(self.sector(at), "a log entry");
        if first.slice(0, 4)? != b"loge" || guid(first.slice(32, 16)?) != self.guid {
            return Ok(None);
        }
        let (len, tail) = (first.u32_le(8)? as usize, first.u32_le(12)? as usize);
        let entry = Entry {
            at: at.checked_rem(self.count()).unwrap_or(0),
            sectors: len / SECTOR,
            sequence: first.u64_le(16)?,
            tail: tail / SECTOR,
            descriptors: first.u32_le(24)? as usize,
            flushed: first.u64_le(48)?,
            last: first.u64_le(56)?,
        };
        let whole = len.is_multiple_of(SECTOR) && tail.is_multiple_of(SECTOR);
        if !whole || entry.sectors == 0 || entry.sectors > self.count() || entry.sequence == 0 {
            return Ok(None);
        }
        if entry.descriptors > (len - HEADER) / DESCRIPTOR {
            return Ok(None);
        }
        let Some(left) = self.budget.get().checked_sub(len as u64) else {
            return Err(Error::malformed(DOING, "too many entries lie over each other"));
        };
        self.budget.set(left);
        let mut sum = crc32c::crc32c_append(crc32c::crc32c(first.slice(0, 4)?), &[0; 4]);
        sum = crc32c::crc32c_append(sum, first.slice(8, SECTOR - 8)?);
        for index in 1..entry.sectors {
            sum = crc32c::crc32c_append(sum, self.sector(at + index));
        }
        Ok((sum == first.u32_le(4)?).then_some(entry))
    }

    /// Puts what an entry changes into `patches`.
    fn apply(&self, entry: &Entry, patches: &mut Patches) -> Result<()> {
        let malformed =
            |because: &'static str| Error::malformed(DOING, format!("entry {}: {because}", entry.sequence));
        let mut data = (HEADER + entry.descriptors * DESCRIPTOR).div_ceil(SECTOR);
        for index in 0..entry.descriptors {
            let byte = HEADER + index * DESCRIPTOR;
            let bytes = Bytes::new(self.sector(entry.at + byte / SECTOR), "a log descriptor");
            let bytes = bytes.sub(byte % SECTOR, DESCRIPTOR)?;
            let place = bytes.u64_le(16)?;
            if bytes.u64_le(24)? != entry.sequence || !place.is_multiple_of(SECTOR as u64) {
                return Err(malformed("a descriptor of another entry, or one that is not aligned"));
            }
            match bytes.slice(0, 4)? {
                b"zero" => {
                    let end =
                        place.checked_add(bytes.u64_le(8)?).filter(|end| end.is_multiple_of(SECTOR as u64));
                    let end = end.ok_or_else(|| malformed("zeros of an impossible length"))?;
                    if patches.zeros() >= MOST_ZEROS {
                        return Err(malformed("too many ranges of zeros"));
                    }
                    patches.zero(place..end);
                }
                b"desc" => {
                    if data >= entry.sectors {
                        return Err(malformed("fewer data sectors than descriptors"));
                    }
                    let sector = Bytes::new(self.sector(entry.at + data), "a log data sector");
                    data += 1;
                    let (high, low) = (sector.u32_le(4)?, sector.u32_le(SECTOR - 4)?);
                    if sector.slice(0, 4)? != b"data"
                        || (u64::from(high) << 32 | u64::from(low)) != entry.sequence
                    {
                        return Err(malformed("a data sector of another entry"));
                    }
                    // The first 8 and last 4 bytes made room for signature and numbers.
                    let mut page = bytes.slice(8, 8)?.to_vec();
                    page.extend_from_slice(sector.slice(8, SECTOR - 12)?);
                    page.extend_from_slice(bytes.slice(4, 4)?);
                    patches.data(place, Arc::from(page));
                }
                _ => return Err(malformed("a descriptor of unknown kind")),
            }
        }
        Ok(())
    }
}
