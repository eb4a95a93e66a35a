// SPDX-License-Identifier: Apache-2.0
//! A disk put together from pieces of other disks: a logical volume.

use std::ops::Range;

use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result};

/// Where a piece lies: a source and the address there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// Which of the sources holds it.
    pub source: usize,
    /// Where it starts there, in bytes.
    pub start: u64,
}

/// A piece of a [`Mapped`] disk; pieces follow each other without gaps.
///
/// With several legs, chunks of `stripe_size` bytes go to the legs in turn, as `dm-stripe` does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Length in bytes over all legs. With several legs a multiple of `stripe_size` times their number.
    pub len: u64,
    /// Bytes of one chunk; without meaning for a single leg.
    pub stripe_size: u64,
    /// One leg is linear.
    pub legs: Vec<Leg>,
}

impl Segment {
    /// `len` bytes in one piece.
    pub fn linear(len: u64, source: usize, start: u64) -> Self {
        Self { len, stripe_size: len.max(1), legs: vec![Leg { source, start }] }
    }

    /// Bytes on each leg, if the numbers make sense.
    fn leg_len(&self) -> Option<u64> {
        match self.legs.len() as u64 {
            0 => None,
            1 => Some(self.len),
            legs => {
                let row = legs.checked_mul(self.stripe_size).filter(|row| *row != 0)?;
                (self.len.is_multiple_of(row)).then(|| self.len / legs)
            }
        }
    }

    /// The chunk at `offset` of this segment: (leg, address on it, bytes left in the chunk).
    fn chunk(&self, offset: u64) -> Option<(Leg, u64, u64)> {
        let legs = self.legs.len() as u64;
        if legs == 1 {
            let leg = self.legs.first()?;
            return Some((*leg, leg.start + offset, self.len - offset));
        }
        let (chunk, within) = (offset / self.stripe_size, offset % self.stripe_size);
        let leg = self.legs.get((chunk % legs) as usize)?;
        Some((*leg, leg.start + chunk / legs * self.stripe_size + within, self.stripe_size - within))
    }

    /// The addresses on leg `index` of what `range` of this segment puts there: always one run.
    fn on_leg(&self, index: usize, range: &Range<u64>) -> Option<(usize, Range<u64>)> {
        let leg = self.legs.get(index)?;
        let legs = self.legs.len() as u64;
        if legs == 1 {
            return Some((leg.source, leg.start + range.start..leg.start + range.end));
        }
        // Bytes of this leg that lie before an address of the segment.
        let before = |offset: u64| {
            let row = legs * self.stripe_size;
            let within = (offset % row).saturating_sub(index as u64 * self.stripe_size);
            offset / row * self.stripe_size + within.min(self.stripe_size)
        };
        let run = leg.start + before(range.start)..leg.start + before(range.end);
        (!run.is_empty()).then_some((leg.source, run))
    }
}

/// Segments over several sources, addressed as one disk.
pub struct Mapped<'a> {
    sources: Vec<&'a dyn BlockSource>,
    /// Each segment with its own first address.
    segments: Vec<(u64, Segment)>,
    size: u64,
    sector_size: u32,
}

impl<'a> Mapped<'a> {
    /// Refuses segments that name no source or leave it, and stripes that do not divide their segment.
    pub fn new(
        sources: Vec<&'a dyn BlockSource>,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<Self> {
        let mut size = 0u64;
        let mut sector_size = 512;
        let mut placed = Vec::new();
        for segment in segments {
            let leg_len = segment.leg_len();
            let fits = segment.legs.iter().all(|leg| {
                let room = sources.get(leg.source).map_or(0, |source| source.size());
                leg_len.and_then(|len| leg.start.checked_add(len)).is_some_and(|end| end <= room)
            });
            let next = size.checked_add(segment.len);
            let (true, Some(next), Some(_)) = (fits, next, leg_len) else {
                return Err(Error::malformed("mapping a volume", "a segment lies outside its disk").at(size));
            };
            for source in segment.legs.iter().filter_map(|leg| sources.get(leg.source)) {
                sector_size = sector_size.max(source.sector_size());
            }
            if segment.len > 0 {
                placed.push((size, segment));
            }
            size = next;
        }
        Ok(Self { sources, segments: placed, size, sector_size })
    }

    /// The segments in order, each with its first address in the volume.
    pub fn segments(&self) -> &[(u64, Segment)] {
        &self.segments
    }

    fn from(&self, offset: u64) -> impl Iterator<Item = &(u64, Segment)> {
        let first = self.segments.partition_point(|(at, segment)| at + segment.len <= offset);
        self.segments.iter().skip(first)
    }

    /// Splits a range of the volume into ranges of its sources, in the volume's order: (source, start there, length).
    pub fn resolve(&self, offset: u64, len: u64) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        let end = offset.saturating_add(len).min(self.size);
        let mut next = offset;
        let mut segments = self.from(offset).peekable();
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let (at, segment) = segments.peek()?;
            let (leg, start, room) = segment.chunk(next - at)?;
            let piece = room.min(end - next);
            next += piece;
            if next >= at + segment.len {
                segments.next();
            }
            Some((leg.source, start, piece))
        })
    }

    /// The ranges of the sources that hold a range of the volume, in no particular order. Unlike
    /// [`resolve`](Self::resolve) it gives one run a leg, however small the stripes are.
    pub fn runs(&self, range: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
        let end = range.end.min(self.size);
        self.from(range.start).take_while(move |(at, _)| *at < end).flat_map(move |(at, segment)| {
            let within = range.start.max(*at) - at..end.min(at + segment.len) - at;
            (0..segment.legs.len()).filter_map(move |leg| segment.on_leg(leg, &within))
        })
    }
}

impl BlockSource for Mapped<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn abort(&self) {
        self.sources.iter().for_each(|source| source.abort());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RangeSet;

    /// A disk whose every byte tells its disk and address.
    struct Tell(u8);

    impl BlockSource for Tell {
        fn size(&self) -> u64 {
            1 << 16
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            for (index, byte) in buf.iter_mut().enumerate() {
                *byte = self.0 ^ (offset as usize + index) as u8 ^ ((offset as usize + index) >> 8) as u8;
            }
            Ok(())
        }
    }

    #[test]
    fn striped_and_linear_segments_read_where_dm_stripe_puts_them() {
        let (a, b, c) = (Tell(0), Tell(0x40), Tell(0x80));
        let disks: [&dyn BlockSource; 3] = [&a, &b, &c];
        let leg = |source, start| Leg { source, start };
        let segments = [
            Segment::linear(1000, 1, 77),
            Segment { len: 3 * 4 * 50, stripe_size: 50, legs: vec![leg(0, 10), leg(2, 20), leg(1, 9000)] },
            Segment::linear(300, 2, 5000),
        ];
        // The naive map, a byte at a time.
        let mut naive = Vec::new();
        for segment in &segments {
            for at in 0..segment.len {
                let legs = segment.legs.len() as u64;
                let chunk = at / segment.stripe_size;
                let leg = &segment.legs[(chunk % legs) as usize];
                naive.push((
                    leg.source,
                    leg.start + chunk / legs * segment.stripe_size + at % segment.stripe_size,
                ));
            }
        }
        let mapped = Mapped::new(disks.to_vec(), segments).unwrap();
        assert_eq!(mapped.size(), naive.len() as u64);
        for (start, end) in [(0, 1900), (999, 1001), (1010, 1024), (1049, 1351), (1100, 1100), (1590, 1900)] {
            let mut got = vec![0; end - start];
            mapped.read_at(&mut got, start as u64).unwrap();
            let mut want = got.clone();
            let mut sets = [RangeSet::new(), RangeSet::new(), RangeSet::new()];
            for (byte, (source, address)) in want.iter_mut().zip(&naive[start..end]) {
                disks[*source].read_at(std::slice::from_mut(byte), *address).unwrap();
                sets[*source].insert(*address..address + 1);
            }
            assert_eq!(got, want, "{start}..{end}");
            let mut runs = [RangeSet::new(), RangeSet::new(), RangeSet::new()];
            mapped.runs(start as u64..end as u64).for_each(|(source, run)| runs[source].insert(run));
            for (run, set) in runs.iter_mut().zip(&mut sets) {
                assert_eq!(run.ranges(), set.ranges(), "{start}..{end}");
            }
        }
    }

    #[test]
    fn segments_outside_their_disk_or_with_uneven_stripes_are_refused() {
        let a = Tell(0);
        let leg = Leg { source: 0, start: 0 };
        for segment in [
            Segment::linear(65537, 0, 0),
            Segment::linear(1, 0, u64::MAX),
            Segment::linear(1, 1, 0),
            Segment { len: 100, stripe_size: 30, legs: vec![leg, leg] },
            Segment { len: 100, stripe_size: 0, legs: vec![leg, leg] },
            Segment { len: 100, stripe_size: 10, legs: vec![] },
        ] {
            assert!(Mapped::new(vec![&a as &dyn BlockSource], [segment]).is_err());
        }
    }
}
