// SPDX-License-Identifier: Apache-2.0
//! Without an appliance: this host's kernel mounts a working copy of each image, and what changed in it goes to the overlay.
//!
//! A host's kernel has no layer over an image that we could read back, so the copy is what keeps the image whole until the
//! commit. It is sparse, and shares its blocks with a raw image where the filesystem can (reflink).
//!
//! A disk that lies in no file is as large as it likes, and where a rescue environment would put its copy is memory: the kernel
//! then sees the disk itself, over NBD from this process, and only what it writes is kept in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use unmoor_images::formats::qcow2::OverlayWriter;
use unmoor_images::overlay::{self, Overlays, Target};
use unmoor_images::{BlockSource, Error, ErrorKind, Monitor, Result, ResultExt, State};

use super::{Action, Fitter, devices, guest, served};

/// Bytes that are copied or compared at a time.
const STEP: u64 = 1 << 20;

/// Does an action that writes nothing.
pub(super) fn look(fitter: &Fitter, action: &Action, monitor: &dyn Monitor) -> Result<Value> {
    let copies = fitter.working_copies(monitor)?;
    fitter.act(&paths(&copies), action, monitor)
}

/// Does an action, and puts what it changed into the overlays.
pub(super) fn change(
    fitter: &Fitter,
    overlays: &Overlays,
    action: &Action,
    monitor: &dyn Monitor,
) -> Result<Value> {
    if fitter.targets.iter().any(|target| target.served.is_some())
        && let Some(devices) = devices::attach(fitter, monitor)?
    {
        let done = fitter.act(&devices.paths(), action, monitor);
        let written = devices.close(monitor)?;
        let done = done?;
        for ((target, path), disk) in fitter.targets.iter().zip(overlays.paths()).zip(written) {
            let below = overlay::base(target)?;
            let mut patcher = OverlayWriter::open(path, &target.image, below)?;
            disk.changes(|at, bytes| patcher.write_at(bytes, at))?;
            patcher.finish()?;
        }
        return Ok(done);
    }
    let copies = fitter.working_copies(monitor)?;
    let done = fitter.act(&paths(&copies), action, monitor)?;
    let each = fitter.targets.iter().zip(overlays.paths()).zip(&copies).zip(fitter.sources()?);
    for (((target, path), copy), image) in each {
        take_over(target, path, copy, &*image, monitor)
            .doing(|| format!("comparing {} with its working copy", target.image.display()))?;
    }
    Ok(done)
}

impl Fitter {
    /// Refuses what cannot be mounted here.
    pub(super) fn check_direct(&self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            let because = "only root can mount: leave --direct out, and the appliance does it";
            return Err(Error::refused("mounting the guest directly", because));
        }
        if self.targets.windows(2).any(|pair| matches!(pair, [a, b] if a.sector_size != b.sector_size)) {
            let because = "its disks have sectors of different sizes: leave --direct out";
            return Err(Error::refused("mounting the guest directly", because));
        }
        Ok(())
    }

    fn working_copies(&self, monitor: &dyn Monitor) -> Result<Vec<Copy>> {
        self.check_direct()?;
        let sources = self.sources()?;
        self.targets
            .iter()
            .zip(&sources)
            .map(|(target, source)| Copy::of(target, &**source, monitor))
            .collect()
    }

    fn act(&self, disks: &[PathBuf], action: &Action, monitor: &dyn Monitor) -> Result<Value> {
        let sector_size = self.targets.first().map_or(0, |target| target.sector_size);
        guest::act((disks, sector_size), action, &self.keys, self.facts.as_ref(), monitor)
    }
}

fn paths(copies: &[Copy]) -> Vec<PathBuf> {
    copies.iter().map(|copy| copy.0.to_path_buf()).collect()
}

/// A raw copy of an image beside it; removed when dropped.
struct Copy(tempfile::TempPath);

impl Copy {
    fn of(target: &Target, source: &dyn BlockSource, monitor: &dyn Monitor) -> Result<Self> {
        let doing = || format!("making a working copy of {}", target.image.display());
        // A name of its own, and mode 0600: other runs on this image have theirs.
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(".unmoor-").suffix(".working");
        let made = match served::folder_of(target) {
            Some(folder) => builder.tempfile_in(folder),
            None => builder.tempfile(),
        };
        let (file, path) = made.doing(doing)?.into_parts();
        let copy = Self(path);
        let raw = target.served.is_none() && target.format == unmoor_images::formats::Format::Raw;
        let shared = raw && share(&target.image, &file).is_ok();
        file.set_len(source.size()).doing(doing)?;
        if shared {
            return Ok(copy);
        }
        each_data(source, monitor, |at, bytes| {
            if bytes.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            file.write_all_at(bytes, at).doing(doing)
        })?;
        Ok(copy)
    }
}

/// A copy that shares all blocks (FICLONE).
fn share(from: &Path, to: &File) -> io::Result<()> {
    crate::appliance::clone_file(&File::open(from)?, to)
}

/// Calls `each` with all bytes that are not known to be zeros.
fn each_data(
    source: &dyn BlockSource,
    monitor: &dyn Monitor,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; STEP as usize];
    let mut at = 0;
    while at < source.size() {
        if monitor.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "copying the image").because("stopped on request"));
        }
        let known = source.extent_at(at, source.size() - at)?;
        let end = known.end().clamp(at + 1, source.size());
        if known.state == State::Data {
            let len = (end - at).min(STEP);
            let Some(part) = buffer.get_mut(..len as usize) else { break };
            source.read_at(part, at)?;
            each(at, part)?;
            at += len;
        } else {
            at = end;
        }
    }
    Ok(())
}

/// Writes to the overlay what differs in the copy. Where the copy has data, or the image has, they are compared.
fn take_over(
    target: &Target,
    path: &Path,
    copy: &Copy,
    image: &dyn BlockSource,
    monitor: &dyn Monitor,
) -> Result<()> {
    let working = unmoor_images::formats::raw::RawSource::open(&copy.0)?;
    let below = overlay::base(target)?;
    let mut patcher = OverlayWriter::open(path, &target.image, below)?;
    let mut other = vec![0; STEP as usize];
    let mut compare = |at: u64, bytes: &[u8], against: &dyn BlockSource, swap: bool| -> Result<()> {
        let Some(theirs) = other.get_mut(..bytes.len()) else { return Ok(()) };
        against.read_at(theirs, at)?;
        for (index, (one, two)) in bytes.chunks(4096).zip(theirs.chunks(4096)).enumerate() {
            if one != two {
                let new = if swap { two } else { one };
                patcher.write_at(new, at + (index * 4096) as u64)?;
            }
        }
        Ok(())
    };
    each_data(&working, monitor, |at, bytes| compare(at, bytes, image, false))?;
    // What the copy has lost: ranges that were data and are holes in it now.
    each_data(image, monitor, |at, bytes| compare(at, bytes, &working, true))?;
    patcher.finish()
}
