// SPDX-License-Identifier: Apache-2.0
//! Image formats. To add one: a folder with `source.rs` and, if it is written, `sink.rs`, an arm in each function below, its magic
//! in `detect.rs`, a fuzz target, and a line in the conformance suite (`formats/conformance.rs`). `blocks.rs` reads through a map.

mod aligned;
mod blocks;
#[cfg(test)]
mod conformance;
mod detect;
mod file;
pub mod partclone;
mod patch;
pub mod qcow2;
pub mod raw;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use aligned::{ALIGNMENT, AlignedBuffer};
pub(crate) use file::Writer;
pub use patch::{Patcher, check_changed};

use crate::{BlockSink, BlockSource, Error, ErrorKind, Result, ResultExt};

/// A format by its usual name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Format {
    Raw,
    Qcow2,
    Vmdk,
    Vhdx,
    Vhd,
    Vdi,
}

impl Format {
    /// By file name extension: `.qcow2`; `.raw`, `.img`; `.vmdk`; `.vhdx`; `.vhd`, `.vpc`; `.vdi`.
    pub fn from_extension(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "qcow2" => Some(Self::Qcow2),
            "raw" | "img" => Some(Self::Raw),
            "vmdk" => Some(Self::Vmdk),
            "vhdx" => Some(Self::Vhdx),
            "vhd" | "vpc" => Some(Self::Vhd),
            "vdi" => Some(Self::Vdi),
            _ => None,
        }
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "VMDK",
            Self::Vhdx => "VHDX",
            Self::Vhd => "VHD",
            Self::Vdi => "VDI",
        }
    }

    /// As QEMU and libvirt call it.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vpc",
            Self::Vdi => "vdi",
        }
    }

    /// True if data in it can be compressed.
    pub fn compresses(self) -> bool {
        matches!(self, Self::Qcow2 | Self::Vmdk)
    }

    /// A usage error for formats that are read only, with what serves instead.
    pub fn check_written(self) -> Result<()> {
        let because = match self {
            Self::Raw | Self::Qcow2 | Self::Vmdk | Self::Vhdx => return Ok(()),
            Self::Vhd => {
                "VHD is read, not written: Hyper-V opens FILE.vhdx, and Convert-VHD makes a VHD of it for Azure"
            }
            Self::Vdi => "VDI is read, not written: VirtualBox opens FILE.vmdk",
        };
        Err(Error::new(ErrorKind::Usage, "choosing a format").because(because))
    }
}

/// How data is compressed inside a format that can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Deflate at this level (1-12), for readers without zstd.
    Zlib(i32),
    /// zstd at this level (negative to 19).
    Zstd(i32),
    /// zstd, its level following whichever of source, processor and sink is slowest.
    Auto,
}

/// How to open an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Follow backing files, external data files, and extent files that lie elsewhere. Otherwise such an image is refused.
    pub allow_backing: bool,
    /// Take this format instead of detecting it by magic. Without it a file with no known magic is raw.
    pub format: Option<Format>,
}

/// An image opened for reading.
pub struct Opened {
    /// Its disk.
    pub source: Box<dyn BlockSource>,
    /// Its format.
    pub format: Format,
    /// Such as "internal snapshots are ignored".
    pub warnings: Vec<String>,
}

/// Opens the image file at `path`. Unsupported if its magic is that of a format that is not read here, such as QED.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened> {
    let format = match options.format {
        Some(format) => format,
        None => detect::detect(path, &file::open(path)?)?,
    };
    let opening = || format!("opening {}", path.display());
    let (source, warnings): (Box<dyn BlockSource>, _) = match format {
        Format::Raw => (Box::new(raw::RawSource::open(path)?), Vec::new()),
        Format::Qcow2 => {
            let (source, warnings) = qcow2::open(path, options)?;
            (Box::new(source), warnings)
        }
        Format::Vmdk => {
            let (source, warnings) = vmdk::open(path, options)?;
            (Box::new(source), warnings)
        }
        Format::Vhdx => {
            let (source, warnings) = vhdx::VhdxSource::new(raw::RawSource::open(path)?).doing(opening)?;
            (Box::new(source), warnings)
        }
        Format::Vhd => {
            let (source, warnings) = vhd::VhdSource::new(raw::RawSource::open(path)?).doing(opening)?;
            (Box::new(source), warnings)
        }
        Format::Vdi => {
            (Box::new(vdi::VdiSource::new(raw::RawSource::open(path)?).doing(opening)?), Vec::new())
        }
    };
    Ok(Opened { source, format, warnings })
}

/// How to create an image.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions {
    /// The disk's size in bytes.
    pub size: u64,
    /// Bytes of the disk's logical sector, 512 or 4096, for formats that record it.
    pub sector_size: u32,
    /// For formats that compress.
    pub compression: Compression,
    /// Unit of allocation in bytes, a power of two, or the format's usual one: qcow2's clusters have 512 B to 2 MiB (64 KiB),
    /// VHDX's blocks 1 to 256 MiB (1 MiB, more above 1 TiB), VMDK's grains 64 KiB.
    pub cluster_size: Option<u32>,
}

/// Creates an image file at exactly `path`, which must not exist. The caller names it `.partial` and renames it.
pub fn create(path: &Path, format: Format, options: &CreateOptions) -> Result<Box<dyn BlockSink>> {
    format.check_written()?;
    Ok(match format {
        Format::Raw => Box::new(raw::RawSink::create(path, options.size)?),
        Format::Qcow2 => Box::new(qcow2::Qcow2Sink::create(path, options)?),
        Format::Vmdk => Box::new(vmdk::VmdkSink::create(path, options)?),
        Format::Vhdx => Box::new(vhdx::VhdxSink::create(path, options)?),
        Format::Vhd | Format::Vdi => return Err(Error::unsupported("creating", "it is read, not written")),
    })
}
