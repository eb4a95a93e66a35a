// SPDX-License-Identifier: Apache-2.0
//! A block device, read past the page cache.
//!
//! `O_DIRECT` is not for speed alone: the kernel caches a whole disk and its partitions apart, so a buffered
//! read of `/dev/sda` may answer with what `/dev/sda1` held before its last write.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Error, Result};

use crate::sys;

/// Memory alignment that satisfies every driver's DMA: a page.
const PAGE: usize = 4096;

/// Bytes of a bounce buffer, for requests that are not aligned.
const BOUNCE: usize = 1 << 20;

/// A block device, opened read-only. Any thread may read at any alignment.
#[derive(Debug)]
pub struct Device {
    file: File,
    direct: bool,
    size: u64,
    sector_size: u32,
    physical_sector_size: u32,
}

impl Device {
    /// Opens the block device at `path`; fails for a drive without a medium.
    pub fn open(path: &Path) -> Result<Self> {
        let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
        let mut direct = true;
        let file = match open(libc::O_DIRECT) {
            // Some drivers (and FUSE-backed devices) have no direct I/O.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                direct = false;
                open(0)
            }
            other => other,
        }
        .map_err(|error| super::opening(path, error))?;
        let fact = |error| Error::io("asking for the size of", error).path(path);
        let size = sys::device_size(&file).map_err(fact)?;
        let sector_size = sys::logical_sector_size(&file).map_err(fact)?;
        let physical_sector_size = sys::physical_sector_size(&file).unwrap_or(sector_size);
        if size == 0 {
            return Err(Error::malformed("opening", "the device has no medium, or a size of zero").path(path));
        }
        if !sector_size.is_power_of_two() || !(512..=65536).contains(&sector_size) {
            return Err(Error::unsupported("opening", format!("sectors of {sector_size} bytes")).path(path));
        }
        Ok(Self { file, direct, size, sector_size, physical_sector_size })
    }

    /// True if what is read comes from the device and not from what the kernel remembers of it.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Bytes per sector of the medium.
    pub fn physical_sector_size(&self) -> u32 {
        self.physical_sector_size
    }

    fn aligned(&self, buf: &[u8], offset: u64) -> bool {
        let sector = u64::from(self.sector_size);
        offset.is_multiple_of(sector)
            && (buf.len() as u64).is_multiple_of(sector)
            && buf.as_ptr().align_offset(PAGE) == 0
    }

    fn read_direct(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| Error::io(format!("reading {} bytes", buf.len()), error).at(offset))
    }

    /// Reads through an aligned buffer, as many whole sectors at a time as it holds.
    fn read_bounced(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let sector = u64::from(self.sector_size);
        BUFFER.with_borrow_mut(|buffer| {
            let bounce = buffer.bytes();
            let (mut rest, mut at) = (buf, offset);
            while !rest.is_empty() {
                let skip = (at % sector) as usize;
                let take = rest.len().min(BOUNCE - skip);
                let whole = (skip + take).next_multiple_of(sector as usize);
                let piece = bounce.get_mut(..whole).ok_or_else(|| no_room(at))?;
                self.read_direct(piece, at - skip as u64)?;
                let (now, later) = rest.split_at_mut(take);
                now.copy_from_slice(piece.get(skip..skip + take).ok_or_else(|| no_room(at))?);
                rest = later;
                at += take as u64;
            }
            Ok(())
        })
    }
}

impl BlockSource for Device {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        if self.aligned(buf, offset) { self.read_direct(buf, offset) } else { self.read_bounced(buf, offset) }
    }
}

fn no_room(at: u64) -> Error {
    Error::io("reading through a buffer", io::Error::from(io::ErrorKind::InvalidInput)).at(at)
}

thread_local! {
    static BUFFER: RefCell<Aligned> = const { RefCell::new(Aligned(Vec::new())) };
}

/// A page-aligned buffer of [`BOUNCE`] bytes, allocated at its first use.
struct Aligned(Vec<u8>);

impl Aligned {
    fn bytes(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; BOUNCE + PAGE];
        }
        let start = self.0.as_ptr().align_offset(PAGE).min(PAGE);
        self.0.get_mut(start..start + BOUNCE).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    struct Loop(String);

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["-d", &self.0]).status();
        }
    }

    #[test]
    fn a_device_is_read_exactly_at_any_alignment_and_sector_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..3u32 << 20).map(|at| (at / 7 % 251) as u8).collect();
        std::fs::write(file.path(), &content).unwrap();
        for sector in [512, 4096] {
            let options = ["--find", "--show", "--direct-io=on", "--sector-size", &sector.to_string()];
            let output = Command::new("losetup").args(options).arg(file.path()).output();
            let Ok(output) = output.map_err(|_| ()).and_then(|o| o.status.success().then_some(o).ok_or(()))
            else {
                println!("skipped: needs root to set up loop devices");
                return;
            };
            let device = Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned());
            let disk = Device::open(Path::new(&device.0)).unwrap();
            assert_eq!((disk.size(), disk.sector_size()), (content.len() as u64, sector));
            let mut buffer = vec![0; 2 << 20];
            for (skip, offset, len) in [
                (0, 0, 2 << 20),
                (1, 4096, 8192),
                (3, 1, 1),
                (0, 4095, 1_500_000),
                (0, 3_145_727, 1),
                (5, 77, 0),
            ] {
                let part = &mut buffer[skip..(skip + len).min(2 << 20)];
                disk.read_at(part, offset).unwrap();
                let start = offset as usize;
                assert!(*part == content[start..start + part.len()], "{len} at {offset}, sector {sector}");
            }
            assert!(disk.read_at(&mut [0; 2], 3_145_727).is_err(), "beyond the end");
        }
    }
}
