// SPDX-License-Identifier: Apache-2.0
//! Which chunks, of very many: eight bytes each.
//!
//! A store of 100 TiB has 400 million chunks. Their ids are hashes, so that the first 64 bits tell them apart but for rare pairs;
//! who uses such a set says what a pair that it confuses costs.

use super::Id;

/// Ids added since the last sorting, at most so many, or as many as half of the sorted ones.
const LOOSE: usize = 1 << 20;

/// A set of chunk ids by their first 64 bits: at most 12 bytes each while it grows, 8 then.
#[derive(Debug, Default)]
pub(super) struct IdSet {
    sorted: Vec<u64>,
    loose: Vec<u64>,
}

/// The first 64 bits.
pub(super) fn short(id: &Id) -> u64 {
    id.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl IdSet {
    pub(super) fn insert(&mut self, id: &Id) {
        self.loose.push(short(id));
        if self.loose.len() >= LOOSE.max(self.sorted.len() / 2) {
            self.settle();
        }
    }

    /// To be called behind the last `insert`, before anything is asked.
    pub(super) fn settle(&mut self) {
        if !self.loose.is_empty() {
            self.sorted.append(&mut self.loose);
            self.sorted.sort_unstable();
            self.sorted.dedup();
        }
    }

    /// The place of an id among those of the set.
    pub(super) fn position(&self, id: &Id) -> Option<usize> {
        self.sorted.binary_search(&short(id)).ok()
    }

    pub(super) fn contains(&self, id: &Id) -> bool {
        self.position(id).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }
}

/// A bit for each of a known number of things.
#[derive(Debug, Default, Clone)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    /// Sets one; answers what it was.
    pub(super) fn set(&mut self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        match self.0.get_mut(index / 64) {
            Some(word) => {
                let before = *word & bit != 0;
                *word |= bit;
                before
            }
            None => false,
        }
    }

    pub(super) fn get(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let id = |number: u64| *blake3::hash(&number.to_le_bytes()).as_bytes();
        let mut set = IdSet::default();
        for number in 0..3_000_000u64 {
            set.insert(&id(number % 1_400_000));
        }
        set.settle();
        assert_eq!(set.len(), 1_400_000);
        assert!((0..1_400_000).all(|number| set.contains(&id(number))));
        assert!((1_400_000..1_500_000).all(|number| !set.contains(&id(number))));
        let mut bits = Bits::new(set.len());
        assert!(!bits.set(set.position(&id(7)).unwrap()) && bits.set(set.position(&id(7)).unwrap()));
        assert!(bits.get(set.position(&id(7)).unwrap()) && !bits.get(set.position(&id(8)).unwrap()));
    }
}
