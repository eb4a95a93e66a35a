// SPDX-License-Identifier: Apache-2.0
//! The calls on files that an overlay is made of, so that tests can cut the power between any two.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek64};

/// A file of a fixed length. What was written may be lost in a crash, whole or in part, until [`Storage::sync`] has returned.
pub(super) trait Storage: Send + Sync {
    /// Fills `buf` from byte `offset`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at byte `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes a range read as zeros without writing them: it takes no space afterwards, or it is `allocated`.
    /// [`io::ErrorKind::Unsupported`] where the filesystem cannot.
    fn zero(&self, offset: u64, len: u64, allocated: bool) -> io::Result<()>;

    /// Waits until everything is on stable storage.
    fn sync(&self) -> io::Result<()>;

    /// Whether there are bytes at `offset`, rather than a hole, and up to which byte that holds, at most `end`.
    fn run_at(&self, offset: u64, end: u64) -> (bool, u64);
}

impl Storage for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn zero(&self, offset: u64, len: u64, allocated: bool) -> io::Result<()> {
        let how = if allocated {
            FallocateFlags::FALLOC_FL_ZERO_RANGE
        } else {
            FallocateFlags::FALLOC_FL_PUNCH_HOLE
        };
        let signed = |value: u64| i64::try_from(value).map_err(|_| io::Error::from(Errno::EFBIG));
        let how = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(self, how, signed(offset)?, signed(len)?) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Err(io::ErrorKind::Unsupported.into()),
            other => other.map_err(Into::into),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn run_at(&self, offset: u64, end: u64) -> (bool, u64) {
        // Moving the shared file position is harmless: every read names its own.
        let seek = |whence| match lseek64(self, i64::try_from(offset).unwrap_or(i64::MAX), whence) {
            Ok(found) => u64::try_from(found).ok(),
            Err(Errno::ENXIO) => Some(end),
            Err(_) => None,
        };
        match seek(Whence::SeekData) {
            Some(data) if data > offset => (false, data.min(end)),
            Some(_) => match seek(Whence::SeekHole) {
                Some(hole) if hole > offset => (true, hole.min(end)),
                _ => (true, end),
            },
            None => (true, end),
        }
    }
}
