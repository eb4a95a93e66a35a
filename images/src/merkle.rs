// SPDX-License-Identifier: Apache-2.0
//! A disk's BLAKE3 Merkle tree: one leaf per 256 KiB of disk address, holes read as zeros.
//!
//! A leaf is the plain BLAKE3 hash of its bytes (the last one may be shorter), so that it can also name
//! a chunk of the store: equal content has an equal leaf wherever it lies. An inner node is a BLAKE3 hash of its two
//! children in a key-derivation context of its own, so that no leaf can pass for a node; an odd node rises
//! unchanged. The root also covers the disk's size.

use crate::{Error, LEAF, Result};

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

const NODE: &str = "unmoor 2026-11-22 merkle node";
const ROOT: &str = "unmoor 2026-11-22 merkle root";

/// The leaf hashes of a disk in order. Runs of equal leaves (zeros) cost one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaves {
    size: u64,
    /// (index of the run's first leaf, its hash); ascending, the first is 0.
    runs: Vec<(u64, Hash)>,
}

/// The hash of a leaf of `len` zero bytes.
pub fn zero_leaf(len: u64) -> Hash {
    use std::sync::OnceLock;
    static WHOLE: OnceLock<Hash> = OnceLock::new();
    let hash = |len: u64| *blake3::hash(&vec![0; len.min(LEAF) as usize]).as_bytes();
    if len == LEAF { *WHOLE.get_or_init(|| hash(LEAF)) } else { hash(len) }
}

/// The hash of one leaf's bytes (at most [`LEAF`]).
pub fn leaf(data: &[u8]) -> Hash {
    if data.len() as u64 == LEAF && is_zero(data) { zero_leaf(LEAF) } else { *blake3::hash(data).as_bytes() }
}

/// True if every byte is zero.
pub fn is_zero(data: &[u8]) -> bool {
    // Looking at the first bytes alone answers for nearly all real data.
    let (head, _) = data.split_at(data.len().min(64));
    // SAFETY: any byte pattern is a valid u128, and align_to only yields properly aligned parts.
    let (before, words, after) = unsafe { data.align_to::<u128>() };
    head.iter().all(|&byte| byte == 0)
        && before.iter().all(|&byte| byte == 0)
        && words.chunks(64).all(|chunk| chunk.iter().fold(0, |or, word| or | word) == 0)
        && after.iter().all(|&byte| byte == 0)
}

impl Leaves {
    /// The leaves of a disk of `size` zero bytes.
    pub fn zeros(size: u64) -> Self {
        let mut leaves = Self { size, runs: Vec::new() };
        let count = size.div_ceil(LEAF);
        if count > 0 {
            leaves.runs.push((0, zero_leaf(LEAF.min(size))));
            let last = size % LEAF;
            if last != 0 && count > 1 {
                leaves.runs.push((count - 1, zero_leaf(last)));
            }
        }
        leaves
    }

    /// From (leaf index, hash) pairs in any order, each index at most once; absent ones are zeros.
    pub fn from_pairs(size: u64, mut pairs: Vec<(u64, Hash)>) -> Result<Self> {
        let count = size.div_ceil(LEAF);
        pairs.sort_unstable_by_key(|pair| pair.0);
        let zeros = Self::zeros(size);
        let mut leaves = Self { size, runs: Vec::with_capacity(pairs.len()) };
        let mut next = 0;
        for (index, hash) in pairs {
            if index < next || index >= count {
                return Err(Error::malformed(
                    "reading leaf hashes",
                    "a leaf stands twice or beyond the disk",
                )
                .at(index));
            }
            leaves.fill_zeros(&zeros, next, index);
            leaves.push(index, hash);
            next = index + 1;
        }
        leaves.fill_zeros(&zeros, next, count);
        Ok(leaves)
    }

    /// The same for a disk of another size, whose new bytes are zeros. A last leaf that gets longer or shorter keeps its hash, which
    /// no longer holds: it is to be hashed anew.
    pub fn resized(&self, size: u64) -> Self {
        let zeros = Self::zeros(size);
        let mut leaves = Self { size, runs: Vec::new() };
        let kept = self.count().min(zeros.count());
        for (first, _, hash) in self.runs_within(0..kept) {
            leaves.push(first, hash);
        }
        leaves.fill_zeros(&zeros, kept, zeros.count());
        leaves
    }

    fn fill_zeros(&mut self, zeros: &Self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        if let Some(hash) = zeros.get(from) {
            self.push(from, hash);
        }
        if let Some(hash) = zeros.get(to - 1) {
            self.push(to - 1, hash);
        }
    }

    fn push(&mut self, index: u64, hash: Hash) {
        if self.runs.last().is_none_or(|(_, last)| *last != hash) {
            self.runs.push((index, hash));
        }
    }

    /// An empty list, to be filled with runs in order.
    pub fn builder(size: u64) -> LeavesBuilder {
        LeavesBuilder { leaves: Self { size, runs: Vec::new() }, next: 0 }
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many leaves the disk has.
    pub fn count(&self) -> u64 {
        self.size.div_ceil(LEAF)
    }

    /// Leaf `index`.
    pub fn get(&self, index: u64) -> Option<Hash> {
        if index >= self.count() {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
        self.runs.get(run).map(|(_, hash)| *hash)
    }

    /// Runs of equal leaves: (index of the first, how many, hash), in order.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64, Hash)> + '_ {
        self.runs.iter().enumerate().map(|(index, (first, hash))| {
            let end = self.runs.get(index + 1).map_or(self.count(), |next| next.0);
            (*first, end - first, *hash)
        })
    }

    /// The parts of [`runs`](Self::runs) within leaves `range`.
    pub fn runs_within(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = (u64, u64, Hash)> + '_ {
        let first = self.runs.partition_point(|(at, _)| *at <= range.start).saturating_sub(1);
        let end = range.end.min(self.count());
        self.runs.iter().enumerate().skip(first).take_while(move |(_, (at, _))| *at < end).filter_map(
            move |(index, (at, hash))| {
                let stop = self.runs.get(index + 1).map_or(self.count(), |next| next.0).min(end);
                let start = (*at).max(range.start);
                (start < stop).then(|| (start, stop - start, *hash))
            },
        )
    }

    /// The leaves, in runs, whose hash in `other` is another one (or which `other` does not have).
    pub fn differing(&self, other: &Self) -> Vec<std::ops::Range<u64>> {
        let mut found: Vec<std::ops::Range<u64>> = Vec::new();
        let mut add = |range: std::ops::Range<u64>| match found.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => found.push(range),
        };
        for (first, count, hash) in self.runs() {
            let end = first + count;
            let mut at = first;
            for (start, len, theirs) in other.runs_within(first..end) {
                if theirs != hash {
                    add(start..start + len);
                }
                at = start + len;
            }
            add(at..end);
        }
        found
    }

    /// The same leaves with those of `range` taken from `other`, a list for a disk of the same size.
    pub fn replaced(&self, range: std::ops::Range<u64>, other: &Self) -> Result<Self> {
        let mut leaves = Self::builder(self.size);
        let parts = [(self, 0..range.start), (other, range.clone()), (self, range.end..self.count())];
        for (from, part) in parts {
            for (_, count, hash) in from.runs_within(part) {
                leaves.push_run(count, hash)?;
            }
        }
        leaves.finish()
    }

    /// The same leaves with those of `pairs` (ascending by index) replaced.
    pub fn with(&self, pairs: &[(u64, Hash)]) -> Result<Self> {
        let mut leaves = Self::builder(self.size);
        let mut next = 0;
        for (index, hash) in pairs {
            for (_, count, hash) in self.runs_within(next..*index) {
                leaves.push_run(count, hash)?;
            }
            leaves.push_run(1, *hash)?;
            next = index + 1;
        }
        for (_, count, hash) in self.runs_within(next..self.count()) {
            leaves.push_run(count, hash)?;
        }
        leaves.finish()
    }

    /// The tree's root: names the whole disk's content.
    ///
    /// Runs of equal leaves are folded as runs, so that a sparse 8 TiB disk costs what it holds.
    pub fn root(&self) -> Hash {
        let mut level: Vec<(u64, Hash)> = self.runs().map(|(_, count, hash)| (count, hash)).collect();
        let mut count = self.count();
        while count > 1 {
            level = fold(&level);
            count = count.div_ceil(2);
        }
        let mut root = blake3::Hasher::new_derive_key(ROOT);
        root.update(&self.size.to_le_bytes());
        if let Some((_, top)) = level.first() {
            root.update(top);
        }
        *root.finalize().as_bytes()
    }
}

/// Takes runs of equal leaves in order.
pub struct LeavesBuilder {
    leaves: Leaves,
    next: u64,
}

impl LeavesBuilder {
    /// The next `count` leaves have this hash; more leaves than the disk has are refused.
    pub fn push_run(&mut self, count: u64, hash: Hash) -> Result<()> {
        match self.next.checked_add(count) {
            Some(next) if count > 0 && next <= self.leaves.count() => {
                self.leaves.push(self.next, hash);
                self.next = next;
                Ok(())
            }
            _ => {
                Err(Error::malformed("reading leaf hashes", "there are more than the disk has").at(self.next))
            }
        }
    }

    /// All leaves must have come.
    pub fn finish(self) -> Result<Leaves> {
        if self.next == self.leaves.count() {
            Ok(self.leaves)
        } else {
            Err(Error::malformed("reading leaf hashes", "there are fewer than the disk has").at(self.next))
        }
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    // One context-key derivation for all nodes: deriving costs as much as hashing a node.
    static BASE: std::sync::OnceLock<blake3::Hasher> = std::sync::OnceLock::new();
    let mut hasher = BASE.get_or_init(|| blake3::Hasher::new_derive_key(NODE)).clone();
    hasher.update(left).update(right);
    *hasher.finalize().as_bytes()
}

/// One level up, on runs of (count, hash).
fn fold(level: &[(u64, Hash)]) -> Vec<(u64, Hash)> {
    let mut up: Vec<(u64, Hash)> = Vec::with_capacity(level.len());
    let mut push = |count: u64, hash: Hash| {
        if count == 0 {
            return;
        }
        match up.last_mut() {
            Some((have, last)) if *last == hash => *have += count,
            _ => up.push((count, hash)),
        }
    };
    let mut waiting: Option<Hash> = None;
    for (count, hash) in level {
        let mut left = *count;
        if let Some(first) = waiting.take() {
            push(1, node(&first, hash));
            left -= 1;
        }
        if left >= 2 {
            push(left / 2, node(hash, hash));
        }
        if left % 2 == 1 {
            waiting = Some(*hash);
        }
    }
    if let Some(odd) = waiting {
        push(1, odd);
    }
    up
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive_root(size: u64, leaves: Vec<Hash>) -> Hash {
        let mut level = leaves;
        while level.len() > 1 {
            level = level
                .chunks(2)
                .map(|pair| if pair.len() == 2 { node(&pair[0], &pair[1]) } else { pair[0] })
                .collect();
        }
        let mut root = blake3::Hasher::new_derive_key(ROOT);
        root.update(&size.to_le_bytes());
        level.first().map(|top| root.update(top));
        *root.finalize().as_bytes()
    }

    #[test]
    fn folding_runs_equals_folding_leaves() {
        for count in 0..40u64 {
            for tail in [0, 1000] {
                let size = (count * LEAF + tail).max(tail);
                let pairs: Vec<_> =
                    (0..count).filter(|i| i % 7 < 2).map(|i| (i, leaf(&[(i / 3) as u8; 9]))).collect();
                let leaves = Leaves::from_pairs(size, pairs).unwrap();
                let flat: Vec<_> = (0..leaves.count()).map(|index| leaves.get(index).unwrap()).collect();
                assert_eq!(leaves.root(), naive_root(size, flat), "{count} leaves and {tail} bytes");
            }
        }
    }

    #[test]
    fn a_huge_sparse_disk_is_cheap() {
        let leaves = Leaves::from_pairs(8 << 40, vec![(5, [1; 32])]).unwrap();
        assert_eq!(leaves.runs().count(), 3);
        assert_ne!(leaves.root(), Leaves::zeros(8 << 40).root());
    }

    #[test]
    fn differing_and_replaced_leaves_agree_with_a_walk() {
        let size = 60 * LEAF + 5;
        let some = |step: u64, tag: u8| {
            (0..50).filter(|i| i % step < 3).map(|i| (i, [tag + (i / 4) as u8; 32])).collect()
        };
        let (a, b) =
            (Leaves::from_pairs(size, some(5, 1)).unwrap(), Leaves::from_pairs(size, some(7, 1)).unwrap());
        let walked: Vec<u64> = (0..a.count()).filter(|&i| a.get(i) != b.get(i)).collect();
        assert_eq!(a.differing(&b).into_iter().flatten().collect::<Vec<_>>(), walked);
        let mixed = a.replaced(10..20, &b).unwrap();
        assert!(
            (0..a.count()).all(|i| mixed.get(i) == if (10..20).contains(&i) { b.get(i) } else { a.get(i) })
        );
    }

    #[test]
    fn leaves_given_singly_replace_those_that_were_there() {
        let a = Leaves::from_pairs(9 * LEAF + 5, vec![(2, [7; 32]), (3, [7; 32])]).unwrap();
        let pairs = [(0, [1; 32]), (3, [2; 32]), (4, [2; 32]), (9, [3; 32])];
        let b = a.with(&pairs).unwrap();
        for index in 0..a.count() {
            let new = pairs.iter().find(|(at, _)| *at == index).map(|(_, hash)| *hash);
            assert_eq!(b.get(index), new.or(a.get(index)), "{index}");
        }
        assert!(a.with(&[(3, [1; 32]), (3, [1; 32])]).is_err());
    }

    #[test]
    fn a_leaf_given_twice_or_outside_is_refused() {
        assert!(Leaves::from_pairs(LEAF, vec![(0, [1; 32]), (0, [2; 32])]).is_err());
        assert!(Leaves::from_pairs(LEAF, vec![(1, [1; 32])]).is_err());
    }

    #[test]
    fn zeros_are_found_at_any_alignment() {
        let mut data = vec![0u8; 5000];
        for start in 0..40 {
            assert!(is_zero(&data[start..]));
        }
        data[4999] = 1;
        assert!(!is_zero(&data[3..]));
        assert!(is_zero(&[]));
    }
}
