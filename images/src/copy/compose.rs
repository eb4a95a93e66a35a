// SPDX-License-Identifier: Apache-2.0
//! Several copies of one disk put together: each part as it was copied last.

use std::ops::Range;

use super::Report;
use crate::merkle::{Leaves, LeavesBuilder};
use crate::{Extent, ExtentMap, LEAF, RangeSet, Result, State};

impl Report {
    /// Nothing of a disk of `size` bytes was copied.
    pub fn nothing(size: u64) -> Self {
        let extents = ExtentMap::uniform(size, State::Hole);
        Self { leaves: Leaves::zeros(size), extents, read_bytes: 0 }
    }

    /// Takes over what `newer` has within `parts`, ranges that begin and end on leaves (or at the disk's end).
    pub fn absorb(&mut self, newer: &Self, parts: &[Range<u64>]) -> Result<()> {
        let size = self.extents.size();
        let mut leaves = Leaves::builder(size);
        let mut extents = Vec::new();
        let mut at = 0;
        let take = |from: &Self, range: Range<u64>, leaves: &mut LeavesBuilder, extents: &mut Vec<Extent>| {
            extents.extend(from.extents.within(range.clone()));
            for (_, count, hash) in
                from.leaves.runs_within(range.start.div_ceil(LEAF)..range.end.div_ceil(LEAF))
            {
                leaves.push_run(count, hash)?;
            }
            Ok::<(), crate::Error>(())
        };
        for part in parts {
            let (start, end) = (part.start.clamp(at, size), part.end.clamp(at, size));
            take(self, at..start, &mut leaves, &mut extents)?;
            take(newer, start..end, &mut leaves, &mut extents)?;
            at = end;
        }
        take(self, at..size, &mut leaves, &mut extents)?;
        self.leaves = leaves.finish()?;
        self.extents = ExtentMap::from_extents(extents)?;
        self.read_bytes = self.read_bytes.saturating_add(newer.read_bytes);
        Ok(())
    }

    /// Gives up the units of `unit` bytes (a multiple of a leaf) in which `used` has nothing but holes: what was copied of them is of no
    /// use any more. Answers which of them had something.
    pub fn forget_unused(&mut self, used: &ExtentMap, unit: u64) -> Result<Vec<Range<u64>>> {
        let size = self.extents.size();
        let mut needed = whole_units(used.iter().filter(|extent| extent.state != State::Hole), unit, size);
        let mut gaps = needed.gaps(size);
        gaps.retain(|gap| self.extents.within(gap.clone()).any(|extent| extent.state != State::Hole));
        self.absorb(&Self::nothing(size), &gaps)?;
        Ok(gaps)
    }

    /// The parts of `used` that were not copied: its data and zeros that are holes here.
    pub fn lacking<'a>(&'a self, used: &'a ExtentMap) -> impl Iterator<Item = Range<u64>> + 'a {
        used.iter().filter(|extent| extent.state != State::Hole).flat_map(|extent| {
            let holes = self.extents.within(extent.offset..extent.end());
            holes.filter(|extent| extent.state == State::Hole).map(|extent| extent.offset..extent.end())
        })
    }
}

/// The units of `unit` bytes that `parts` touch.
pub fn whole_units(parts: impl Iterator<Item = Extent>, unit: u64, size: u64) -> RangeSet {
    let mut units = RangeSet::new();
    for part in parts {
        let end = part.end().div_ceil(unit).saturating_mul(unit).min(size);
        units.insert(part.offset / unit * unit..end);
    }
    units
}

/// `map` within `parts`, and holes elsewhere.
pub fn restricted(map: &ExtentMap, parts: &[Range<u64>]) -> Result<ExtentMap> {
    let size = map.size();
    let mut extents = Vec::new();
    let mut at = 0;
    let hole = |range: Range<u64>| {
        let len = range.end.saturating_sub(range.start);
        (len > 0).then_some(Extent { offset: range.start, len, state: State::Hole })
    };
    for part in parts {
        let (start, end) = (part.start.clamp(at, size), part.end.clamp(at, size));
        extents.extend(hole(at..start));
        extents.extend(map.within(start..end));
        at = end;
    }
    extents.extend(hole(at..size));
    ExtentMap::from_extents(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::Memory;
    use crate::copy::{Options, copy};
    use crate::monitor::{Phase, Silent};
    use crate::{BlockSink, BlockSource};

    #[test]
    fn copies_of_parts_amount_to_one_copy_of_the_whole() {
        let size = LEAF * 9 + 1000;
        let bytes = |seed: u64| (0..size).map(|at| ((at / 4096 * 31 + seed) % 251) as u8).collect::<Vec<_>>();
        let mut content = bytes(1);
        let options = Options { threads: 2, disk: 0, phase: Phase::Capture, name: String::new() };
        let sink = Memory::new(vec![0; size as usize]).with_granule(4096);
        let copy_parts = |content: &[u8], used: &ExtentMap, parts: &[Range<u64>], whole: &mut Report| {
            let source = Memory::new(content.to_vec());
            let part = copy(&source, &restricted(used, parts).unwrap(), &sink, &options, &Silent).unwrap();
            whole.absorb(&part, parts).unwrap();
        };
        let mut first = RangeSet::of(100..LEAF * 3 + 5);
        first.insert(LEAF * 6..LEAF * 7);
        let first = ExtentMap::from_data(size, &mut first, State::Hole);
        let mut whole = Report::nothing(size);
        let everything = std::slice::from_ref(&(0..size)).to_vec();
        copy_parts(&content, &first, &everything, &mut whole);
        // Leaf 1 changes, leaf 6 is given up, the last ones come into use, as does more of leaf 3.
        content.iter_mut().skip(LEAF as usize).take(LEAF as usize).for_each(|byte| *byte ^= 0x55);
        let mut second = RangeSet::of(100..LEAF * 3 + 5000);
        second.insert(LEAF * 8 + 7..size);
        let second = ExtentMap::from_data(size, &mut second, State::Hole);
        let lacking = whole.lacking(&second).map(|range| Extent {
            offset: range.start,
            len: range.end - range.start,
            state: State::Data,
        });
        let mut parts = whole_units(lacking, LEAF, size);
        parts.insert(LEAF..LEAF * 2);
        assert_eq!(parts.ranges(), [LEAF..LEAF * 2, LEAF * 3..LEAF * 4, LEAF * 8..size]);
        copy_parts(&content, &second, parts.ranges(), &mut whole);
        assert_eq!(whole.forget_unused(&second, LEAF).unwrap(), [LEAF * 4..LEAF * 8]);

        let truth = copy(
            &Memory::new(content.clone()),
            &second,
            &Memory::new(vec![0; size as usize]).with_granule(4096),
            &options,
            &Silent,
        )
        .unwrap();
        assert_eq!(whole.extents, truth.extents);
        assert_eq!(whole.leaves, truth.leaves);
        let mut got = vec![0; size as usize];
        sink.read_at(&mut got, 0).unwrap();
        for extent in second.iter().filter(|extent| extent.state == State::Data) {
            let range = extent.offset as usize..extent.end() as usize;
            assert!(got[range.clone()] == content[range]);
        }
        Box::new(sink).finish().unwrap();
    }
}
