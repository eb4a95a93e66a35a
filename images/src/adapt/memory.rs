// SPDX-License-Identifier: Apache-2.0
//! A disk in memory, for tests and for tables that are not on a disk yet.

use std::sync::{Arc, Mutex, PoisonError};

use crate::sink::Finished;
use crate::source::check_range;
use crate::{BlockSink, BlockSource, Result};

/// Bytes that are a disk. Clones share the content.
#[derive(Debug, Clone)]
pub struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    sector_size: u32,
    granule: u64,
}

impl Memory {
    /// A disk that holds `bytes`, with sectors of 512 bytes and a granule of 4096.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(Mutex::new(bytes)), sector_size: 512, granule: 4096 }
    }

    /// The same with another sector size.
    pub fn with_sector_size(mut self, sector_size: u32) -> Self {
        self.sector_size = sector_size;
        self
    }

    /// The same with another granule, a power of two.
    pub fn with_granule(mut self, granule: u64) -> Self {
        self.granule = granule;
        self
    }

    /// A copy of the content.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockSource for Memory {
    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.lock();
        check_range(bytes.len() as u64, offset, buf.len())?;
        if let Some(part) = bytes.get(offset as usize..offset as usize + buf.len()) {
            buf.copy_from_slice(part);
        }
        Ok(())
    }
}

impl BlockSink for Memory {
    fn granule(&self) -> u64 {
        self.granule
    }

    fn rewrite(&self) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut bytes = self.lock();
        check_range(bytes.len() as u64, offset, data.len())?;
        if let Some(part) = bytes.get_mut(offset as usize..offset as usize + data.len()) {
            part.copy_from_slice(data);
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let mut bytes = self.lock();
        check_range(bytes.len() as u64, offset, len as usize)?;
        if let Some(part) = bytes.get_mut(offset as usize..(offset + len) as usize) {
            part.fill(0);
        }
        Ok(())
    }

    fn written_bytes(&self) -> u64 {
        0
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        Ok(Finished { stored_bytes: self.size() })
    }
}
