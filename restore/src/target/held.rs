// SPDX-License-Identifier: Apache-2.0
//! A sink that keeps back what makes a disk look bootable: the first MiB, and the backup table.
//!
//! UEFI firmware falls back to the backup GPT where the primary is missing (UEFI 2.10, 5.3.2), so the backup is
//! held back as well.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use unmoor_images::sink::Finished;
use unmoor_images::source::check_range;
use unmoor_images::{BlockSink, BlockSource, Extent, Result, State};

use super::DiskFile;

/// What is written last of all: MBR, GPT header on 512-byte sectors, the superblock of a filesystem on the whole disk.
const HEAD: usize = 4096;

/// A [`DiskFile`] with ranges that stay in memory until [`commit_first`](Self::commit_first).
///
/// As a source it reads as the committed disk will.
#[derive(Debug)]
pub struct Held {
    disk: DiskFile,
    granule: u64,
    held: Mutex<Vec<Piece>>,
}

/// The content of a held range; `written` is set once something was written to it.
#[derive(Debug)]
struct Piece {
    start: u64,
    bytes: Vec<u8>,
    written: bool,
}

impl Piece {
    fn range(&self) -> Range<u64> {
        self.start..self.start + self.bytes.len() as u64
    }
}

impl Held {
    /// Holds `ranges` (ascending, disjoint, small) of `disk` back; they begin as zeros, as the cleared disk is.
    pub fn new(disk: DiskFile, ranges: &[Range<u64>]) -> Self {
        let sector = u64::from(disk.sector_size());
        let granule = if disk.is_device() { sector } else { 4096 };
        let held = ranges
            .iter()
            .map(|range| Piece {
                start: range.start.min(disk.size()),
                bytes: vec![0; (range.end.min(disk.size()).saturating_sub(range.start)) as usize],
                written: false,
            })
            .collect();
        Self { disk, granule, held: Mutex::new(held) }
    }

    /// The disk beneath.
    pub fn disk(&self) -> &DiskFile {
        &self.disk
    }

    fn held(&self) -> MutexGuard<'_, Vec<Piece>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Splits `offset..offset+len` into (range, index of the held piece or none).
    fn split(pieces: &[Piece], offset: u64, len: u64) -> Vec<(Range<u64>, Option<usize>)> {
        let end = offset + len;
        let mut parts = Vec::new();
        let mut at = offset;
        for (index, piece) in pieces.iter().enumerate() {
            let inside = piece.range().start.max(at)..piece.range().end.min(end);
            if inside.start >= inside.end {
                continue;
            }
            if at < inside.start {
                parts.push((at..inside.start, None));
            }
            at = inside.end;
            parts.push((inside, Some(index)));
        }
        if at < end {
            parts.push((at..end, None));
        }
        parts
    }

    fn put(&self, offset: u64, len: u64, data: Option<&[u8]>) -> Result<()> {
        let mut pieces = self.held();
        let parts = Self::split(&pieces, offset, len);
        if parts.iter().all(|(_, piece)| piece.is_none()) {
            drop(pieces);
            return match data {
                Some(data) => self.disk.write(data, offset),
                None => self.disk.zero(offset, len),
            };
        }
        for (range, piece) in parts {
            let from = (range.start - offset) as usize..(range.end - offset) as usize;
            let part = data.and_then(|data| data.get(from));
            match piece.and_then(|index| pieces.get_mut(index)) {
                None => match part {
                    Some(part) => self.disk.write(part, range.start)?,
                    None => self.disk.zero(range.start, range.end - range.start)?,
                },
                Some(piece) => {
                    piece.written = true;
                    let to = (range.start - piece.start) as usize..(range.end - piece.start) as usize;
                    if let Some(place) = piece.bytes.get_mut(to) {
                        match part {
                            Some(part) => place.copy_from_slice(part),
                            None => place.fill(0),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes what was held but for the lowest range: after it the disk has a backup table at most, without which
    /// the first sector is nothing.
    ///
    /// Everything that was written before is flushed first.
    pub fn commit_rest(&self) -> Result<()> {
        self.disk.flush()?;
        for piece in self.held().iter().skip(1).rev().filter(|piece| piece.written) {
            self.disk.write(&piece.bytes, piece.start)?;
        }
        self.disk.flush()
    }

    /// Writes the lowest range, its first page last, and reads back all that was held.
    ///
    /// Until the very last write the disk has no table: no protective MBR, boot code or superblock.
    pub fn commit_first(&self) -> Result<()> {
        let pieces = self.held();
        if let Some(first) = pieces.first().filter(|piece| piece.written) {
            let (head, rest) = first.bytes.split_at(first.bytes.len().min(HEAD));
            self.disk.write(rest, first.start + head.len() as u64)?;
            self.disk.flush()?;
            self.disk.write(head, first.start)?;
            self.disk.flush()?;
        }
        for piece in pieces.iter().filter(|piece| piece.written) {
            let mut back = vec![0; piece.bytes.len()];
            self.disk.read_at(&mut back, piece.start)?;
            if back != piece.bytes {
                return Err(self.disk.differs(piece.start));
            }
        }
        Ok(())
    }
}

impl BlockSink for Held {
    fn granule(&self) -> u64 {
        self.granule
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.disk.size(), offset, data.len())?;
        self.put(offset, data.len() as u64, Some(data))
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.put(offset, len, None)
    }

    fn written_bytes(&self) -> u64 {
        self.disk.written()
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        self.commit_rest()?;
        self.commit_first()?;
        Ok(Finished { stored_bytes: self.disk.written() })
    }
}

impl BlockSource for Held {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.disk.size(), offset, buf.len())?;
        let pieces = self.held();
        let parts = Self::split(&pieces, offset, buf.len() as u64);
        if parts.iter().all(|(_, piece)| piece.is_none()) {
            drop(pieces);
            return self.disk.read_at(buf, offset);
        }
        for (range, piece) in parts {
            let to = (range.start - offset) as usize..(range.end - offset) as usize;
            let Some(place) = buf.get_mut(to) else { continue };
            match piece.and_then(|index| pieces.get(index)) {
                None => self.disk.read_at(place, range.start)?,
                Some(piece) => {
                    let from = (range.start - piece.start) as usize..(range.end - piece.start) as usize;
                    if let Some(part) = piece.bytes.get(from) {
                        place.copy_from_slice(part);
                    }
                }
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let pieces = self.held();
        match Self::split(&pieces, offset, len).into_iter().next() {
            Some((range, Some(_))) => Ok(Extent { offset, len: range.end - range.start, state: State::Data }),
            Some((range, None)) => self.disk.extent_at(offset, range.end - range.start),
            None => Ok(Extent { offset, len, state: State::Data }),
        }
    }
}
