// SPDX-License-Identifier: Apache-2.0
//! Which granules of a disk an overlay holds.

use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes of disk that one bit stands for: the block of most filesystems, so that guests seldom write part of one.
pub(super) const GRANULE: u64 = 4096;
/// Bytes of bitmap that are kept, changed and written together: a sector, which a disk writes whole or not at all.
pub(super) const LEAF: usize = 512;
/// Granules of a leaf.
const LEAF_GRANULES: u64 = LEAF as u64 * 8;

/// 4,096 granules: 16 MiB of disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leaf {
    Empty,
    Full,
    Mixed(Box<[u8; LEAF]>),
}

impl Leaf {
    fn bytes(&self) -> [u8; LEAF] {
        match self {
            Self::Empty => [0; LEAF],
            Self::Full => [0xff; LEAF],
            Self::Mixed(bytes) => **bytes,
        }
    }

    fn has(&self, bit: u64) -> bool {
        match self {
            Self::Empty => false,
            Self::Full => true,
            Self::Mixed(bytes) => {
                bytes.get((bit / 8) as usize).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
            }
        }
    }
}

/// One bit a granule. Bits are set and never cleared. Leaves that are all alike take 16 bytes of memory, others 528.
#[derive(Debug, Clone)]
pub(super) struct Bitmap {
    leaves: Vec<Leaf>,
    granules: u64,
    present: u64,
    /// Leaves that were changed since [`Bitmap::take_dirty`].
    dirty: BTreeSet<usize>,
}

impl Bitmap {
    /// All bits clear, for a disk of `size` bytes; the last granule may be cut short.
    pub(super) fn new(size: u64) -> Self {
        let granules = size.div_ceil(GRANULE);
        let leaves = vec![Leaf::Empty; granules.div_ceil(LEAF_GRANULES) as usize];
        Self { leaves, granules, present: 0, dirty: BTreeSet::new() }
    }

    /// Number of leaves.
    pub(super) fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    /// Puts a leaf that was read from a file. False if it has bits beyond the disk's end.
    pub(super) fn load(&mut self, index: usize, bytes: &[u8; LEAF]) -> bool {
        let bits = self.leaf_bits(index);
        let set = count(bytes);
        let within = (0..bits).filter(|bit| has(bytes, *bit)).count() as u64;
        let Some(leaf) = self.leaves.get_mut(index) else { return false };
        if within != set {
            return false;
        }
        *leaf = match set {
            0 => Leaf::Empty,
            _ if set == bits => Leaf::Full,
            _ => Leaf::Mixed(Box::new(*bytes)),
        };
        self.present += set;
        true
    }

    /// Granules of leaf `index`; the last leaf may have fewer.
    fn leaf_bits(&self, index: usize) -> u64 {
        self.granules.saturating_sub(index as u64 * LEAF_GRANULES).min(LEAF_GRANULES)
    }

    /// Granules that are present.
    pub(super) fn present(&self) -> u64 {
        self.present
    }

    /// True if every granule is present.
    pub(super) fn is_full(&self) -> bool {
        self.present == self.granules
    }

    /// Whether the granule of byte `offset` is present, and up to which byte the same holds, at most `end`.
    pub(super) fn run_at(&self, offset: u64, end: u64) -> (bool, u64) {
        let first = offset / GRANULE;
        let last = end.div_ceil(GRANULE).min(self.granules);
        let present = self.has(first);
        let mut at = first + 1;
        while at < last {
            let (index, bit) = ((at / LEAF_GRANULES) as usize, at % LEAF_GRANULES);
            match self.leaves.get(index) {
                // Whole leaves at a step.
                Some(Leaf::Full) if present => at += LEAF_GRANULES - bit,
                Some(Leaf::Empty) if !present => at += LEAF_GRANULES - bit,
                Some(leaf) if leaf.has(bit) == present => at += 1,
                _ => break,
            }
        }
        (present, at.saturating_mul(GRANULE).min(end))
    }

    /// True if every granule that `range` (bytes) touches is present.
    pub(super) fn covers(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.run_at(range.start, range.end) == (true, range.end)
    }

    fn has(&self, granule: u64) -> bool {
        self.leaves
            .get((granule / LEAF_GRANULES) as usize)
            .is_some_and(|leaf| leaf.has(granule % LEAF_GRANULES))
    }

    /// Sets the bits of all granules that `range` (bytes) touches.
    pub(super) fn set(&mut self, range: Range<u64>) {
        let last = range.end.div_ceil(GRANULE).min(self.granules);
        let mut at = range.start / GRANULE;
        while at < last {
            let index = (at / LEAF_GRANULES) as usize;
            let bits = self.leaf_bits(index);
            let from = at % LEAF_GRANULES;
            let to = (last - index as u64 * LEAF_GRANULES).min(bits);
            self.set_in_leaf(index, from..to, bits);
            at += to - from;
        }
    }

    fn set_in_leaf(&mut self, index: usize, range: Range<u64>, bits: u64) {
        let Some(leaf) = self.leaves.get_mut(index) else { return };
        if *leaf == Leaf::Full {
            return;
        }
        let mut bytes = leaf.bytes();
        let before = count(&bytes);
        for bit in range {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte |= 1 << (bit % 8);
            }
        }
        let after = count(&bytes);
        if after == before {
            return;
        }
        *leaf = if after == bits { Leaf::Full } else { Leaf::Mixed(Box::new(bytes)) };
        self.present += after - before;
        self.dirty.insert(index);
    }

    /// The leaves that were changed since the last call, as they are now.
    pub(super) fn take_dirty(&mut self) -> Vec<(usize, [u8; LEAF])> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|index| (index, self.bytes_of(index))).collect()
    }

    /// A leaf for the file: the bits of a full last leaf that lie beyond the disk's end are clear.
    fn bytes_of(&self, index: usize) -> [u8; LEAF] {
        let mut bytes = self.leaves.get(index).map_or([0; LEAF], Leaf::bytes);
        for bit in self.leaf_bits(index)..LEAF_GRANULES {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte &= !(1 << (bit % 8));
            }
        }
        bytes
    }
}

fn count(bytes: &[u8; LEAF]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

fn has(bytes: &[u8; LEAF], bit: u64) -> bool {
    bytes.get((bit / 8) as usize).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_agrees_with_a_list_of_booleans() {
        // 3 leaves and a bit, the last granule cut short.
        let size = 3 * LEAF_GRANULES * GRANULE + 5 * GRANULE + 100;
        let granules = size.div_ceil(GRANULE);
        let mut bitmap = Bitmap::new(size);
        let mut model = vec![false; granules as usize];
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut reloaded = Bitmap::new(size);
        for round in 0..400 {
            let start = random(size);
            let end = (start + 1 + random(if round % 7 == 0 { size } else { 100_000 })).min(size);
            if round % 3 != 0 || round > 300 {
                bitmap.set(start..end);
                model[(start / GRANULE) as usize..end.div_ceil(GRANULE) as usize].fill(true);
            }
            let (present, to) = bitmap.run_at(start, end);
            assert!(to > start && to <= end);
            assert_eq!(present, model[(start / GRANULE) as usize]);
            assert!(
                model[(start / GRANULE) as usize..to.div_ceil(GRANULE) as usize]
                    .iter()
                    .all(|has| *has == present)
            );
            assert!(to == end || model[(to / GRANULE) as usize] != present);
            assert_eq!(bitmap.present(), model.iter().filter(|has| **has).count() as u64);
            for (index, bytes) in bitmap.take_dirty() {
                let mut next = Bitmap::new(size);
                for leaf in 0..reloaded.leaf_count() {
                    assert!(next.load(leaf, &if leaf == index { bytes } else { reloaded.bytes_of(leaf) }));
                }
                reloaded = next;
            }
            assert_eq!(reloaded.leaves, bitmap.leaves);
        }
        bitmap.set(0..size);
        assert!(bitmap.is_full() && bitmap.covers(0..size) && bitmap.covers(7..7));
        assert!(!Bitmap::new(size).load(3, &[0xff; LEAF]), "bits beyond the end");
    }
}
