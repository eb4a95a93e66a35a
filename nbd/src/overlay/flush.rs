// SPDX-License-Identifier: Apache-2.0
//! Flushing: data first, then the bits that stand for it. Flushes that wait for one another become one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use unmoor_images::{Error, ErrorKind, Result};

use super::{Overlay, side_file};

/// Which flushes were asked for and done.
#[derive(Default)]
pub(super) struct Flushes {
    asked: AtomicU64,
    /// The latest request that is served; held while a flush is at work.
    done: Mutex<u64>,
    /// Something was written since the last flush.
    written: AtomicBool,
    /// A flush has failed.
    failed: AtomicBool,
}

impl Flushes {
    /// A write is done; called before its reply.
    pub(super) fn written(&self) {
        self.written.store(true, Ordering::Release);
    }

    /// Fails once a flush has failed. The kernel may have dropped what it could not write, and a later flush would succeed
    /// without it (fsync(2), "EIO"): only opening the overlay anew tells what is there.
    pub(super) fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Io, "writing the overlay").because(
                "a flush has failed before, so that what was written since the one before it may be lost",
            ));
        }
        Ok(())
    }
}

impl Overlay<'_> {
    /// Waits until all that was written before is on stable storage, and found there again.
    pub(super) fn sync(&self) -> Result<()> {
        let flushes = &self.flushes;
        let mine = flushes.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut done = flushes.done.lock().unwrap_or_else(PoisonError::into_inner);
        flushes.check()?;
        // One that began after this was asked for has done it.
        if *done >= mine {
            return Ok(());
        }
        let upto = flushes.asked.load(Ordering::Acquire);
        if flushes.written.swap(false, Ordering::AcqRel) {
            let flushed = self.write_out();
            if flushed.is_err() {
                flushes.failed.store(true, Ordering::Release);
            }
            flushed.map_err(|error| Error::io("flushing the overlay", error))?;
        }
        *done = upto;
        Ok(())
    }

    fn write_out(&self) -> std::io::Result<()> {
        // Before the data are flushed: a bit that is set meanwhile stands for data that may not be.
        let leaves = self.bits_mut().take_dirty();
        self.data.sync()?;
        if leaves.is_empty() {
            return Ok(());
        }
        side_file::write_leaves(&*self.side, &leaves)?;
        self.side.sync()
    }
}
