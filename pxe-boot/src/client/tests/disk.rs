// SPDX-License-Identifier: Apache-2.0
//! A disk whose leaves are of every kind.

use unmoor_images::{BlockSource, LEAF, Result};

/// Zeros, text that shrinks, noise that does not, content that comes twice, and a short end.
pub(crate) struct Disk(pub(crate) Vec<u8>);

impl Disk {
    pub(crate) fn new(leaves: usize, seed: u64) -> Self {
        let mut bytes = vec![0; leaves * LEAF as usize + 4096];
        let mut state = seed;
        for (index, leaf) in bytes.chunks_mut(LEAF as usize).enumerate() {
            match index % 5 {
                0 => {}
                1 => leaf.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 100 + index) as u8),
                2 => leaf.fill(9),
                _ => leaf.iter_mut().for_each(|byte| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = (state >> 33) as u8;
                }),
            }
        }
        Self(bytes)
    }
}

impl BlockSource for Disk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
}
