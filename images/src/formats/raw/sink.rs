// SPDX-License-Identifier: Apache-2.0
//! Writing a raw image file, sparse.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::formats::file::Writer;
use crate::sink::Finished;
use crate::source::check_range;
use crate::{BlockSink, Result, ResultExt};

/// A raw image file under construction. What is not written stays a hole of the file and reads as zeros.
pub struct RawSink {
    writer: Writer,
    size: u64,
    /// Zeros may have to replace something.
    rewrites: AtomicBool,
}

impl RawSink {
    /// Creates `path`, which must not exist, as a disk of `size` bytes.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let writer = Writer::create(path)?;
        writer.set_len(size)?;
        Ok(Self { writer, size, rewrites: AtomicBool::new(false) })
    }
}

impl BlockSink for RawSink {
    /// A page: so that no two threads write to the same one, and the file's holes are whole blocks.
    fn granule(&self) -> u64 {
        4096
    }

    fn rewrite(&self) -> Result<()> {
        self.rewrites.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, data.len()).doing(|| "writing the image")?;
        self.writer.write(data, offset)
    }

    /// Does nothing while the file is new, and each address is written at most once.
    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        if !self.rewrites.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.writer.punch(offset, len)
    }

    fn written_bytes(&self) -> u64 {
        self.writer.written()
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        self.writer.sync()?;
        Ok(Finished { stored_bytes: self.size })
    }
}
