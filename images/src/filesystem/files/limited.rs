// SPDX-License-Identifier: Apache-2.0
//! A source that ends: after so many bytes every read is an error.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{BlockSource, Error, Extent, Result};

/// Each read counts as at least this many bytes, so that small ones end too.
const LEAST: u64 = 512;

/// A source of which only so much is read.
pub struct Limited<'a> {
    inner: &'a dyn BlockSource,
    left: AtomicU64,
    spent: AtomicBool,
}

impl<'a> Limited<'a> {
    /// At most `bytes` of `inner`.
    pub fn new(inner: &'a dyn BlockSource, bytes: u64) -> Self {
        Self { inner, left: AtomicU64::new(bytes), spent: AtomicBool::new(false) }
    }

    /// True once a read was refused because it was too many.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }
}

impl BlockSource for Limited<'_> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let cost = LEAST.max(buf.len() as u64);
        let take = |left: u64| left.checked_sub(cost);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            self.spent.store(true, Ordering::Relaxed);
            return Err(Error::malformed(
                "reading files",
                "it takes too many reads: the structures may be a ring",
            )
            .at(offset));
        }
        self.inner.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.inner.extent_at(offset, len)
    }
}
