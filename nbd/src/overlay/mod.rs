// SPDX-License-Identifier: Apache-2.0
//! A writable layer over an image, in a local sparse file, durable from flush to flush.
//!
//! ```text
//!   FILE          raw and sparse: byte n of the file is byte n of the disk, where the bitmap has its granule
//!   FILE.bitmap   which granules those are, and of which image (side_file.rs)
//!
//!   read   present? FILE : image
//!   write  FILE (a granule that is written in part is filled from the image first), then its bit in memory
//!   flush  FILE to stable storage; then the bits to FILE.bitmap; then FILE.bitmap to stable storage
//! ```
//!
//! A bit therefore never reaches stable storage before what it stands for. Once every bit is set the overlay stands alone, and
//! FILE is a raw disk image like any other.

mod bitmap;
mod flush;
mod hydrate;
pub mod side_file;
mod storage;
#[cfg(test)]
mod tests;
mod write;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Error, Extent, Result, State};

use crate::disk::{Disk, Zeroes, warm};
use bitmap::Bitmap;
use flush::Flushes;
use side_file::Header;
use storage::Storage;

pub use hydrate::Hydrated;

/// Bytes of disk that one of the locks covers, and that hydration copies at a time.
const REGION: u64 = 1 << 20;
/// Locks against writers of one granule at a time; regions share them.
const LOCKS: usize = 64;

/// An image below an overlay.
pub struct Below<'a> {
    /// Its disk.
    pub source: Box<dyn BlockSource + 'a>,
    /// The same, for who reads everything once; without it `source`.
    pub bulk: Option<Box<dyn BlockSource + 'a>>,
    /// What the overlay is bound to.
    pub identity: [u8; 32],
    /// What to call it.
    pub name: String,
}

/// An overlay, and the image below it as long as that is needed.
pub struct Overlay<'a> {
    size: u64,
    data: Box<dyn Storage>,
    side: Box<dyn Storage>,
    image: Option<Box<dyn BlockSource + 'a>>,
    bulk: Option<Box<dyn BlockSource + 'a>>,
    bitmap: RwLock<Bitmap>,
    regions: Vec<Mutex<()>>,
    flushes: Flushes,
    /// Requests of clients so far; hydration steps back while it moves.
    activity: AtomicU64,
    was_empty: bool,
    /// Keeps other processes out.
    _lock: Option<Flock<File>>,
}

/// What the header of the overlay at `path` says; `None` where there is none.
pub fn examine(path: &Path) -> Result<Option<Header>> {
    let side_path = side_file::path_for(path);
    match File::open(&side_path) {
        Ok(file) => side_file::read_header(&file).map(Some).map_err(|error| in_file(&side_path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("opening", error).path(side_path)),
    }
}

impl<'a> Overlay<'a> {
    /// Opens the overlay at `path` over an image, and makes it where it is not there. One that is complete needs no image.
    ///
    /// # Errors
    ///
    /// `Refused` where the file is something else, belongs to another image or is in use.
    pub fn open(path: &Path, below: Option<Below<'a>>) -> Result<Self> {
        let refused = |because: String| Error::refused("opening the overlay", because).path(path);
        let side_path = side_file::path_for(path);
        let header = match (examine(path)?, &below) {
            (Some(header), _) => header,
            (None, Some(below)) => {
                if path.exists() {
                    return Err(refused(format!(
                        "there is no {} beside it, so that it is not an overlay of unmoor's: give it another name",
                        side_path.display()
                    )));
                }
                let (identity, name) = (below.identity, below.name.clone());
                let header = Header { size: below.source.size(), identity, name, complete: false };
                side_file::create(&side_path, &header)?;
                header
            }
            (None, None) => return Err(refused("it is not there".to_owned())),
        };
        match &below {
            None if !header.complete => {
                return Err(refused(format!(
                    "it does not stand alone yet: it needs the image {}",
                    header.name
                )));
            }
            Some(below) if !header.complete && below.identity != header.identity => {
                return Err(refused(format!(
                    "it was made over {}, which {} is not, or which was changed since: the two together would be \
                     neither disk; use another file, or remove this one and {}",
                    header.name,
                    below.name,
                    side_path.display()
                )));
            }
            Some(below) if !header.complete && below.source.size() != header.size => {
                return Err(refused("the image has another size than the overlay".to_owned()));
            }
            _ => {}
        }
        let side = open_file(&side_path, false)?;
        // The lock is on the bitmap: the file itself is made only after the lock is held.
        let lock =
            lock(side.try_clone().map_err(|error| Error::io("opening", error).path(&side_path))?, path)?;
        let len = side.metadata().map_err(|error| Error::io("examining", error).path(&side_path))?.len();
        let bitmap =
            side_file::read_bitmap(&side, len, header.size).map_err(|error| in_file(&side_path, error))?;
        if header.complete && !bitmap.is_full() {
            return Err(Error::malformed(
                "opening the overlay",
                "it is marked complete, and its bitmap is not",
            )
            .path(side_path));
        }
        let data = open_data(path, header.size, bitmap.present() == 0)?;
        let mut overlay = Self::assemble(header.size, Box::new(data), Box::new(side), bitmap);
        if let Some(below) = below.filter(|_| !header.complete) {
            overlay.image = Some(below.source);
            overlay.bulk = below.bulk;
        }
        overlay._lock = Some(lock);
        Ok(overlay)
    }

    fn assemble(size: u64, data: Box<dyn Storage>, side: Box<dyn Storage>, bitmap: Bitmap) -> Self {
        Self {
            size,
            data,
            side,
            image: None,
            bulk: None,
            was_empty: bitmap.present() == 0,
            bitmap: RwLock::new(bitmap),
            regions: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            flushes: Flushes::default(),
            activity: AtomicU64::new(0),
            _lock: None,
        }
    }

    /// True if it held nothing when it was opened: a machine that boots from it boots as from the image.
    pub fn was_empty(&self) -> bool {
        self.was_empty
    }

    /// Bytes that it holds.
    pub fn present_bytes(&self) -> u64 {
        self.bits().present().saturating_mul(bitmap::GRANULE).min(self.size)
    }

    /// True if it needs no image.
    pub fn is_complete(&self) -> bool {
        self.image.is_none() || self.bits().is_full()
    }

    fn bits(&self) -> std::sync::RwLockReadGuard<'_, Bitmap> {
        self.bitmap.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn bits_mut(&self) -> std::sync::RwLockWriteGuard<'_, Bitmap> {
        self.bitmap.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn image(&self) -> Result<&dyn BlockSource> {
        match &self.image {
            Some(image) => Ok(image),
            None => Err(Error::malformed(
                "reading the overlay",
                "a granule is missing in an overlay that is complete",
            )),
        }
    }

    /// The locks of all regions that a range touches, always taken in the same order.
    fn lock_regions(&self, offset: u64, len: u64) -> Vec<MutexGuard<'_, ()>> {
        let first = offset / REGION;
        let last = offset.saturating_add(len.max(1) - 1) / REGION;
        let mut locks: Vec<usize> =
            (first..=last).take(LOCKS).map(|region| (region % LOCKS as u64) as usize).collect();
        locks.sort_unstable();
        let lock = |index: usize| {
            self.regions.get(index).map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner))
        };
        locks.into_iter().filter_map(lock).collect()
    }

    fn count_request(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }
}

impl Disk for Overlay<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.count_request();
        let end = offset + buf.len() as u64;
        let (mut at, mut rest) = (offset, buf);
        while at < end {
            let (present, to) = self.bits().run_at(at, end);
            let (piece, after) = rest.split_at_mut((to - at) as usize);
            if present {
                self.data
                    .read_at(piece, at)
                    .map_err(|error| Error::io("reading the overlay", error).at(at))?;
            } else {
                self.image()?.read_at(piece, at)?;
            }
            (at, rest) = (to, after);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let end = offset.saturating_add(len).min(self.size);
        let (present, to) = self.bits().run_at(offset, end);
        if !present {
            return self.image()?.extent_at(offset, to.saturating_sub(offset));
        }
        let (data, to) = self.data.run_at(offset, to);
        let state = if data { State::Data } else { State::Zero };
        Ok(Extent { offset, len: to.saturating_sub(offset), state })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.count_request();
        self.write(data, offset)
    }

    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroes) -> Result<()> {
        self.count_request();
        self.zero(offset, len, how)
    }

    fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.count_request();
        self.discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.sync()
    }

    fn will_need(&self, offset: u64, len: u64) -> Result<()> {
        match &self.image {
            // What the overlay holds is on a local disk already.
            Some(image) if !self.bits().covers(offset..offset.saturating_add(len)) => {
                warm(image, offset, len)
            }
            _ => Ok(()),
        }
    }
}

fn in_file(path: &Path, error: Error) -> Error {
    Error::new(error.kind(), format!("opening {}", path.display())).source(error)
}

fn open_file(path: &Path, create: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(create);
    options
        .open(path)
        .map_err(|error| Error::io(if create { "creating" } else { "opening" }, error).path(path))
}

/// The file with the data. One that is missing or too short belongs to a creation that was interrupted, if nothing is in it yet.
fn open_data(path: &Path, size: u64, empty: bool) -> Result<File> {
    let file = match open_file(path, false) {
        Err(error)
            if empty && error.io_cause().is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound) =>
        {
            open_file(path, true)?
        }
        other => other?,
    };
    let failed = |error| Error::io("sizing the overlay", error).path(path);
    let len = file.metadata().map_err(failed)?.len();
    if len == size {
        return Ok(file);
    }
    if !empty || len > size {
        let because = format!("it has {len} bytes instead of {size}: it was changed by something else");
        return Err(Error::refused("opening the overlay", because).path(path));
    }
    file.set_len(size).and_then(|()| file.sync_all()).map_err(failed)?;
    unmoor_images::manifest::sync_folder(path)?;
    Ok(file)
}

fn lock(file: File, overlay: &Path) -> Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => {
            Error::refused("opening the overlay", "another unmoor serves it right now").path(overlay)
        }
        other => Error::io("locking", other.into()).path(overlay),
    })
}

/// The overlay's file for disk number `disk` of a machine: `web01.raw`, `web01.disk1.raw`.
pub fn path_for_disk(path: &Path, disk: usize) -> PathBuf {
    match (disk, path.extension()) {
        (0, _) => path.to_owned(),
        (_, None) => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".disk{disk}"));
            name.into()
        }
        (_, Some(extension)) => path.with_extension(format!("disk{disk}.{}", extension.to_string_lossy())),
    }
}
