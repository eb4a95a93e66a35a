// SPDX-License-Identifier: Apache-2.0
//! A part of a disk, addressed from 0: a partition.

use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result};

/// `len` bytes of `inner` from `start`.
#[derive(Debug)]
pub struct Window<S> {
    inner: S,
    start: u64,
    len: u64,
}

impl<S: BlockSource> Window<S> {
    /// Refuses a window that does not lie within `inner`.
    pub fn new(inner: S, start: u64, len: u64) -> Result<Self> {
        match start.checked_add(len) {
            Some(end) if end <= inner.size() => Ok(Self { inner, start, len }),
            _ => Err(Error::malformed(
                format!("looking at {len} bytes"),
                format!("the disk ends at {:#x}", inner.size()),
            )
            .at(start)),
        }
    }
}

impl<S: BlockSource> BlockSource for Window<S> {
    fn size(&self) -> u64 {
        self.len
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn abort(&self) {
        self.inner.abort();
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len())?;
        self.inner.read_at(buf, self.start + offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let extent = self.inner.extent_at(self.start + offset, len.min(self.len.saturating_sub(offset)))?;
        Ok(Extent { offset, ..extent })
    }
}
