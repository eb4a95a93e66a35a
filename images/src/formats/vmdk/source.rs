// SPDX-License-Identifier: Apache-2.0
//! A VMDK image as a disk: its extents one behind the other.

use super::sparse::Sparse;
use crate::adapt::Window;
use crate::formats::raw::RawSource;
use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result, State};

/// One extent.
pub(super) enum Part {
    /// The disk's bytes in a file.
    Flat(Window<RawSource>),
    /// A sparse extent, or the start of one.
    Sparse(Box<Window<Sparse>>),
    /// Zeros, so many bytes.
    Zero(u64),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Flat(source) => source.size(),
            Self::Sparse(source) => source.size(),
            Self::Zero(len) => *len,
        }
    }
}

/// A VMDK image opened for reading.
pub struct VmdkSource {
    /// Each with its first address.
    parts: Vec<(u64, Part)>,
    size: u64,
}

impl VmdkSource {
    pub(super) fn new(parts: Vec<Part>) -> Result<Self> {
        let mut size = 0u64;
        let mut placed = Vec::with_capacity(parts.len());
        for part in parts.into_iter().filter(|part| part.len() > 0) {
            let start = size;
            size = size.checked_add(part.len()).ok_or_else(|| {
                Error::malformed("opening the VMDK image", "its extents are larger than any disk")
            })?;
            placed.push((start, part));
        }
        Ok(Self { parts: placed, size })
    }

    /// The extents from address `offset` on.
    fn from(&self, offset: u64) -> impl Iterator<Item = &(u64, Part)> {
        let first = self.parts.partition_point(|(start, part)| start + part.len() <= offset);
        self.parts.iter().skip(first)
    }
}

impl BlockSource for VmdkSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let mut at = offset;
        let mut rest = buf;
        for (start, part) in self.from(offset) {
            if rest.is_empty() {
                break;
            }
            let within = at - start;
            let (now, later) = rest.split_at_mut((part.len() - within).min(rest.len() as u64) as usize);
            match part {
                Part::Flat(source) => source.read_at(now, within)?,
                Part::Sparse(source) => source.read_at(now, within)?,
                Part::Zero(_) => now.fill(0),
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let end = offset.saturating_add(len).min(self.size);
        let mut found: Option<Extent> = None;
        let mut at = offset;
        for (start, part) in self.from(offset) {
            // An extent's answer may end before the extent does: then the disk's ends there too.
            if at >= end {
                break;
            }
            let (within, room) = (at - start, (start + part.len()).min(end) - at);
            let next = match part {
                Part::Flat(source) => source.extent_at(within, room),
                Part::Sparse(source) => source.extent_at(within, room),
                Part::Zero(_) => Ok(Extent { offset: within, len: room, state: State::Zero }),
            };
            let next = match (next, &found) {
                (Ok(next), _) => next,
                (Err(_), Some(_)) => break,
                (Err(error), None) => return Err(error),
            };
            match &mut found {
                None => found = Some(Extent { offset, ..next }),
                Some(extent) if extent.state == next.state => extent.len += next.len,
                Some(_) => break,
            }
            at += next.len;
            if next.len < room {
                break;
            }
        }
        found.ok_or_else(|| Error::malformed("mapping a VMDK image", "an address beyond its end").at(offset))
    }
}
