// SPDX-License-Identifier: Apache-2.0
//! Changing an existing image in place, whatever its format.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Format, file, qcow2};
use crate::source::check_range;
use crate::{Error, Result, ResultExt};

/// An image opened for changing. What is written is part of it after [`finish`](Self::finish), and may be before.
#[must_use = "what is written is complete only when it is finished"]
pub struct Patcher(Kind);

enum Kind {
    Raw { file: File, size: u64 },
    Qcow2(Box<qcow2::Qcow2Patcher>),
}

/// Refuses an image of a format that is not changed in place, before anything else is done.
pub fn check_changed(path: &Path, format: Format) -> Result<()> {
    match format {
        Format::Raw | Format::Qcow2 => Ok(()),
        Format::Vmdk | Format::Vhdx | Format::Vhd | Format::Vdi => Err(refused(path, format)),
    }
}

fn refused(path: &Path, format: Format) -> Error {
    let reason = format!(
        "{} images are not changed in place; make a qcow2 of it first: unmoor capture {} {}",
        format.name(),
        path.display(),
        path.with_extension("qcow2").display()
    );
    Error::refused("changing", reason).path(path)
}

impl Patcher {
    /// Opens the image at `path`. `repair` is for an image whose last patching was interrupted.
    ///
    /// # Errors
    ///
    /// `Refused` for a qcow2 that cannot be changed here (subclusters, backing and data files, dirty bitmaps), and for
    /// formats other than raw and qcow2.
    pub fn open(path: &Path, format: Format, repair: bool) -> Result<Self> {
        Ok(Self(match format {
            Format::Raw => {
                let opening = || format!("opening {}", path.display());
                let file = OpenOptions::new().read(true).write(true).open(path).doing(opening)?;
                let size = file::len(&file)?;
                Kind::Raw { file, size }
            }
            Format::Qcow2 => Kind::Qcow2(Box::new(qcow2::Qcow2Patcher::open(path, repair)?)),
            Format::Vmdk | Format::Vhdx | Format::Vhd | Format::Vdi => return Err(refused(path, format)),
        }))
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Kind::Raw { size, .. } => *size,
            Kind::Qcow2(image) => image.size(),
        }
    }

    /// Writes `bytes` at `offset` of the disk.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        match &mut self.0 {
            Kind::Raw { file, size } => {
                check_range(*size, offset, bytes.len()).doing(|| "changing an image")?;
                let written = file.write_all_at(bytes, offset);
                written.map_err(|error| Error::io("writing the image", error).at(offset))
            }
            Kind::Qcow2(image) => image.write_at(bytes, offset),
        }
    }

    /// Completes what was written, and flushes it to stable storage.
    pub fn finish(self) -> Result<()> {
        match self.0 {
            Kind::Raw { file, .. } => file.sync_all().doing(|| "flushing the image to stable storage"),
            Kind::Qcow2(image) => image.finish(),
        }
    }
}
