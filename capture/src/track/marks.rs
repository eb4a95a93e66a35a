// SPDX-License-Identifier: Apache-2.0
//! Which pieces of a disk were written to: a bit a piece.

use unmoor_images::RangeSet;

/// Bytes of a piece, unless the disk is so large that the bits would not fit.
const PIECE: u64 = 64 << 10;
/// Bytes that a disk's bits may take.
const MOST: u64 = 64 << 20;

/// The pieces of one disk that were written to since they were last [taken](Self::take).
#[derive(Debug)]
pub(super) struct Marks {
    words: Vec<u64>,
    piece: u64,
    size: u64,
    /// Written to, but it is not known where.
    everything: bool,
}

impl Marks {
    /// For a disk of `size` bytes, nothing marked.
    pub(super) fn new(size: u64) -> Self {
        let mut piece = PIECE;
        while size.div_ceil(piece) > MOST * 8 {
            piece *= 2;
        }
        let words = vec![0; size.div_ceil(piece).div_ceil(64) as usize];
        Self { words, piece, size, everything: false }
    }

    /// Marks `len` bytes from `offset` on. What lies beyond the disk is no place on it: then all is marked.
    pub(super) fn mark(&mut self, offset: u64, len: u64) {
        let Some(end) = offset.checked_add(len).filter(|end| *end <= self.size) else {
            self.everything = true;
            return;
        };
        if len == 0 {
            return;
        }
        let (first, last) = (offset / self.piece, (end - 1) / self.piece);
        for word in first / 64..=last / 64 {
            let from = if word == first / 64 { first % 64 } else { 0 };
            let to = if word == last / 64 { last % 64 } else { 63 };
            let bits = (u64::MAX << from) & (u64::MAX >> (63 - to));
            match self.words.get_mut(word as usize) {
                Some(slot) => *slot |= bits,
                None => self.everything = true,
            }
        }
    }

    /// Marks all of the disk.
    pub(super) fn mark_everything(&mut self) {
        self.everything = true;
    }

    /// Bytes of pieces that are marked.
    pub(super) fn bytes(&self) -> u64 {
        if self.everything {
            return self.size;
        }
        let pieces: u64 = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        pieces.saturating_mul(self.piece).min(self.size)
    }

    /// What is marked, and marks nothing.
    pub(super) fn take(&mut self) -> Changed {
        let mut ranges = RangeSet::new();
        let everything = std::mem::take(&mut self.everything);
        for (index, slot) in self.words.iter_mut().enumerate() {
            let mut word = std::mem::take(slot);
            if everything {
                continue;
            }
            while word != 0 {
                let (skip, run) = (word.trailing_zeros(), (word >> word.trailing_zeros()).trailing_ones());
                let first = (index as u64 * 64 + u64::from(skip)) * self.piece;
                let end = first + u64::from(run) * self.piece;
                ranges.insert(first..end.min(self.size));
                // All 64 bits cannot be shifted out at once.
                word &= u64::MAX.checked_shl(skip + run).unwrap_or(0);
            }
        }
        if everything { Changed::Everything } else { Changed::Ranges(ranges) }
    }
}

/// What was written to.
#[derive(Debug, Clone)]
pub enum Changed {
    /// These ranges, in bytes; whole pieces.
    Ranges(RangeSet),
    /// Anything may have been.
    Everything,
}

impl Changed {
    /// The ranges of a disk of `size` bytes.
    pub fn into_ranges(self, size: u64) -> RangeSet {
        match self {
            Self::Ranges(ranges) => ranges,
            Self::Everything => RangeSet::of(0..size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(marks: &mut Marks) -> Vec<std::ops::Range<u64>> {
        let size = marks.size;
        marks.take().into_ranges(size).ranges().to_vec()
    }

    #[test]
    fn a_mark_covers_every_piece_that_it_touches_and_is_taken_once() {
        let mut marks = Marks::new(1 << 40);
        marks.mark(PIECE - 1, 2);
        marks.mark(63 * PIECE, PIECE * 130);
        marks.mark((1 << 40) - 512, 512);
        assert_eq!(marks.bytes(), PIECE * 133);
        let want = [0..2 * PIECE, 63 * PIECE..193 * PIECE, (1 << 40) - PIECE..1 << 40];
        assert_eq!(taken(&mut marks), want);
        assert!(taken(&mut marks).is_empty());
    }

    #[test]
    fn what_has_no_place_marks_all() {
        for (offset, len) in [(u64::MAX, 512), (4096, u64::MAX), (1 << 20, 1)] {
            let mut marks = Marks::new(1 << 20);
            marks.mark(offset, len);
            assert!(matches!(marks.take(), Changed::Everything));
            assert!(taken(&mut marks).is_empty());
        }
    }

    #[test]
    fn the_bits_of_a_huge_disk_stay_within_their_bound() {
        let mut marks = Marks::new(1 << 50);
        assert!(marks.words.len() as u64 * 8 <= MOST);
        marks.mark((1 << 50) - 1, 1);
        assert_eq!(taken(&mut marks), [(1 << 50) - marks.piece..1 << 50]);
    }
}
