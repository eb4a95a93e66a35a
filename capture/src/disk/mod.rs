// SPDX-License-Identifier: Apache-2.0
//! A disk to read: a block device of this machine, or a disk image.
//!
//! ```text
//!   block device:  Retrying( ReadAhead( Device, O_DIRECT ) )
//!   disk image:    formats::open
//! ```
//!
//! Nothing here opens anything for writing, but for an image whose change was decided and interrupted: it is completed first.

mod device;
mod read_ahead;
mod retrying;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use unmoor_images::formats::{self, Format};
use unmoor_images::{BlockSource, Error, ErrorKind, Extent, Monitor, RangeSet, Result, ResultExt, overlay};

pub use device::Device;
pub use read_ahead::ReadAhead;
pub use retrying::{OnReadError, Retrying};

/// How to open a source.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Follow an image's backing and data files.
    pub allow_backing: bool,
    /// Take an image for this format instead of detecting it.
    pub format: Option<Format>,
    /// What to do about sectors that cannot be read.
    pub on_read_error: OnReadError,
}

/// What kind of thing a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    Device {
        /// The kernel's number for it (`st_rdev`).
        number: u64,
        /// Bytes per sector of the medium, which may be more than the logical sector.
        physical_sector_size: u32,
    },
    /// An image file.
    Image(Format),
}

/// A source, opened for reading.
pub struct Disk<'a> {
    path: PathBuf,
    kind: Kind,
    source: Source<'a>,
    warnings: Vec<String>,
}

enum Source<'a> {
    Device(Retrying<'a, ReadAhead<Device>>),
    Image(Box<dyn BlockSource>),
}

impl<'a> Disk<'a> {
    /// Opens the block device or image at `path`. The monitor hears of unreadable sectors, and can stop their retries.
    pub fn open(path: &Path, options: &OpenOptions, monitor: &'a dyn Monitor) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| opening(path, error))?;
        let kind = metadata.file_type();
        if kind.is_block_device() {
            let device = Device::open(path)?;
            return Ok(Self {
                path: path.to_owned(),
                kind: Kind::Device {
                    number: metadata.rdev(),
                    physical_sector_size: device.physical_sector_size(),
                },
                source: Source::Device(Retrying::new(ReadAhead::new(device), options.on_read_error, monitor)),
                warnings: Vec::new(),
            });
        }
        if !kind.is_file() {
            return Err(Error::new(ErrorKind::Usage, "opening")
                .path(path)
                .because("it is neither a block device nor a disk image"));
        }
        overlay::finish_interrupted(path, monitor)?;
        let open = formats::OpenOptions { allow_backing: options.allow_backing, format: options.format };
        let opened = formats::open(path, &open)?;
        Ok(Self {
            path: path.to_owned(),
            kind: Kind::Image(opened.format),
            source: Source::Image(opened.source),
            warnings: opened.warnings,
        })
    }

    /// A disk of a stored image, which somebody else has opened. `path` is for people.
    pub fn of_image(path: &Path, source: Box<dyn BlockSource>, warnings: Vec<String>) -> Self {
        let kind = Kind::Image(Format::Raw);
        Self { path: path.to_owned(), kind, source: Source::Image(source), warnings }
    }

    /// As the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device or image.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What opening it found, such as "internal snapshots are ignored".
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The ranges that could not be read and were taken as zeros.
    pub fn unreadable(&self) -> RangeSet {
        match &self.source {
            Source::Device(device) => device.unreadable(),
            Source::Image(_) => RangeSet::new(),
        }
    }

    /// True for a device whose content is read from it, and not from what the kernel remembers of it.
    pub(crate) fn is_direct(&self) -> bool {
        match &self.source {
            Source::Device(device) => device.inner().inner().is_direct(),
            Source::Image(_) => false,
        }
    }

    /// Forgets what was read of `ranges` ahead of being asked: they have changed since.
    pub(crate) fn forget(&self, ranges: &mut RangeSet) {
        if let Source::Device(device) = &self.source {
            device.inner().forget(ranges);
        }
    }

    fn inner(&self) -> &dyn BlockSource {
        match &self.source {
            Source::Device(device) => device,
            Source::Image(image) => image,
        }
    }
}

impl BlockSource for Disk<'_> {
    fn size(&self) -> u64 {
        self.inner().size()
    }

    fn sector_size(&self) -> u32 {
        self.inner().sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner().read_at(buf, offset).doing(|| format!("reading {}", self.path.display()))
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.inner().extent_at(offset, len)
    }
}

/// An opening that failed, with what helps against the usual reasons.
fn opening(path: &Path, error: std::io::Error) -> Error {
    let doing = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "opening (block devices need root)",
        _ => "opening",
    };
    Error::io(doing, error).path(path)
}
