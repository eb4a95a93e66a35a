// SPDX-License-Identifier: Apache-2.0
//! Image formats. To add one: a folder with `source.rs` and `sink.rs`, an arm in each function below, a fuzz
//! target, and a line in the conformance suite (`formats/conformance.rs`).

mod aligned;
#[cfg(test)]
mod conformance;
mod detect;
mod file;
mod patch;
pub mod qcow2;
pub mod raw;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use aligned::{ALIGNMENT, AlignedBuffer};
pub(crate) use file::Writer;
pub use patch::Patcher;

use crate::{BlockSink, BlockSource, Result};

/// A format by its usual name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Format {
    Raw,
    Qcow2,
}

impl Format {
    /// By file name extension: `.qcow2`; `.raw`, `.img`.
    pub fn from_extension(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "qcow2" => Some(Self::Qcow2),
            "raw" | "img" => Some(Self::Raw),
            _ => None,
        }
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
    /// Follow backing files and external data files. Otherwise such an image is refused.
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

/// Opens the image file at `path`. Unsupported if its magic is that of a format that is not read here, such as VMDK.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened> {
    let format = match options.format {
        Some(format) => format,
        None => detect::detect(path, &file::open(path)?)?,
    };
    let (source, warnings): (Box<dyn BlockSource>, _) = match format {
        Format::Raw => (Box::new(raw::RawSource::open(path)?), Vec::new()),
        Format::Qcow2 => {
            let (source, warnings) = qcow2::open(path, options)?;
            (Box::new(source), warnings)
        }
    };
    Ok(Opened { source, format, warnings })
}

/// How to create an image.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions {
    /// The disk's size in bytes.
    pub size: u64,
    /// For formats that compress.
    pub compression: Compression,
    /// Cluster in bytes for formats that have one, a power of two of 512 B to 2 MiB. 64 KiB is usual.
    pub cluster_size: u32,
}

/// Creates an image file at exactly `path`, which must not exist. The caller names it `.partial` and renames it.
pub fn create(path: &Path, format: Format, options: &CreateOptions) -> Result<Box<dyn BlockSink>> {
    Ok(match format {
        Format::Raw => Box::new(raw::RawSink::create(path, options.size)?),
        Format::Qcow2 => Box::new(qcow2::Qcow2Sink::create(path, options)?),
    })
}
