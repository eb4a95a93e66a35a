// SPDX-License-Identifier: Apache-2.0
//! Reading no faster than somebody has allowed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use unmoor_images::{BlockSource, Extent, Result};

/// Bytes a second, shared by all who read.
#[derive(Debug)]
pub(super) struct Rate {
    bytes_per_second: f64,
    /// When the next read may begin.
    next: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1) as f64, next: Mutex::new(Instant::now()) }
    }

    fn wait_for(&self, bytes: usize) {
        let now = Instant::now();
        let begin = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*next).max(now);
            *next = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
            begin
        };
        std::thread::sleep(begin.saturating_duration_since(now));
    }
}

/// A source whose reads wait for a rate, if there is one.
pub(super) struct Limited<'a> {
    inner: &'a dyn BlockSource,
    rate: Option<&'a Rate>,
}

impl<'a> Limited<'a> {
    pub(super) fn new(inner: &'a dyn BlockSource, rate: Option<&'a Rate>) -> Self {
        Self { inner, rate }
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
        if let Some(rate) = self.rate {
            rate.wait_for(buf.len());
        }
        self.inner.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.inner.extent_at(offset, len)
    }
}
