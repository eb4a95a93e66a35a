// SPDX-License-Identifier: Apache-2.0
//! Files that images live in: opening, and writing past the page cache.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::aligned::{ALIGNMENT, AlignedBuffer};
use crate::{Error, Result, ResultExt};

/// Opens an existing file for reading.
pub(super) fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| Error::io("opening", error).path(path))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Error::unsupported("opening", "it is a directory, not an image file").path(path));
    }
    Ok(file)
}

/// Length in bytes, of a block device too.
pub(super) fn len(mut file: &File) -> Result<u64> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::End(0)).doing(|| "finding the end of a file")
}

/// Random bytes, for identifiers.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    use std::io::Read;
    let mut raw = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut raw));
    read.doing(|| "reading /dev/urandom").map(|()| raw)
}

/// Says that `file` will be read from front to back, so that the kernel reads further ahead. A hint only.
pub(super) fn advise_sequential(file: &File) {
    let _ = nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
}

/// Bytes written through the page cache between two starts of writeback.
const WRITEBACK: u64 = 16 << 20;
/// Bytes that a copy to aligned memory takes at a time.
const BOUNCE: usize = 1 << 20;

/// A new file, written by several threads at once.
///
/// Aligned writes go past the page cache (`O_DIRECT`) where the filesystem allows it. Writing 4 GiB with two threads and
/// `fsync` took 3.5 s and 0.6 s of processor time so, against 18 s and 8.4 s through the page cache (ext4 on a virtual
/// disk, other work on the machine); an image is written once, so that its cached pages serve nobody.
/// What is not aligned, and filesystems without direct I/O, use the page cache; its write-out is started every 16 MiB, so that
/// it overlaps with the work and the final `fsync` does not wait for gigabytes at once.
pub(crate) struct Writer {
    file: File,
    direct: Option<File>,
    /// Set once the filesystem has refused a direct write.
    refused: AtomicBool,
    written: AtomicU64,
    cached: AtomicU64,
    /// Held by the one thread that is starting a write-out; others pass by.
    starting: Mutex<()>,
    bounce: Mutex<Vec<AlignedBuffer>>,
}

impl Writer {
    /// Creates `path`, which must not exist.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| Error::io("creating", error).path(path))?;
        // Not on tmpfs before Linux 6.6, some FUSE filesystems ...
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok();
        Ok(Self {
            file,
            direct,
            refused: AtomicBool::new(false),
            written: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            starting: Mutex::new(()),
            bounce: Mutex::default(),
        })
    }

    /// The file, for what is not counted.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Sets the file's length in bytes.
    pub(super) fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).doing(|| format!("setting the image's length to {len} bytes"))
    }

    /// Writes all of `data`; short writes are continued. No other call may write to the same pages at the same time.
    pub(crate) fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let (aligned, rest) = data.split_at(data.len() / ALIGNMENT * ALIGNMENT);
        let direct = offset.is_multiple_of(ALIGNMENT as u64)
            && !aligned.is_empty()
            && self.write_direct(aligned, offset).map_err(|error| failed(error, offset))?;
        let (cached, at) =
            if direct { (rest, offset.saturating_add(aligned.len() as u64)) } else { (data, offset) };
        self.write_cached(cached, at).map_err(|error| failed(error, at))?;
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes a range read as zeros, without room of its own where the filesystem can.
    pub(super) fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let flags = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (at, count) = (i64::try_from(offset), i64::try_from(len));
        if let (Ok(at), Ok(count)) = (at, count)
            && count > 0
            && nix::fcntl::fallocate(&self.file, flags, at, count).is_ok()
        {
            return Ok(());
        }
        let zeros = vec![0; len.min(1 << 20) as usize];
        let (mut at, end) = (offset, offset.saturating_add(len));
        while at < end {
            let piece = zeros.get(..(end - at).min(1 << 20) as usize).unwrap_or_default();
            self.write(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// False if it has to go through the page cache.
    fn write_direct(&self, data: &[u8], offset: u64) -> std::io::Result<bool> {
        let Some(file) = self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed)) else {
            return Ok(false);
        };
        let result = if data.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            file.write_all_at(data, offset)
        } else {
            self.write_bounced(file, data, offset)
        };
        match result {
            // The alignment that this filesystem wants is larger than ours.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    fn write_bounced(&self, file: &File, data: &[u8], offset: u64) -> std::io::Result<()> {
        let pool = || self.bounce.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = pool().pop();
        let mut buffer = kept.unwrap_or_else(|| AlignedBuffer::new(BOUNCE));
        let mut at = offset;
        let mut result = Ok(());
        for piece in data.chunks(BOUNCE) {
            let Some(room) = buffer.get_mut(..piece.len()) else { break };
            room.copy_from_slice(piece);
            result = file.write_all_at(room, at);
            if result.is_err() {
                break;
            }
            at = at.saturating_add(piece.len() as u64);
        }
        pool().push(buffer);
        result
    }

    fn write_cached(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(data, offset)?;
        let before = self.cached.fetch_add(data.len() as u64, Ordering::Relaxed);
        let after = before.saturating_add(data.len() as u64);
        if before / WRITEBACK != after / WRITEBACK
            && let Ok(_one) = self.starting.try_lock()
        {
            // SAFETY: the descriptor is open for as long as `self.file` lives; the call touches no memory of ours.
            // Its result does not matter: it is a hint, and `sync` reports errors of writing.
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        }
        Ok(())
    }

    /// Waits until everything is on stable storage.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().doing(|| "flushing the image to stable storage")
    }
}

fn failed(error: std::io::Error, offset: u64) -> Error {
    Error::io("writing the image", error).at(offset)
}
