// SPDX-License-Identifier: Apache-2.0
//! Hands out a disk's work in ascending order, skipping holes however large.

use crate::{Extent, ExtentMap, LEAF, State};

/// A piece of work for one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A slab with data in it: `offset` is a multiple of the slab size.
    Slab { offset: u64, len: u64 },
    /// Granules that are zero or hole only, with some zero in them: begins and ends on granules.
    Zeros { offset: u64, len: u64 },
}

/// Walks an extent map slab by slab.
pub(super) struct Cursor<'a> {
    extents: std::iter::Peekable<Box<dyn Iterator<Item = Extent> + Send + 'a>>,
    size: u64,
    slab: u64,
    granule: u64,
    at: u64,
}

/// Longest piece of zeros, so that cancelling is felt.
const ZEROS: u64 = 1 << 30;

impl<'a> Cursor<'a> {
    /// `granule` must be a power of two.
    pub(super) fn new(map: &'a ExtentMap, granule: u64) -> Self {
        let slab = (4 * LEAF).max(granule);
        let all: Box<dyn Iterator<Item = Extent> + Send + 'a> =
            Box::new(map.iter().filter(|extent| extent.state != State::Hole));
        Self { extents: all.peekable(), size: map.size(), slab, granule, at: 0 }
    }

    /// Bytes of the largest slab.
    pub(super) fn slab(&self) -> u64 {
        self.slab
    }

    fn skip_done(&mut self) {
        while self.extents.next_if(|extent| extent.end() <= self.at).is_some() {}
    }

    pub(super) fn next(&mut self) -> Option<Work> {
        self.skip_done();
        let extent = *self.extents.peek()?;
        let start = extent.offset.max(self.at);
        let slab_start = start / self.slab * self.slab;
        if extent.state == State::Zero && extent.end() - start > 2 * self.slab {
            // A long run of zeros: up to the last slab boundary inside it, whole granules.
            let from = (start / self.granule * self.granule).max(self.at);
            let to = (extent.end() / self.slab * self.slab)
                .min(from.saturating_add(ZEROS) / self.slab * self.slab);
            if to > from && self.at <= from && from.is_multiple_of(self.slab) {
                self.at = to;
                return Some(Work::Zeros { offset: from, len: to - from });
            }
        }
        let end = slab_start.saturating_add(self.slab).min(self.size);
        self.at = end;
        Some(Work::Slab { offset: slab_start, len: end - slab_start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RangeSet;

    #[test]
    fn every_byte_that_is_not_a_hole_is_handed_out_once_and_aligned() {
        let slab = 4 * LEAF;
        let mut data = RangeSet::of(5..600);
        data.insert(slab * 3 - 10..slab * 3 + 10);
        data.insert(slab * 2000 + 77..slab * 2000 + 78);
        let map = crate::ExtentMap::from_data(slab * 5000 + 123, &mut data, State::Hole)
            .zero_holes(&mut RangeSet::of(slab * 10 + 5..slab * 1900));
        let mut cursor = Cursor::new(&map, 65536);
        let (mut at, mut works) = (0, Vec::new());
        while let Some(work) = cursor.next() {
            let (Work::Slab { offset, len } | Work::Zeros { offset, len }) = work;
            assert!(offset >= at && len > 0 && offset % 65536 == 0);
            assert!(map.within(at..offset).all(|extent| extent.state == State::Hole));
            if matches!(work, Work::Zeros { .. }) {
                assert!(map.within(offset..offset + len).all(|extent| extent.state != State::Data));
            }
            at = offset + len;
            works.push(work);
        }
        assert!(map.within(at..map.size()).all(|extent| extent.state == State::Hole));
        assert!(works.len() < 20, "{works:?}");
    }
}
