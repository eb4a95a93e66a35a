// SPDX-License-Identifier: Apache-2.0
//! A disk put together from pieces of other disks: a logical volume.

use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result};

/// A piece of a [`Mapped`] disk; pieces follow each other without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Length in bytes.
    pub len: u64,
    /// Which of the sources holds it.
    pub source: usize,
    /// Where it starts there, in bytes.
    pub start: u64,
}

/// Segments over several sources, addressed as one disk.
pub struct Mapped<'a> {
    sources: Vec<&'a dyn BlockSource>,
    /// Each segment with its own first address.
    segments: Vec<(u64, Segment)>,
    size: u64,
}

impl<'a> Mapped<'a> {
    /// Refuses segments that name no source or leave it.
    pub fn new(
        sources: Vec<&'a dyn BlockSource>,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<Self> {
        let mut size = 0u64;
        let mut placed = Vec::new();
        for segment in segments {
            let room = sources.get(segment.source).map_or(0, |source| source.size());
            let fits = segment.start.checked_add(segment.len).is_some_and(|end| end <= room);
            let next = size.checked_add(segment.len);
            let (true, Some(next)) = (fits, next) else {
                return Err(
                    Error::malformed("mapping a volume", "a segment lies outside its disk").at(segment.start)
                );
            };
            placed.push((size, segment));
            size = next;
        }
        Ok(Self { sources, segments: placed, size })
    }

    /// The segments in order, each with its first address in the volume.
    pub fn segments(&self) -> &[(u64, Segment)] {
        &self.segments
    }

    /// Splits a range of the volume into ranges of its sources: (source, start there, length).
    pub fn resolve(&self, offset: u64, len: u64) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        let end = offset.saturating_add(len);
        let first = self.segments.partition_point(|(at, segment)| at + segment.len <= offset);
        self.segments.iter().skip(first).take_while(move |(at, _)| *at < end).map(move |(at, segment)| {
            let from = offset.max(*at);
            let to = end.min(at + segment.len);
            (segment.source, segment.start + (from - at), to - from)
        })
    }
}

impl BlockSource for Mapped<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sources.iter().map(|source| source.sector_size()).max().unwrap_or(512)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let mut rest = buf;
        for (source, start, len) in self.resolve(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut((len as usize).min(rest.len()));
            let source = self
                .sources
                .get(source)
                .ok_or_else(|| Error::malformed("reading a volume", "no such disk"))?;
            source.read_at(now, start)?;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let (source, start, piece) = self
            .resolve(offset, len)
            .next()
            .ok_or_else(|| Error::malformed("reading a volume", "address beyond its end").at(offset))?;
        let source =
            self.sources.get(source).ok_or_else(|| Error::malformed("reading a volume", "no such disk"))?;
        Ok(Extent { offset, ..source.extent_at(start, piece)? })
    }
}
