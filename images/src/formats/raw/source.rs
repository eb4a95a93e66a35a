// SPDX-License-Identifier: Apache-2.0
//! Reading a raw image file; its sparse ranges are zeros.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use crate::formats::file;
use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result, State};

/// A raw image file. Its size is the file's length when it was opened.
pub struct RawSource {
    file: File,
    size: u64,
}

impl RawSource {
    /// Opens `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = file::open(path)?;
        file::advise_sequential(&file);
        Self::from_file(file)
    }

    /// Takes a file that is open for reading.
    pub fn from_file(file: File) -> Result<Self> {
        let size = file::len(&file)?;
        Ok(Self { file, size })
    }

    /// Where the file next has data (`SeekData`) or a hole (`SeekHole`) from `offset` on; `None` where the
    /// filesystem cannot tell. Moving the shared file position is harmless: every read names its own.
    fn seek(&self, offset: u64, whence: Whence) -> Option<u64> {
        let offset = i64::try_from(offset).ok()?;
        match lseek64(&self.file, offset, whence) {
            Ok(found) => u64::try_from(found).ok(),
            // No data from here to the end.
            Err(Errno::ENXIO) => Some(self.size),
            Err(_) => None,
        }
    }
}

impl BlockSource for RawSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| Error::io(format!("reading {} bytes of the image", buf.len()), error).at(offset))
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let end = offset.saturating_add(len).min(self.size);
        let data = Extent { offset, len, state: State::Data };
        let Some(start) = self.seek(offset, Whence::SeekData) else { return Ok(data) };
        if start > offset {
            return Ok(Extent { offset, len: start.min(end).saturating_sub(offset), state: State::Zero });
        }
        match self.seek(offset, Whence::SeekHole) {
            Some(hole) if hole > offset => Ok(Extent { len: hole.min(end).saturating_sub(offset), ..data }),
            _ => Ok(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_ranges_are_zero_extents_and_reading_beyond_the_end_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        file.as_file().write_all_at(&[7; 65536], 32 << 20).unwrap();
        let source = RawSource::open(file.path()).unwrap();
        let (mut at, mut zeros) = (0, 0);
        while at < source.size() {
            let extent = source.extent_at(at, source.size() - at).unwrap();
            assert_eq!(extent.offset, at);
            assert!(extent.len > 0 && extent.end() <= source.size());
            let mut byte = [9];
            source.read_at(&mut byte, at).unwrap();
            assert_eq!(byte[0] == 0, extent.state == State::Zero);
            zeros += if extent.state == State::Zero { extent.len } else { 0 };
            at = extent.end();
        }
        assert!(zeros > 60 << 20, "{zeros} bytes of zeros");
        assert!(source.read_at(&mut [0; 2], (64 << 20) - 1).is_err());
    }
}
