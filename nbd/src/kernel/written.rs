// SPDX-License-Identifier: Apache-2.0
//! A disk that may be written, over a source that is not: what is written stays in memory.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use unmoor_images::{BlockSource, Error, ErrorKind, Extent, Result, State};

use crate::disk::{self, Disk, Zeroes};

/// Bytes that are kept together: a page, which is what filesystems write.
const BLOCK: u64 = 4096;

/// A source, and what was written over it.
pub struct Written<S> {
    below: S,
    blocks: RwLock<BTreeMap<u64, Box<[u8]>>>,
    /// Blocks that it keeps at most.
    most: usize,
}

impl<S: BlockSource> Written<S> {
    /// Keeps at most `most` bytes; a write beyond them fails as `Refused`.
    pub fn new(below: S, most: u64) -> Self {
        Self { below, blocks: RwLock::default(), most: usize::try_from(most / BLOCK).unwrap_or(usize::MAX) }
    }

    /// Calls `each` with every range that reads otherwise than the source, ascending.
    ///
    /// # Errors
    ///
    /// As reading the source, and as `each`.
    pub fn changes(&self, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let mut before = vec![0; BLOCK as usize];
        for (number, bytes) in &*blocks {
            let at = number * BLOCK;
            let Some(before) = before.get_mut(..bytes.len()) else { continue };
            self.below.read_at(before, at)?;
            if *before != **bytes {
                each(at, bytes)?;
            }
        }
        Ok(())
    }

    /// Calls `each` with the pieces of a range: the block, the piece within it, the piece within the range.
    fn pieces(
        &self,
        offset: u64,
        len: u64,
        mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let within = at % BLOCK;
            let step = (BLOCK - within).min(len - done);
            let inner = within as usize..(within + step) as usize;
            each(at / BLOCK, inner, done as usize..(done + step) as usize)?;
            done += step;
        }
        Ok(())
    }

    /// Changes a range: `fill` gets each piece, and where it lies in the range.
    fn change(
        &self,
        offset: u64,
        len: u64,
        mut fill: impl FnMut(&mut [u8], std::ops::Range<usize>),
    ) -> Result<()> {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        self.pieces(offset, len, |number, inner, outer| {
            let start = number * BLOCK;
            let size = BLOCK.min(self.below.size().saturating_sub(start)) as usize;
            let count = blocks.len();
            let block = match blocks.entry(number) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(_) if count >= self.most => {
                    let because = "more was written than this machine's memory is to hold";
                    return Err(Error::refused("writing", because));
                }
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let mut bytes = vec![0; size].into_boxed_slice();
                    if inner.len() < size {
                        self.below.read_at(&mut bytes, start)?;
                    }
                    entry.insert(bytes)
                }
            };
            let room = block.get_mut(inner).ok_or_else(outside)?;
            fill(room, outer);
            Ok(())
        })
    }
}

fn outside() -> Error {
    Error::new(ErrorKind::Io, "writing").because("the range lies outside of the disk")
}

impl<S: BlockSource> Disk for Written<S> {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let end = offset.saturating_add(buf.len() as u64);
        if blocks.range(offset / BLOCK..end.div_ceil(BLOCK)).next().is_none() {
            drop(blocks);
            return self.below.read_at(buf, offset);
        }
        self.below.read_at(buf, offset)?;
        self.pieces(offset, buf.len() as u64, |number, inner, outer| {
            if let Some(block) = blocks.get(&number) {
                let from = block.get(inner).ok_or_else(outside)?;
                buf.get_mut(outer).ok_or_else(outside)?.copy_from_slice(from);
            }
            Ok(())
        })
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        if blocks.contains_key(&(offset / BLOCK)) {
            let end = (offset / BLOCK + 1) * BLOCK;
            return Ok(Extent { offset, len: len.min(end - offset), state: State::Data });
        }
        let next = blocks.range(offset / BLOCK..).next().map(|(number, _)| number * BLOCK);
        let len = next.map_or(len, |next| len.min(next.saturating_sub(offset)));
        self.below.extent_at(offset, len)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.change(offset, data.len() as u64, |room, outer| {
            if let Some(from) = data.get(outer) {
                room.copy_from_slice(from);
            }
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, _how: Zeroes) -> Result<()> {
        self.change(offset, len, |room, _| room.fill(0))
    }

    /// What is no longer needed may stay.
    fn trim(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn will_need(&self, offset: u64, len: u64) -> Result<()> {
        disk::warm(&self.below, offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that depend on their place.
    struct Below(Vec<u8>);

    impl BlockSource for Below {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn sector_size(&self) -> u32 {
            512
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
            Ok(())
        }
        fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
            Ok(Extent { offset, len, state: State::Data })
        }
    }

    #[test]
    fn it_reads_as_a_file_that_was_written_does() {
        let mut model: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        let disk = Written::new(Below(model.clone()), 1 << 20);
        let mut state = 5u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..200 {
            let len = random(9000) + 1;
            let at = random(model.len() as u64 - len + 1);
            let range = at as usize..(at + len) as usize;
            if round % 3 == 0 {
                disk.write_zeroes(at, len, Zeroes::default()).unwrap();
                model[range.clone()].fill(0);
            } else {
                let bytes = vec![round as u8; len as usize];
                disk.write_at(&bytes, at).unwrap();
                model[range.clone()].copy_from_slice(&bytes);
            }
            let from = random(model.len() as u64 - 500);
            let mut read = vec![0; 500];
            disk.read_at(&mut read, from).unwrap();
            assert!(read == model[from as usize..][..500], "{round}");
        }
        let mut patched: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        disk.changes(|at, bytes| {
            assert!(patched[at as usize..][..bytes.len()] != *bytes, "what is equal is told at {at}");
            patched[at as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        assert!(patched == model);
    }

    #[test]
    fn more_than_it_may_keep_is_refused() {
        let disk = Written::new(Below(vec![7; 40_960]), 8192);
        disk.write_at(&[1; 8192], 0).unwrap();
        assert_eq!(disk.write_at(&[1; 1], 8192).unwrap_err().kind(), ErrorKind::Refused);
        disk.write_at(&[2; 8192], 0).unwrap();
    }
}
