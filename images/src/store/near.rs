// SPDX-License-Identifier: Apache-2.0
//! Chunks that lie near one another in a pack are fetched by one read.

use std::ops::Range;

/// What is read at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Bytes between two chunks that are read rather than skipped.
    pub(super) gap: u64,
    /// Most bytes of one read, unless one chunk has more.
    pub(super) most: u64,
}

/// Ranges of a pack's chunks, joined where they lie near one another: which of `wants`, and the bytes. `place` tells the number of the
/// pack and the bytes in it, by which `wants` ascend.
pub(super) fn together<T>(
    wants: &[T],
    reach: Reach,
    place: impl Fn(&T) -> (u32, Range<u64>),
) -> Vec<(Range<usize>, Range<u64>)> {
    let mut groups: Vec<(Range<usize>, Range<u64>)> = Vec::new();
    let mut last = None;
    for (index, want) in wants.iter().enumerate() {
        let (pack, bytes) = place(want);
        match groups.last_mut() {
            Some((members, range))
                if last == Some(pack)
                    && bytes.start <= range.end.saturating_add(reach.gap)
                    && bytes.end.max(range.end).saturating_sub(range.start) <= reach.most =>
            {
                members.end = index + 1;
                range.end = range.end.max(bytes.end);
            }
            _ => groups.push((index..index + 1, bytes)),
        }
        last = Some(pack);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_read_at_once_and_what_is_far_large_or_elsewhere_is_not() {
        let wants =
            [(0, 0..10), (0, 12..20), (0, 30..35), (1, 35..40), (1, 38..50), (1, 50..90), (1, 90..91)];
        let groups = together(&wants, Reach { gap: 5, most: 30 }, Clone::clone);
        assert_eq!(groups, [(0..2, 0..20), (2..3, 30..35), (3..5, 35..50), (5..6, 50..90), (6..7, 90..91)]);
        assert_eq!(together(&wants[..0], Reach { gap: 5, most: 30 }, Clone::clone), []);
    }
}
