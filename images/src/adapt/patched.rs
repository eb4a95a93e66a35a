// SPDX-License-Identifier: Apache-2.0
//! A disk with a few bytes replaced: a swap whose suspended system is given up.

use crate::{BlockSource, Extent, Result, State};

/// `inner` with `patches` over it: (first byte, new bytes). Later ones win.
pub struct Patched<'a, S> {
    inner: S,
    patches: &'a [(u64, Vec<u8>)],
}

impl<'a, S: BlockSource> Patched<'a, S> {
    /// Puts `patches` over `inner`.
    pub fn new(inner: S, patches: &'a [(u64, Vec<u8>)]) -> Self {
        Self { inner, patches }
    }
}

impl<S: BlockSource> BlockSource for Patched<'_, S> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buf, offset)?;
        let end = offset.saturating_add(buf.len() as u64);
        for (at, bytes) in self.patches {
            let (from, to) = ((*at).max(offset), at.saturating_add(bytes.len() as u64).min(end));
            if from >= to {
                continue;
            }
            let place = buf.get_mut((from - offset) as usize..(to - offset) as usize);
            let piece = bytes.get((from - at) as usize..(to - at) as usize);
            if let (Some(place), Some(piece)) = (place, piece) {
                place.copy_from_slice(piece);
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let extent = self.inner.extent_at(offset, len)?;
        let touched = |(at, bytes): &(u64, Vec<u8>)| {
            *at < extent.end() && offset < at.saturating_add(bytes.len() as u64)
        };
        let state = if self.patches.iter().any(touched) { State::Data } else { extent.state };
        Ok(Extent { state, ..extent })
    }

    fn abort(&self) {
        self.inner.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::Memory;

    #[test]
    fn patches_show_at_any_cut_and_nothing_else_changes() {
        let patches = [(10, vec![7; 5]), (28, vec![8; 9])];
        let patched = Patched::new(Memory::new(vec![1; 32]), &patches);
        let mut want = [1; 32];
        want[10..15].fill(7);
        want[28..].fill(8);
        for start in 0..32 {
            for end in start..=32 {
                let mut got = vec![0; end - start];
                patched.read_at(&mut got, start as u64).unwrap();
                assert_eq!(got, want[start..end]);
            }
        }
    }
}
