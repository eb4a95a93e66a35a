// SPDX-License-Identifier: Apache-2.0
//! Sources for tests.

use crate::source::check_range;
use crate::{BlockSource, Result};

/// A disk in memory.
#[derive(Clone)]
pub(crate) struct Disk(pub(crate) Vec<u8>);

impl BlockSource for Disk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
}
