// SPDX-License-Identifier: Apache-2.0
//! A generator of its own, so that a failing round can be run again (xorshift64*).

/// Its state.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From any seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Self((seed ^ 0x9e37_79b9_7f4a_7c15).max(1));
        // Seeds that differ in a bit would begin alike.
        (0..8).for_each(|_| {
            random.bits();
        });
        random
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.bits() >> 11) % end.max(1)
    }

    /// An index into something of this length.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of a list.
    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.index(list.len())]
    }
}
