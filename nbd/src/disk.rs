// SPDX-License-Identifier: Apache-2.0
//! What an export is made of: a disk that clients read and, where it can be, write.

use unmoor_images::{BlockSource, Error, Extent, Result};

/// How WRITE_ZEROES is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Zeroes {
    /// Leave the range allocated (NO_HOLE).
    pub allocated: bool,
    /// Fail as `Unsupported` where it would not be faster than writing (FAST_ZERO).
    pub fast: bool,
}

/// A disk of a server, shared by all connections and their threads. Ranges are checked by the caller.
pub trait Disk: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// True if all that would write fails.
    fn is_read_only(&self) -> bool;

    /// Fills `buf` from byte `offset`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// What is known of the bytes from `offset` on: not empty, at most `len` long. Zeros take no space.
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent>;

    /// Writes `data` at byte `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes a range read as zeros.
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroes) -> Result<()>;

    /// Whatever stands in a range is no longer needed.
    fn trim(&self, offset: u64, len: u64) -> Result<()>;

    /// Waits until all that was written before is on stable storage.
    fn flush(&self) -> Result<()>;

    /// The range will be read soon.
    fn will_need(&self, offset: u64, len: u64) -> Result<()>;
}

/// What others look at too.
impl<T: Disk + ?Sized> Disk for &T {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn is_read_only(&self) -> bool {
        (**self).is_read_only()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        (**self).extent_at(offset, len)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        (**self).write_at(data, offset)
    }
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroes) -> Result<()> {
        (**self).write_zeroes(offset, len, how)
    }
    fn trim(&self, offset: u64, len: u64) -> Result<()> {
        (**self).trim(offset, len)
    }
    fn flush(&self) -> Result<()> {
        (**self).flush()
    }
    fn will_need(&self, offset: u64, len: u64) -> Result<()> {
        (**self).will_need(offset, len)
    }
}

/// An image as it is.
pub struct ReadOnly<S>(pub S);

impl<S: BlockSource> Disk for ReadOnly<S> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.0.extent_at(offset, len)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Err(read_only())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _how: Zeroes) -> Result<()> {
        Err(read_only())
    }

    fn trim(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(read_only())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn will_need(&self, offset: u64, len: u64) -> Result<()> {
        warm(&self.0, offset, len)
    }
}

fn read_only() -> Error {
    Error::refused("writing", "the image is served read-only")
}

/// Most bytes that one CACHE request reads; it is a hint.
const WARM_MOST: u64 = 4 << 20;

/// Reads the data of a range, so that whatever caches below have it.
pub(crate) fn warm(source: &dyn BlockSource, offset: u64, len: u64) -> Result<()> {
    let end = offset.saturating_add(len.min(WARM_MOST)).min(source.size());
    let mut buffer = vec![0; 256 << 10];
    let mut at = offset;
    while at < end {
        let extent = source.extent_at(at, (end - at).min(buffer.len() as u64))?;
        if extent.state == unmoor_images::State::Data
            && let Some(room) = buffer.get_mut(..extent.len as usize)
        {
            source.read_at(room, at)?;
        }
        at = extent.end();
    }
    Ok(())
}
