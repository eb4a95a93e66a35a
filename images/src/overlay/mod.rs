// SPDX-License-Identifier: Apache-2.0
//! Changing images as a whole or not at all: a layer over each takes the writes, and is then copied into it.
//!
//! ```text
//!   IMAGE.overlay   qcow2 over IMAGE, made by `create`; QEMU or whoever changes the disk writes to it
//!   IMAGE.map.next  the image's map as it will be
//!   IMAGE.commit    the record: from when it is there the change is decided, and `finish_interrupted` carries it on
//!
//!   create -> (writes) -> commit: flush the overlay | changed ranges, map, manifest, regions as they will be | record |
//!                                 ranges into the image | flush | map | manifest | record away | overlay away
//! ```
//!
//! A machine of several disks has one record, beside its first image; the others have one that points to it. All images of
//! a machine lie in one folder. Whoever opens an image calls [`finish_interrupted`] first.

mod changes;
mod commit;
mod record;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::adapt::{Resized, WithSectors};
use crate::formats::qcow2::Overlay;
use crate::formats::{self, Format};
use crate::manifest::Manifest;
use crate::{BlockSource, Error, Result, ResultExt};

pub use changes::{Changed, changes};
pub use commit::{Committed, commit, finish_interrupted};

/// One image of a machine that is to change.
#[derive(Clone)]
pub struct Target {
    /// The image's file, or the URI by which QEMU reads a disk that lies in none.
    pub image: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes per logical sector of its disk, as the manifest has it; 512 where nobody says.
    pub sector_size: u32,
    /// A disk that lies in no file, such as one of a store's image: it never changes, and has layers apart only.
    pub served: Option<Arc<dyn BlockSource>>,
}

impl Target {
    /// An image file.
    pub fn file(image: PathBuf, format: Format, sector_size: u32) -> Self {
        Self { image, format, sector_size, served: None }
    }

    /// A disk that lies in no file, and the `nbd+unix:` URI at which it is served.
    pub fn served(uri: &str, disk: Arc<dyn BlockSource>) -> Self {
        let sector_size = disk.sector_size();
        Self { image: uri.into(), format: Format::Raw, sector_size, served: Some(disk) }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, format, sector_size, .. } = self;
        write!(f, "{} ({format:?}, sectors of {sector_size} bytes)", image.display())
    }
}

/// Why images are changed, for their manifest.
#[derive(Debug, Clone)]
pub struct About {
    /// RFC 3339, UTC.
    pub time: String,
    /// Program and version.
    pub tool: String,
    /// For people: "fitted to kvm".
    pub what: String,
}

/// `web01.qcow2` -> `web01.qcow2.overlay`.
pub fn path_for(image: &Path) -> PathBuf {
    append(image, ".overlay")
}

fn append(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

/// Overlays of a machine's images; removed when dropped, unless they were committed.
#[must_use = "overlays that are not kept are removed"]
pub struct Overlays {
    targets: Vec<Target>,
    paths: Vec<PathBuf>,
    /// Of the disks as the overlays show them, in bytes.
    sizes: Vec<u64>,
    /// Keeps changes of the images out.
    _locks: Vec<Flock<File>>,
}

impl Overlays {
    /// The images below.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Where the overlays are, in the images' order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The disks as they would be.
    pub fn sources(&self) -> Result<Vec<Box<dyn BlockSource>>> {
        (0..self.targets.len()).map(|index| Ok(Box::new(self.open(index)?.source) as _)).collect()
    }

    /// What lies below an overlay, as long as that is.
    fn below(&self, index: usize) -> Result<Box<dyn BlockSource>> {
        let (Some(target), Some(size)) = (self.targets.get(index), self.sizes.get(index)) else {
            return Err(Error::malformed("looking below an overlay", format!("there is no disk {index}")));
        };
        Ok(Box::new(Resized::new(base(target)?, *size)))
    }

    fn open(&self, index: usize) -> Result<Overlay> {
        let below = self.below(index)?;
        let (Some(target), Some(path)) = (self.targets.get(index), self.paths.get(index)) else {
            return Err(Error::malformed("opening an overlay", format!("there is no disk {index}")));
        };
        Overlay::open(path, &target.image, below)
            .doing(|| format!("looking at the changes of {}", target.image.display()))
    }
}

impl Drop for Overlays {
    fn drop(&mut self) {
        for (target, path) in self.targets.iter().zip(&self.paths) {
            // While a record is there, the overlay is what it needs; after a commit it is gone.
            if *path != path_for(&target.image) || !record::path_for(&target.image).exists() {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Lays an empty overlay over each image, to be committed. What a run that was ended had left there is removed.
///
/// # Errors
///
/// `Refused` where another run changes one of the images, or where one could not be changed in the end.
pub fn create(targets: &[Target]) -> Result<Overlays> {
    let folder = |target: &Target| target.image.parent().map(Path::to_owned);
    if targets.iter().any(|target| target.served.is_some()) {
        return Err(Error::refused("changing images", "a disk that lies in no file does not change"));
    }
    if targets.windows(2).any(|pair| matches!(pair, [a, b] if folder(a) != folder(b))) {
        return Err(Error::refused("changing images", "the images of one machine must lie in one folder"));
    }
    let mut locks = Vec::new();
    for target in targets {
        locks.push(lock(&target.image, FlockArg::LockExclusiveNonblock)?);
        // Refuses what could not be committed before any work is done.
        drop(formats::Patcher::open(&target.image, target.format, false)?);
    }
    let paths: Vec<PathBuf> = targets.iter().map(|target| path_for(&target.image)).collect();
    let mut stale = paths.clone();
    for target in targets {
        if let Some((manifest, _)) = Manifest::beside(&target.image)? {
            stale.extend(commit::next_map(&manifest, &target.image));
        }
    }
    for path in &stale {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("removing what a run left behind", error).path(path));
            }
            _ => {}
        }
    }
    let sizes = targets.iter().map(|target| Ok(base(target)?.size())).collect::<Result<_>>()?;
    lay(Overlays { targets: targets.to_vec(), paths, sizes, _locks: locks })
}

/// Lays an empty overlay over each image in another folder: the images stay as they are. The disks as they show them have `sizes`
/// bytes, rounded up to sectors: a longer one has zeros behind the image's end.
///
/// # Errors
///
/// `Refused` where another run changes one of the images.
pub fn create_apart(targets: &[Target], sizes: &[u64], folder: &Path) -> Result<Overlays> {
    let files = targets.iter().filter(|target| target.served.is_none());
    let locks = files.map(|target| lock(&target.image, FlockArg::LockSharedNonblock));
    let locks = locks.collect::<Result<_>>()?;
    let paths = (0..targets.len()).map(|number| folder.join(format!("disk{number}.overlay"))).collect();
    let sizes = sizes.iter().map(|size| size.next_multiple_of(512)).collect();
    lay(Overlays { targets: targets.to_vec(), paths, sizes, _locks: locks })
}

fn lay(overlays: Overlays) -> Result<Overlays> {
    for ((target, path), size) in overlays.targets.iter().zip(&overlays.paths).zip(&overlays.sizes) {
        Overlay::create(path, &target.image, target.format, *size)?;
    }
    Ok(overlays)
}

fn lock(image: &Path, how: FlockArg) -> Result<Flock<File>> {
    let file = File::open(image).map_err(|error| Error::io("opening", error).path(image))?;
    Flock::lock(file, how).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => {
            Error::refused("changing the image", "another unmoor is at work on it right now").path(image)
        }
        other => Error::io("locking", other.into()).path(image),
    })
}

/// Bytes of an image's disk.
///
/// # Errors
///
/// As opening it.
pub fn size(target: &Target) -> Result<u64> {
    Ok(base(target)?.size())
}

/// An image's disk, in the sectors that it has. No other file is opened.
///
/// # Errors
///
/// As opening it.
pub fn base(target: &Target) -> Result<Box<dyn BlockSource>> {
    let options = formats::OpenOptions { allow_backing: false, format: Some(target.format) };
    let source: Box<dyn BlockSource> = match &target.served {
        Some(disk) => Box::new(disk.clone()),
        None => formats::open(&target.image, &options)?.source,
    };
    Ok(Box::new(WithSectors::new(source, target.sector_size)))
}

fn open(target: &Target, path: &Path) -> Result<Overlay> {
    Overlay::open(path, &target.image, base(target)?)
        .doing(|| format!("looking at the changes of {}", target.image.display()))
}
