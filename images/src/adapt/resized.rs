// SPDX-License-Identifier: Apache-2.0
//! A disk as a longer or shorter one, and one whose sector size is known from elsewhere.

use crate::source::check_range;
use crate::{BlockSource, Extent, Result, State};

/// `inner` as a disk of `size` bytes: what lies behind its end reads as zeros, what lies behind `size` is not there.
#[derive(Debug)]
pub struct Resized<S> {
    inner: S,
    size: u64,
}

impl<S: BlockSource> Resized<S> {
    /// Any size will do.
    pub fn new(inner: S, size: u64) -> Self {
        Self { inner, size }
    }
}

impl<S: BlockSource> BlockSource for Resized<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let there = self.inner.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (there, beyond) = buf.split_at_mut(there);
        beyond.fill(0);
        if there.is_empty() { Ok(()) } else { self.inner.read_at(there, offset) }
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let len = len.min(self.size.saturating_sub(offset));
        match self.inner.size().checked_sub(offset) {
            None | Some(0) => Ok(Extent { offset, len, state: State::Zero }),
            Some(there) => self.inner.extent_at(offset, len.min(there)),
        }
    }

    fn abort(&self) {
        self.inner.abort();
    }
}

/// `inner` with sectors of another size: an image file knows none, its manifest does.
#[derive(Debug)]
pub struct WithSectors<S> {
    inner: S,
    sector_size: u32,
}

impl<S: BlockSource> WithSectors<S> {
    /// `sector_size` is 512 or 4096 bytes.
    pub fn new(inner: S, sector_size: u32) -> Self {
        Self { inner, sector_size }
    }
}

impl<S: BlockSource> BlockSource for WithSectors<S> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.inner.extent_at(offset, len)
    }

    fn abort(&self) {
        self.inner.abort();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::adapt::Memory;

    #[test]
    fn what_lies_behind_the_end_is_zeros_or_not_there() {
        let disk = Memory::new((0..=255).collect());
        let longer = Resized::new(&disk, 1000);
        let mut buf = [7; 20];
        longer.read_at(&mut buf, 250).unwrap();
        assert_eq!(buf[..7], [250, 251, 252, 253, 254, 255, 0]);
        assert_eq!(buf[6..], [0; 14]);
        longer.read_at(&mut buf, 980).unwrap();
        assert_eq!(buf, [0; 20]);
        assert!(longer.read_at(&mut buf, 981).is_err());
        assert_eq!(longer.extent_at(200, 800).unwrap(), Extent { offset: 200, len: 56, state: State::Data });
        assert_eq!(longer.extent_at(256, 800).unwrap(), Extent { offset: 256, len: 744, state: State::Zero });
        let shorter = Resized::new(&disk, 100);
        assert!(shorter.read_at(&mut buf, 90).is_err());
        assert_eq!(shorter.extent_at(90, 800).unwrap().len, 10);
    }
}
