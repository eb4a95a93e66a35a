// SPDX-License-Identifier: Apache-2.0
//! A qcow2 image over another one: QEMU writes to it, and it tells afterwards what was written.
//!
//! ```text
//!   header, backing file's name | refcount table | refcount block | L1, empty
//! ```

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::header::Header;
use super::patch::Qcow2Patcher;
use super::source::{ImageFile, Qcow2Source};
use super::table::{Mapping, Tables};
use super::{L1_MOST, MAGIC};
use crate::formats::{Format, file};
use crate::{BlockSource, Error, RangeSet, Result, ResultExt};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of the header of version 3 without a compression type.
const HEADER: u32 = 104;
/// Bytes of a backing file's name at most (specification, "Header", byte 16).
const NAME_MOST: usize = 1023;

/// The disk as the overlay shows it, and the ranges that it holds itself.
pub struct Overlay {
    /// The overlay over what it was opened with.
    pub source: Qcow2Source,
    /// Whole clusters that the overlay holds, whether or not they differ from what lies below.
    pub written: RangeSet,
}

impl Overlay {
    /// Bytes of its cluster, the unit in which it holds ranges.
    pub const CLUSTER: u64 = CLUSTER;

    /// Creates `path`, which must not exist, over the image `backing`. The disk's size is rounded up to sectors.
    pub fn create(path: &Path, backing: &Path, format: Format, size: u64) -> Result<()> {
        let name = name_of(path, backing)?;
        let format = format.qemu_name();
        let size = size.next_multiple_of(512);
        let l1_entries = size.div_ceil(CLUSTER * CLUSTER / 8).max(1);
        if l1_entries * 8 > L1_MOST {
            return Err(Error::unsupported("creating an overlay", format!("a disk of {size} bytes")));
        }
        let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
        let mut raw = Vec::with_capacity((3 * CLUSTER) as usize);
        let put32 = |raw: &mut Vec<u8>, value: u32| raw.extend_from_slice(&value.to_be_bytes());
        let put64 = |raw: &mut Vec<u8>, value: u64| raw.extend_from_slice(&value.to_be_bytes());
        // The header, its extension of 8 + 8 bytes, the end of extensions, the name.
        let name_at = u64::from(HEADER) + 16 + 8;
        put32(&mut raw, MAGIC);
        put32(&mut raw, 3);
        put64(&mut raw, name_at);
        put32(&mut raw, name.len() as u32);
        put32(&mut raw, CLUSTER_BITS);
        put64(&mut raw, size);
        put32(&mut raw, 0); // not encrypted
        put32(&mut raw, l1_entries as u32);
        put64(&mut raw, 3 * CLUSTER);
        put64(&mut raw, CLUSTER); // refcount table
        put32(&mut raw, 1);
        put32(&mut raw, 0); // no snapshots
        put64(&mut raw, 0);
        put64(&mut raw, 0); // incompatible features
        put64(&mut raw, 0); // compatible features
        put64(&mut raw, 0); // autoclear features
        put32(&mut raw, 4); // refcounts of 1 << 4 bits
        put32(&mut raw, HEADER);
        put32(&mut raw, 0xe279_2aca);
        put32(&mut raw, format.len() as u32);
        raw.extend_from_slice(format.as_bytes());
        raw.resize((u64::from(HEADER) + 16) as usize, 0);
        put64(&mut raw, 0); // end of extensions
        raw.extend_from_slice(name.as_bytes());
        raw.resize(CLUSTER as usize, 0);
        put64(&mut raw, 2 * CLUSTER);
        raw.resize(2 * CLUSTER as usize, 0);
        for _ in 0..3 + l1_clusters {
            raw.extend_from_slice(&1u16.to_be_bytes());
        }
        raw.resize(3 * CLUSTER as usize, 0);
        let doing = || format!("creating {}", path.display());
        let mut file = File::create_new(path).doing(doing)?;
        file.write_all(&raw).doing(doing)?;
        file.set_len((3 + l1_clusters) * CLUSTER).doing(doing)
    }

    /// Opens the overlay at `path` over `below`, which is the disk of the image `backing`.
    ///
    /// # Errors
    ///
    /// `Malformed` where it is not over that image: nothing else that it may name is opened.
    pub fn open(path: &Path, backing: &Path, below: Box<dyn BlockSource>) -> Result<Self> {
        let opening = || format!("opening {}", path.display());
        let file = file::open(path)?;
        let image = ImageFile { len: file::len(&file)?, file };
        let header = Header::read(&image.file, image.len).doing(opening)?;
        if header.backing.as_deref() != Some(name_of(path, backing)?.as_str()) || header.external_data {
            return Err(Error::malformed("opening", "it is not an overlay of that image").path(path));
        }
        let tables = Tables::read(&header, &image, image.len)?;
        let mut written = RangeSet::new();
        tables.walk(&image, 0, header.size, |at, (mapping, len)| {
            if mapping != Mapping::Unallocated {
                written.insert(at..at + len);
            }
            Ok(true)
        })?;
        written.truncate(below.size());
        let source = Qcow2Source::new(&header, image, None, Some(below))?;
        Ok(Self { source, written })
    }
}

/// An overlay that this process writes to.
#[must_use = "what is written is complete only when it is finished"]
pub struct OverlayWriter(Qcow2Patcher);

impl OverlayWriter {
    /// Opens the overlay at `path`, as [`Overlay::open`] does.
    pub fn open(path: &Path, backing: &Path, below: Box<dyn BlockSource>) -> Result<Self> {
        let overlay = Overlay::open(path, backing, below)?;
        Ok(Self(Qcow2Patcher::open_overlay(path, overlay.source)?))
    }

    /// Writes `bytes` at `offset` of the disk.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.0.write_at(bytes, offset)
    }

    /// Completes what was written, and flushes it.
    pub fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

/// How an overlay names an image: beside it by its name alone, so that both may be moved. Without the dot or the slash
/// QEMU takes what stands before a colon for a protocol.
fn name_of(overlay: &Path, backing: &Path) -> Result<String> {
    // A file's name stands here with a slash in front, and is not taken for one of these.
    let name = if backing.to_str().is_some_and(|name| name.starts_with("nbd+unix:///")) {
        backing.to_str().map(str::to_owned)
    } else if overlay.parent() == backing.parent() {
        backing.file_name().and_then(|name| name.to_str()).map(|name| format!("./{name}"))
    } else {
        let whole = std::path::absolute(backing).doing(|| "finding the image's folder")?;
        whole.to_str().map(str::to_owned)
    };
    name.filter(|name| name.len() <= NAME_MOST).ok_or_else(|| {
        Error::unsupported("naming an image in its overlay", "its name is not UTF-8 or too long")
            .path(backing)
    })
}
