// SPDX-License-Identifier: Apache-2.0
//! The images that are served: a file, all disks of the machine whose manifest lies beside it, or those of an image in a store.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use unmoor_images::adapt::WithSectors;
use unmoor_images::formats::{self, Format};
use unmoor_images::manifest::{self, DiskRecord, Manifest};
use unmoor_images::store::{ImageName, Store};
use unmoor_images::{BlockSource, Error, Extent, Monitor, Result, overlay};

/// How to open images.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Follow backing and data files.
    pub allow_backing: bool,
    /// Take the image as this format.
    pub format: Option<Format>,
}

/// One disk to serve.
pub struct Image {
    /// Its file.
    pub path: PathBuf,
    /// Its format; a store's has none.
    pub format: Option<Format>,
    /// Its content.
    pub source: Box<dyn BlockSource>,
    /// Changes whenever the content does; what is bound to the image remembers it.
    pub identity: [u8; 32],
    /// For people: "web01.qcow2, of /dev/sda".
    pub description: String,
}

/// Opens the image at `path`, and the others of its machine where it is the first, or its manifest.
pub fn open(path: &Path, options: &OpenOptions, monitor: &dyn Monitor) -> Result<Vec<Image>> {
    let folder = path.parent().unwrap_or(Path::new(""));
    if path.to_string_lossy().ends_with(".unmoor.json") {
        let manifest = Manifest::read(path)?;
        return manifest.disks.iter().map(|record| recorded(folder, record, options, monitor)).collect();
    }
    // Before the manifest is read: an interrupted change completes both.
    overlay::finish_interrupted(path, monitor)?;
    match Manifest::beside(path)? {
        Some((manifest, 0)) => {
            manifest.disks.iter().map(|record| recorded(folder, record, options, monitor)).collect()
        }
        Some((manifest, disk)) => manifest
            .disks
            .get(disk)
            .into_iter()
            .map(|record| recorded(folder, record, options, monitor))
            .collect(),
        None => Ok(vec![plain(path, options, monitor)?]),
    }
}

/// The disks of the image `name` of a store.
pub fn stored(store: &Store, name: &ImageName, monitor: &dyn Monitor) -> Result<Vec<Image>> {
    let image = store.open_image(name)?;
    image.warnings.iter().for_each(|warning| monitor.warn(warning.clone()));
    let shown = format!("{}@{}", image.record.summary.machine, image.image.time);
    let disks = image.disks.into_iter().zip(&image.record.manifest.disks);
    Ok(disks
        .map(|(disk, record)| Image {
            path: PathBuf::from(&shown),
            format: None,
            source: Box::new(WithSectors::new(disk.source, record.sector_size)),
            identity: identity(record),
            description: format!("{shown}, of {}", record.source),
        })
        .collect())
}

/// What a disk of a capture is known by, wherever it lies.
fn identity(record: &DiskRecord) -> [u8; 32] {
    *blake3::hash(format!("unmoor image {} {}", record.size, record.root).as_bytes()).as_bytes()
}

/// A disk that a manifest names: its content is known by the root of its hashes.
fn recorded(
    folder: &Path,
    record: &DiskRecord,
    options: &OpenOptions,
    monitor: &dyn Monitor,
) -> Result<Image> {
    let name = Path::new(&record.image);
    if name.file_name() != Some(name.as_os_str()) {
        return Err(Error::malformed("reading the manifest", format!("{name:?} is not a file name")));
    }
    let options = OpenOptions { format: Some(record.image_format), ..*options };
    let mut image = plain(&folder.join(name), &options, monitor)?;
    let (extents, _) = record.read_map(folder)?;
    manifest::check_holes(&*image.source, &extents)?;
    image.identity = identity(record);
    image.description = format!("{}, of {}", image.description, record.source);
    image.source = Box::new(WithSectors::new(image.source, record.sector_size));
    Ok(image)
}

/// An image that nothing is known of: it is taken for the same as long as its file has not been touched.
fn plain(path: &Path, options: &OpenOptions, monitor: &dyn Monitor) -> Result<Image> {
    overlay::finish_interrupted(path, monitor)?;
    let lock = lock(path)?;
    let metadata = lock.metadata().map_err(|error| Error::io("examining", error).path(path))?;
    let open = formats::OpenOptions { allow_backing: options.allow_backing, format: options.format };
    let opened = formats::open(path, &open)?;
    opened.warnings.into_iter().for_each(|warning| monitor.warn(warning));
    let (len, seconds, nanoseconds) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let known = format!("unmoor file {} {len} {seconds} {nanoseconds}", opened.source.size());
    Ok(Image {
        path: path.to_owned(),
        format: Some(opened.format),
        source: Box::new(Locked { inner: opened.source, _lock: lock }),
        identity: *blake3::hash(known.as_bytes()).as_bytes(),
        description: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
    })
}

/// Keeps `unmoor convert` from changing the image while it is served.
fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::open(path).map_err(|error| Error::io("opening", error).path(path))?;
    Flock::lock(file, FlockArg::LockSharedNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => {
            Error::refused("serving the image", "another unmoor changes it right now").path(path)
        }
        other => Error::io("locking", other.into()).path(path),
    })
}

/// A source that holds the lock on its file.
struct Locked {
    inner: Box<dyn BlockSource>,
    _lock: Flock<File>,
}

impl BlockSource for Locked {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.inner.extent_at(offset, len)
    }
}
