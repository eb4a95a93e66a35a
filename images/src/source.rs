// SPDX-License-Identifier: Apache-2.0
//! A disk that can be read: the one small trait that images, devices and every wrapper implement.

use crate::extent::{Extent, State};
use crate::{Error, Result};

/// Random-access, read-only bytes of a disk. Shared by reader threads.
pub trait BlockSource: Send + Sync {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// Bytes of the logical sector that the disk's tables count in: 512 or 4096.
    fn sector_size(&self) -> u32 {
        512
    }

    /// Fills `buf` from byte `offset`. Any alignment; `offset + buf.len()` beyond [`size`](Self::size) is an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// What the container knows of the bytes from `offset` on, without reading them: an extent that
    /// starts at `offset`, is not empty, and is at most `len` long. [`State::Zero`] promises that they read as
    /// zeros. [`State::Hole`] is never answered: a container cannot know what a filesystem uses.
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        Ok(Extent { offset, len, state: State::Data })
    }

    /// The copy failed or was stopped: no further reads will come. Wakes reads that wait for one (of an
    /// ordered stream); they fail.
    fn abort(&self) {}
}

/// Checks a request against the size once, for implementors.
pub fn check_range(size: u64, offset: u64, len: usize) -> Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::malformed(format!("reading {len} bytes"), format!("the disk ends at {size:#x}"))
            .at(offset)),
    }
}

impl<T: BlockSource + ?Sized> BlockSource for &T {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn sector_size(&self) -> u32 {
        (**self).sector_size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        (**self).extent_at(offset, len)
    }
    fn abort(&self) {
        (**self).abort();
    }
}

impl<T: BlockSource + ?Sized> BlockSource for Box<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn sector_size(&self) -> u32 {
        (**self).sector_size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        (**self).extent_at(offset, len)
    }
    fn abort(&self) {
        (**self).abort();
    }
}

impl<T: BlockSource + ?Sized> BlockSource for std::sync::Arc<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn sector_size(&self) -> u32 {
        (**self).sector_size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        (**self).extent_at(offset, len)
    }
    fn abort(&self) {
        (**self).abort();
    }
}
