// SPDX-License-Identifier: Apache-2.0
//! A disk put together from tables, images of partitions, and zeros.

use std::sync::Arc;

use crate::formats::partclone::PartcloneSource;
use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result, State};

/// The disk.
pub struct Assembled {
    size: u64,
    sector_size: u32,
    parts: Vec<Part>,
    /// Ascending, disjoint.
    pieces: Vec<Piece>,
}

/// Something that lies on the disk, in one piece or in several.
enum Part {
    Bytes(Vec<u8>),
    /// Bytes with zeros behind them, up to this length.
    Padded(Vec<u8>, u64),
    Partclone(Arc<PartcloneSource>),
}

/// A range of the disk, and which byte of which part it begins with.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u64,
    len: u64,
    part: usize,
    at: u64,
}

/// Pieces of one disk: a striped volume has one a stripe.
const MOST_PIECES: usize = 4_000_000;
/// What a filesystem has in the last MiB before its end tells nothing of what it is.
const TAIL: u64 = 1 << 20;

/// A disk under construction.
pub(super) struct Builder {
    disk: Assembled,
}

impl Builder {
    pub(super) fn new(size: u64, sector_size: u32) -> Self {
        Self { disk: Assembled { size, sector_size, parts: Vec::new(), pieces: Vec::new() } }
    }

    fn add(&mut self, part: Part) -> usize {
        self.disk.parts.push(part);
        self.disk.parts.len() - 1
    }

    pub(super) fn part(&mut self, source: Arc<PartcloneSource>) -> usize {
        self.add(Part::Partclone(source))
    }

    /// A swap of `len` bytes with this header.
    pub(super) fn swap(&mut self, header: Vec<u8>, len: u64) -> usize {
        self.add(Part::Padded(header, len))
    }

    /// Bytes of a part.
    pub(super) fn len(&self, part: usize) -> u64 {
        self.disk.parts.get(part).map_or(0, Part::size)
    }

    /// Bytes at their place.
    pub(super) fn bytes(&mut self, start: u64, bytes: Vec<u8>) -> Result<()> {
        let len = bytes.len() as u64;
        let part = self.add(Part::Bytes(bytes));
        self.map(part, 0, start, len)
    }

    /// The part is the same in another disk: a logical volume that lies on several.
    pub(super) fn share(&mut self, other: &Self, part: usize) -> usize {
        match other.disk.parts.get(part) {
            Some(Part::Partclone(source)) => self.part(Arc::clone(source)),
            Some(Part::Padded(header, len)) => self.swap(header.clone(), *len),
            Some(Part::Bytes(bytes)) => self.add(Part::Bytes(bytes.clone())),
            None => self.add(Part::Bytes(Vec::new())),
        }
    }

    /// Bytes `at..at + len` of a part lie at `start`. What the part does not have reads as zeros.
    pub(super) fn map(&mut self, part: usize, at: u64, start: u64, len: u64) -> Result<()> {
        let len = len.min(self.len(part).saturating_sub(at));
        if start.checked_add(len).is_none_or(|end| end > self.disk.size) {
            return Err(
                Error::malformed("placing a part of the disk", "it lies behind the disk's end").at(start)
            );
        }
        if self.disk.pieces.len() >= MOST_PIECES {
            let because = "its volumes lie on the disk in millions of pieces";
            return Err(Error::unsupported("placing a part of the disk", because));
        }
        if len > 0 {
            self.disk.pieces.push(Piece { start, len, part, at });
        }
        Ok(())
    }

    /// The disk. Two parts at one place are an error.
    pub(super) fn finish(mut self) -> Result<Assembled> {
        self.disk.pieces.sort_unstable_by_key(|piece| piece.start);
        let overlap = self.disk.pieces.windows(2).find_map(|pair| match pair {
            [one, two] if one.start + one.len > two.start => Some(two.start),
            _ => None,
        });
        match overlap {
            Some(at) => Err(Error::malformed("putting together a disk", "two parts lie at one place").at(at)),
            None => Ok(self.disk),
        }
    }
}

impl Part {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Padded(_, len) => *len,
            Self::Partclone(source) => source.size(),
        }
    }

    fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        match self {
            Self::Bytes(bytes) | Self::Padded(bytes, _) => {
                buf.fill(0);
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                let have = bytes.get(from..).unwrap_or_default();
                buf.iter_mut().zip(have).for_each(|(byte, have)| *byte = *have);
                Ok(())
            }
            Self::Partclone(source) => source.read_at(buf, at),
        }
    }

    fn extent(&self, at: u64, len: u64) -> Result<Extent> {
        match self {
            Self::Bytes(_) => Ok(Extent { offset: at, len, state: State::Data }),
            Self::Padded(bytes, _) => {
                let left = (bytes.len() as u64).saturating_sub(at);
                Ok(match left {
                    0 => Extent { offset: at, len, state: State::Zero },
                    left => Extent { offset: at, len: left.min(len), state: State::Data },
                })
            }
            Self::Partclone(source) => source.extent_at(at, len),
        }
    }
}

impl Assembled {
    /// A view for finding out what is on the disk: as this, but the last MiB of each image of a partition reads as zeros. There
    /// may lie the marks of what a filesystem lies *in* (md, ZFS, BIOS RAID), and partclone has found a filesystem there
    /// already; to look would mean to unpack all of the image first.
    pub fn heads(&self) -> Heads<'_> {
        Heads(self)
    }

    /// Before a copy: what the analysis has unpacked is forgotten.
    pub fn rewind(&self) {
        for part in &self.parts {
            if let Part::Partclone(source) = part {
                source.rewind();
            }
        }
    }

    /// The pieces in `offset..end` and the gaps between them: (first byte, end, piece).
    fn within(&self, offset: u64, end: u64) -> impl Iterator<Item = (u64, u64, Option<&Piece>)> {
        let mut at = offset;
        let mut next = self.pieces.partition_point(|piece| piece.start + piece.len <= offset);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let piece = self.pieces.get(next);
            let from = at;
            let found = match piece {
                Some(piece) if piece.start <= at => {
                    at = (piece.start + piece.len).min(end);
                    next += 1;
                    Some(piece)
                }
                Some(piece) => {
                    at = piece.start.min(end);
                    None
                }
                None => {
                    at = end;
                    None
                }
            };
            Some((from, at, found))
        })
    }

    fn read(&self, buf: &mut [u8], offset: u64, tails: bool) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let end = offset + buf.len() as u64;
        let mut rest = buf;
        for (from, to, piece) in self.within(offset, end) {
            let (now, later) = rest.split_at_mut(((to - from) as usize).min(rest.len()));
            rest = later;
            let Some((piece, part)) = piece.and_then(|piece| Some((piece, self.parts.get(piece.part)?)))
            else {
                now.fill(0);
                continue;
            };
            let at = piece.at + (from - piece.start);
            let known = if tails || !matches!(part, Part::Partclone(_)) {
                now.len()
            } else {
                (part.size().saturating_sub(TAIL).saturating_sub(at)).min(now.len() as u64) as usize
            };
            let (known, tail) = now.split_at_mut(known);
            tail.fill(0);
            if !known.is_empty() {
                part.read(known, at)?;
            }
        }
        Ok(())
    }
}

impl BlockSource for Assembled {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read(buf, offset, true)
    }

    /// What nobody has saved is [`State::Zero`].
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let end = offset.saturating_add(len).min(self.size);
        let mut found: Option<Extent> = None;
        for (from, to, piece) in self.within(offset, end) {
            let extent = match piece.and_then(|piece| Some((piece, self.parts.get(piece.part)?))) {
                Some((piece, part)) => {
                    let known = part.extent(piece.at + (from - piece.start), to - from)?;
                    Extent { offset: from, len: known.len.clamp(1, to - from), state: known.state }
                }
                None => Extent { offset: from, len: to - from, state: State::Zero },
            };
            match &mut found {
                None => found = Some(extent),
                Some(have) if have.state == extent.state => have.len += extent.len,
                Some(_) => break,
            }
            if extent.end() < to {
                break;
            }
        }
        Ok(found.unwrap_or(Extent { offset, len, state: State::Zero }))
    }
}

/// See [`Assembled::heads`].
pub struct Heads<'a>(&'a Assembled);

impl BlockSource for Heads<'_> {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn sector_size(&self) -> u32 {
        self.0.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read(buf, offset, false)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.0.extent_at(offset, len)
    }
}
