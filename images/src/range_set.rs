// SPDX-License-Identifier: Apache-2.0
//! A set of byte ranges that stays within a memory bound by becoming coarser, never smaller.

use std::ops::Range;

/// Ascending, disjoint, merged byte ranges. Inserting in ascending order is cheapest.
///
/// When more than `limit` ranges are held, the smallest gaps are closed: the set then covers more
/// than was inserted, never less. At the default limit it uses at most 64 MiB.
#[derive(Debug, Clone)]
pub struct RangeSet {
    ranges: Vec<Range<u64>>,
    sorted: bool,
    limit: usize,
    min_gap: u64,
}

impl Default for RangeSet {
    fn default() -> Self {
        Self::new()
    }
}

impl RangeSet {
    /// An empty set of at most 2,000,000 ranges.
    pub fn new() -> Self {
        Self::with_limit(2_000_000)
    }

    /// An empty set of at most `limit` ranges (at least 16).
    pub fn with_limit(limit: usize) -> Self {
        Self { ranges: Vec::new(), sorted: true, limit: limit.max(16), min_gap: 1 }
    }

    /// The set of one range.
    pub fn of(range: Range<u64>) -> Self {
        let mut set = Self::new();
        set.insert(range);
        set
    }

    /// Adds a range; may overlap what is there. An empty range adds nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        if let Some(last) = self.ranges.last_mut() {
            if range.start < last.start {
                self.sorted = false;
            } else if range.start <= last.end || range.start - last.end < self.min_gap {
                last.end = last.end.max(range.end);
                return;
            }
        }
        self.ranges.push(range);
        if self.ranges.len() > self.limit {
            self.shrink();
        }
    }

    /// Adds every range of `other`, moved up by `base`.
    pub fn insert_all(&mut self, other: &mut RangeSet, base: u64) {
        other.normalise();
        for range in &other.ranges {
            self.insert(range.start.saturating_add(base)..range.end.saturating_add(base));
        }
    }

    /// Ascending, disjoint ranges.
    pub fn ranges(&mut self) -> &[Range<u64>] {
        self.normalise();
        &self.ranges
    }

    /// Bytes covered.
    pub fn bytes(&mut self) -> u64 {
        self.ranges().iter().map(|range| range.end - range.start).sum()
    }

    /// The ranges of `0..size` that are not covered.
    pub fn gaps(&mut self, size: u64) -> Vec<Range<u64>> {
        let mut at = 0;
        let mut gaps = Vec::new();
        for range in self.ranges() {
            if range.start >= size {
                break;
            }
            if range.start > at {
                gaps.push(at..range.start);
            }
            at = at.max(range.end);
        }
        if at < size {
            gaps.push(at..size);
        }
        gaps
    }

    /// True if every byte of `range` is covered.
    pub fn covers(&mut self, range: Range<u64>) -> bool {
        let ranges = self.ranges();
        let index = ranges.partition_point(|have| have.end < range.end);
        range.is_empty()
            || ranges.get(index).is_some_and(|have| have.start <= range.start && have.end >= range.end)
    }

    /// Cuts off what lies at or beyond `size`.
    pub fn truncate(&mut self, size: u64) {
        self.normalise();
        self.ranges.retain(|range| range.start < size);
        if let Some(last) = self.ranges.last_mut() {
            last.end = last.end.min(size);
        }
    }

    fn normalise(&mut self) {
        if self.sorted {
            return;
        }
        self.ranges.sort_unstable_by_key(|range| range.start);
        self.close_gaps();
        self.sorted = true;
    }

    fn close_gaps(&mut self) {
        let min_gap = self.min_gap;
        self.ranges.dedup_by(|next, kept| {
            let merge = next.start <= kept.end || next.start - kept.end < min_gap;
            if merge {
                kept.end = kept.end.max(next.end);
            }
            merge
        });
    }

    fn shrink(&mut self) {
        self.normalise();
        self.close_gaps();
        while self.ranges.len() > self.limit / 2 {
            self.min_gap = self.min_gap.saturating_mul(2).max(4096);
            self.close_gaps();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_whatever_their_order() {
        let mut set = RangeSet::new();
        for range in [10..20, 30..40, 15..30, 0..5, 100..100] {
            set.insert(range);
        }
        assert_eq!(set.ranges(), [0..5, 10..40]);
        assert_eq!(set.gaps(50), [5..10, 40..50]);
        assert!(set.covers(12..40) && !set.covers(4..6) && set.covers(7..7));
    }

    #[test]
    fn a_full_set_covers_more_never_less() {
        let mut set = RangeSet::with_limit(16);
        for block in (0..1000u64).rev() {
            set.insert(block * 10_000..block * 10_000 + 4096);
        }
        assert!(set.ranges().len() <= 16);
        assert!((0..1000u64).all(|block| set.covers(block * 10_000..block * 10_000 + 4096)));
    }
}
