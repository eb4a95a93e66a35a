// SPDX-License-Identifier: Apache-2.0
//! Extents: which bytes of a disk hold data, which must read as zeros, which nobody uses.

use std::ops::Range;

use crate::{Error, RangeSet, Result};

/// What a range of a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Content that must be kept.
    Data = 0,
    /// Reads as zeros, and must on the target too.
    Zero = 1,
    /// Not used by any filesystem: any content will do.
    Hole = 2,
}

/// A byte range and its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub state: State,
}

impl Extent {
    /// First byte after it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// Canonical by construction: ascending, contiguous from 0 to `size`, neighbours differ in state.
///
/// Eight bytes an extent: the start shifted left by two, the state in the low bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentMap {
    starts: Vec<u64>,
    size: u64,
}

impl ExtentMap {
    /// A disk of `size` bytes, all in one state.
    pub fn uniform(size: u64, state: State) -> Self {
        let mut map = Self { starts: Vec::new(), size: 0 };
        map.append(size, state);
        map
    }

    /// `data` is data; the rest of `0..size` is in state `rest`.
    pub fn from_data(size: u64, data: &mut RangeSet, rest: State) -> Self {
        let mut map = Self { starts: Vec::new(), size: 0 };
        for range in data.ranges() {
            let (start, end) = (range.start.min(size), range.end.min(size));
            map.append(start - map.size, rest);
            map.append(end - start, State::Data);
        }
        map.append(size - map.size, rest);
        map
    }

    /// The same for a disk of another size: what is new is in state `rest`.
    pub fn resized(&self, size: u64, rest: State) -> Self {
        let mut map = Self { starts: Vec::new(), size: 0 };
        for extent in self.within(0..size.min(self.size)) {
            map.append(extent.len, extent.state);
        }
        map.append(size - map.size, rest);
        map
    }

    /// From extents that must be ascending, contiguous from 0 and not empty; otherwise an error.
    pub fn from_extents(extents: impl IntoIterator<Item = Extent>) -> Result<Self> {
        let mut map = Self { starts: Vec::new(), size: 0 };
        for extent in extents {
            if extent.offset != map.size || extent.len == 0 || extent.end() >= 1 << 62 {
                return Err(
                    Error::malformed("reading an extent map", "extents are not in order").at(extent.offset)
                );
            }
            map.append(extent.len, extent.state);
        }
        Ok(map)
    }

    fn append(&mut self, len: u64, state: State) {
        if len == 0 {
            return;
        }
        if self.starts.last().is_none_or(|last| last & 3 != state as u64) {
            self.starts.push(self.size << 2 | state as u64);
        }
        self.size += len;
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many extents there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// True for a disk of no bytes.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// All extents in order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        (0..self.starts.len()).filter_map(|index| self.get(index))
    }

    /// The parts of all extents that lie within `range`.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        let first = self.starts.partition_point(|start| start >> 2 <= range.start).saturating_sub(1);
        (first..self.starts.len())
            .filter_map(|index| self.get(index))
            .take_while(move |extent| extent.offset < range.end)
            .filter_map(move |extent| {
                let (offset, end) = (extent.offset.max(range.start), extent.end().min(range.end));
                (offset < end).then(|| Extent { offset, len: end - offset, state: extent.state })
            })
    }

    /// Bytes in one state.
    pub fn bytes(&self, state: State) -> u64 {
        self.iter().filter(|extent| extent.state == state).map(|extent| extent.len).sum()
    }

    /// The same map with the holes inside `ranges` turned into zeros. Data stays data.
    pub fn zero_holes(&self, ranges: &mut RangeSet) -> Self {
        let mut map = Self { starts: Vec::new(), size: 0 };
        let mut ranges = ranges.ranges().iter().peekable();
        for extent in self.iter() {
            let mut at = extent.offset;
            while at < extent.end() {
                while ranges.peek().is_some_and(|range| range.end <= at) {
                    ranges.next();
                }
                let (end, inside) = match ranges.peek() {
                    Some(range) if range.start <= at => (range.end.min(extent.end()), true),
                    Some(range) => (range.start.min(extent.end()), false),
                    None => (extent.end(), false),
                };
                let zero = inside && extent.state == State::Hole;
                map.append(end - at, if zero { State::Zero } else { extent.state });
                at = end;
            }
        }
        map
    }

    fn get(&self, index: usize) -> Option<Extent> {
        let start = *self.starts.get(index)?;
        let end = self.starts.get(index + 1).map_or(self.size, |next| next >> 2);
        let state = match start & 3 {
            0 => State::Data,
            1 => State::Zero,
            _ => State::Hole,
        };
        Some(Extent { offset: start >> 2, len: end - (start >> 2), state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, len: u64, state: State) -> Extent {
        Extent { offset, len, state }
    }

    #[test]
    fn maps_are_contiguous_and_merged() {
        let mut data = RangeSet::of(10..20);
        data.insert(90..200);
        let map = ExtentMap::from_data(100, &mut data, State::Hole);
        let want = [
            extent(0, 10, State::Hole),
            extent(10, 10, State::Data),
            extent(20, 70, State::Hole),
            extent(90, 10, State::Data),
        ];
        assert_eq!(map.iter().collect::<Vec<_>>(), want);
        assert_eq!(
            map.within(15..25).collect::<Vec<_>>(),
            [extent(15, 5, State::Data), extent(20, 5, State::Hole)]
        );
        assert_eq!(map.bytes(State::Hole), 80);
        assert_eq!(ExtentMap::from_extents(map.iter()).unwrap(), map);
        assert!(ExtentMap::from_extents([extent(1, 5, State::Data)]).is_err());
    }

    #[test]
    fn only_holes_become_zeros() {
        let map = ExtentMap::from_data(100, &mut RangeSet::of(40..50), State::Hole);
        let zeroed = map.zero_holes(&mut RangeSet::of(30..60));
        let want = [
            extent(0, 30, State::Hole),
            extent(30, 10, State::Zero),
            extent(40, 10, State::Data),
            extent(50, 10, State::Zero),
            extent(60, 40, State::Hole),
        ];
        assert_eq!(zeroed.iter().collect::<Vec<_>>(), want);
    }
}
