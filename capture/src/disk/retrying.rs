// SPDX-License-Identifier: Apache-2.0
//! Reads that survive bad sectors: smaller pieces, a few tries, then an error that names the sector, or zeros.

use std::sync::{Mutex, PoisonError};

use unmoor_images::{BlockSource, Error, ErrorKind, Extent, Monitor, RangeSet, Result};

/// Tries of one sector. A drive itself has tried for seconds before it reports one.
const TRIES: u32 = 3;

/// What to do about a sector that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnReadError {
    /// Fail, naming it.
    #[default]
    Fail,
    /// Take it as zeros, and list it.
    Zero,
}

/// A source whose unreadable sectors are retried, and then refused or read as zeros.
pub struct Retrying<'a, S> {
    inner: S,
    on_read_error: OnReadError,
    unreadable: Mutex<RangeSet>,
    monitor: &'a dyn Monitor,
}

impl<'a, S: BlockSource> Retrying<'a, S> {
    /// Wraps `inner`.
    pub fn new(inner: S, on_read_error: OnReadError, monitor: &'a dyn Monitor) -> Self {
        Self { inner, on_read_error, unreadable: Mutex::default(), monitor }
    }

    /// What it reads from.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// What was read as zeros so far.
    pub fn unreadable(&self) -> RangeSet {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads sector by sector, where reading all at once has failed.
    fn read_pieces(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let sector = u64::from(self.inner.sector_size().max(512));
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            // The first piece ends at a sector's border, so that a bad sector costs itself alone.
            let len = (sector - at % sector).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(len as usize);
            self.read_sector(now, at)?;
            rest = later;
            at += len;
        }
        Ok(())
    }

    fn read_sector(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut last = None;
        for _ in 0..TRIES {
            if self.monitor.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "retrying an unreadable sector").at(offset));
            }
            match self.inner.read_at(buf, offset) {
                Ok(()) => return Ok(()),
                Err(error) if is_medium_error(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (self.on_read_error, last) {
            (OnReadError::Fail, Some(error)) => Err(Error::new(
                error.kind(),
                format!("giving up after {TRIES} tries (--on-read-error=zero takes bad sectors as zeros)"),
            )
            .at(offset)
            .source(error)),
            _ => {
                buf.fill(0);
                let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
                unreadable.insert(offset..offset + buf.len() as u64);
                Ok(())
            }
        }
    }

    /// Halves the request until the good parts are read.
    fn read_halves(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let sector = u64::from(self.inner.sector_size().max(512));
        if buf.len() as u64 <= 8 * sector {
            return self.read_pieces(buf, offset);
        }
        let border = (offset + buf.len() as u64 / 2).next_multiple_of(sector) - offset;
        let (left, right) = buf.split_at_mut((border as usize).min(buf.len()));
        for (half, at) in [(left, offset), (right, offset + border)] {
            if half.is_empty() {
                continue;
            }
            match self.inner.read_at(half, at) {
                Err(error) if is_medium_error(&error) => self.read_halves(half, at)?,
                other => other?,
            }
        }
        Ok(())
    }
}

/// True for what the kernel reports of a bad medium, cable or enclosure; false for a device that has gone.
fn is_medium_error(error: &Error) -> bool {
    // block/blk-core.c, blk_errors[]: medium, target, protection, timeout, transport, other.
    const CODES: [i32; 6] =
        [libc::ENODATA, libc::EREMOTEIO, libc::EILSEQ, libc::ETIMEDOUT, libc::ENOLINK, libc::EIO];
    error.io_cause().and_then(std::io::Error::raw_os_error).is_some_and(|code| CODES.contains(&code))
}

impl<S: BlockSource> BlockSource for Retrying<'_, S> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.inner.read_at(buf, offset) {
            Err(error) if is_medium_error(&error) => self.read_halves(buf, offset),
            other => other,
        }
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.inner.extent_at(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use unmoor_images::monitor::Silent;

    use super::*;

    /// All bytes are 7; each sector in `bad` fails so many times with this error.
    struct Faulty {
        bad: Mutex<BTreeMap<u64, u32>>,
        code: i32,
    }

    impl Faulty {
        fn new(bad: impl IntoIterator<Item = (u64, u32)>, code: i32) -> Self {
            Self { bad: Mutex::new(bad.into_iter().collect()), code }
        }
    }

    impl BlockSource for Faulty {
        fn size(&self) -> u64 {
            1 << 20
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            let sectors = offset / 512..(offset + buf.len() as u64).div_ceil(512);
            for (_, left) in self.bad.lock().unwrap().range_mut(sectors) {
                if *left > 0 {
                    *left -= 1;
                    return Err(Error::io("reading", std::io::Error::from_raw_os_error(self.code)).at(offset));
                }
            }
            buf.fill(7);
            Ok(())
        }
    }

    #[test]
    fn bad_sectors_become_listed_zeros_and_nothing_else_does() {
        let faulty = Faulty::new([(100, u32::MAX), (101, u32::MAX), (700, u32::MAX)], libc::EIO);
        let source = Retrying::new(faulty, OnReadError::Zero, &Silent);
        let mut buf = vec![1; 512 * 1024 + 77];
        source.read_at(&mut buf, 333).unwrap();
        for (at, byte) in (333u64..).zip(&buf) {
            let bad = [100, 101, 700].contains(&(at / 512));
            assert_eq!(*byte, if bad { 0 } else { 7 }, "byte {at}");
        }
        assert_eq!(source.unreadable().ranges(), [51_200..52_224, 358_400..358_912]);
    }

    #[test]
    fn a_sector_that_recovers_is_read_and_one_that_does_not_is_named() {
        // 1 MiB, 512 KiB, ... 4 KiB fail nine times; the sector itself twice more, then it answers.
        let source = Retrying::new(Faulty::new([(9, 11)], libc::ENODATA), OnReadError::Fail, &Silent);
        let mut buf = vec![0; 1 << 20];
        source.read_at(&mut buf, 0).unwrap();
        assert!(buf.iter().all(|&byte| byte == 7));

        let source = Retrying::new(Faulty::new([(9, u32::MAX)], libc::EIO), OnReadError::Fail, &Silent);
        let error = source.read_at(&mut buf, 0).unwrap_err();
        assert!(error.chain().contains("at 0x1200"), "{}", error.chain());
        assert!(source.unreadable().ranges().is_empty());
    }

    #[test]
    fn a_device_that_has_gone_is_not_retried_or_zeroed() {
        let faulty = Faulty::new([(9, 1)], libc::ENXIO);
        let source = Retrying::new(faulty, OnReadError::Zero, &Silent);
        assert!(source.read_at(&mut [0; 8192], 0).is_err());
    }
}
