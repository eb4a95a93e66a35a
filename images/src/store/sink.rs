// SPDX-License-Identifier: Apache-2.0
//! One disk of a capture, as the copy loop writes it.

use super::Writer;
use super::pack::Content;
use crate::merkle::{self, Hash};
use crate::sink::Finished;
use crate::source::check_range;
use crate::{BlockSink, LEAF, Result, ResultExt};

/// Receives a disk's leaves. Zeros and holes cost nothing here: the disk's tree tells of them.
pub struct StoreSink<'a> {
    writer: &'a Writer,
    size: u64,
}

impl<'a> StoreSink<'a> {
    pub(super) fn new(writer: &'a Writer, size: u64) -> Self {
        Self { writer, size }
    }
}

impl BlockSink for StoreSink<'_> {
    fn granule(&self) -> u64 {
        LEAF
    }

    fn rewrite(&self) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.write_hashed(data, offset, &[])
    }

    fn write_hashed(&self, data: &[u8], offset: u64, leaves: &[Hash]) -> Result<()> {
        check_range(self.size, offset, data.len()).doing(|| "writing to the store")?;
        let mut chunks = Vec::with_capacity(data.len().div_ceil(LEAF as usize));
        for (index, chunk) in data.chunks(LEAF as usize).enumerate() {
            let hash = leaves.get(index).copied().unwrap_or_else(|| merkle::leaf(chunk));
            if hash != merkle::zero_leaf(chunk.len() as u64) {
                chunks.push((self.writer.id(&hash), chunk));
            }
        }
        self.writer.send(Content::Leaf, &chunks)
    }

    fn write_zeros(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn written_bytes(&self) -> u64 {
        self.writer.stored_bytes()
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        Ok(Finished { stored_bytes: self.writer.stored_bytes() })
    }
}
