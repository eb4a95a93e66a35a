// SPDX-License-Identifier: Apache-2.0
//! Initramfs images as the kernel unpacks them: newc archives, compressed or not, one behind the other.
//!
//! ```text
//!   bytes --read--> Archive { segments, tree } --append(additions)--> bytes to put behind it
//! ```
//!
//! What is accepted is what init/initramfs.c accepts. An image that it would give up on half way is an error here, since what
//! stands behind that place is never unpacked: nothing can be appended to it.

mod append;
mod compression;
mod newc;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use unmoor_images::{Error, Result, ResultExt};

pub use append::{Addition, append};
pub use compression::Compression;
pub use tree::{Content, Kind, Node, Tree};
pub use write::Writer;

use compression::Decoder;
use newc::{Budget, End, Input};

/// Names of dropped entries that are kept for telling.
pub(crate) const MOST_DROPPED: usize = 100;

/// What reading an image may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that may be unpacked in all.
    pub unpacked: u64,
    /// Entries.
    pub entries: usize,
    /// Bytes of content that are kept in all; further files are there without their bytes.
    pub kept: u64,
    /// A larger file is kept without its bytes.
    pub largest: u64,
    /// Which files' bytes are wanted, by path.
    pub keep: fn(&str) -> bool,
}

impl Default for Limits {
    /// Keeps configuration, scripts and indexes; not programs, modules and firmware.
    fn default() -> Self {
        Self { unpacked: 4 << 30, entries: 200_000, kept: 64 << 20, largest: 8 << 20, keep: is_configuration }
    }
}

impl Limits {
    /// As [`Default`], but every file's bytes are kept as far as they fit.
    pub fn keep_all() -> Self {
        Self { kept: 512 << 20, largest: 256 << 20, keep: |_| true, ..Self::default() }
    }
}

/// Whether a file of an initramfs is likely to say how something is done, rather than to do it.
fn is_configuration(path: &str) -> bool {
    let path = path.trim_start_matches("./");
    let name = path.rsplit('/').next().unwrap_or(path);
    let ends = |suffix: &str| name.ends_with(suffix);
    let is_module = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|suffix| ends(suffix));
    let is_library = ends(".so") || name.contains(".so.");
    !(is_module || is_library || path.contains("/firmware/") || path.starts_with("kernel/x86/microcode/"))
}

/// One archive, or one compressed run of archives, of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the image, in bytes.
    pub offset: u64,
    /// Its length there; padding behind it is not counted, unless the archive has it within.
    pub length: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// Entries, trailers included.
    pub entries: usize,
}

/// An image that was read.
#[derive(Debug, Clone)]
pub struct Archive {
    /// What it is made of, in order.
    pub segments: Vec<Segment>,
    /// The files that the kernel has after unpacking it.
    pub tree: Tree,
    /// Entries that the kernel drops because it cannot make them: no parent directory, or something else in their place.
    pub dropped: Vec<String>,
    /// Length of the last file read, in bytes.
    pub size: u64,
    budget: Budget,
}

impl Archive {
    /// What the kernel has before it unpacks anything.
    pub fn empty(limits: &Limits) -> Self {
        Self {
            segments: Vec::new(),
            tree: Tree::default(),
            dropped: Vec::new(),
            size: 0,
            budget: Budget::new(limits),
        }
    }

    /// Bytes that may still be unpacked.
    pub fn unpackable(&self) -> u64 {
        self.budget.unpacked
    }

    /// Unpacks a further file over it, as boot loaders hand several to the kernel: one behind the other, each at a multiple
    /// of 4 bytes. Offsets of its segments count from its own start.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub fn add(&mut self, image: &[u8]) -> Result<()> {
        self.size = image.len() as u64;
        self.unpack(image, 0)
    }

    /// Unpacks `image` from byte `at`.
    fn unpack(&mut self, image: &[u8], mut at: usize) -> Result<()> {
        loop {
            let rest = image.get(at..).unwrap_or_default();
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            at = at.saturating_add(zeros);
            let mut rest = rest.get(zeros..).unwrap_or_default();
            let Some(first) = rest.first() else { return Ok(()) };
            let offset = at as u64;
            let segment = if *first == b'0' && at.is_multiple_of(4) {
                let mut input = Input::new(&mut rest, offset);
                let (entries, _) = newc::entries(self, &mut input, false)?;
                Segment { offset, length: input.position - offset, compression: Compression::None, entries }
            } else {
                self.compressed(rest, offset)?
            };
            at = at.saturating_add(usize::try_from(segment.length).unwrap_or(usize::MAX));
            self.segments.push(segment);
        }
    }

    /// Unpacks the compressed segment that `bytes` begin with.
    fn compressed(&mut self, bytes: &[u8], offset: u64) -> Result<Segment> {
        let compression = Compression::of(bytes).ok_or_else(|| {
            Error::malformed("reading an initramfs", "neither an archive nor a compression that is known")
                .at(offset)
        })?;
        let mut decoder = Decoder::new(compression, bytes)?;
        let mut input = Input::new(decoder.reader(), 0);
        let (entries, end) = newc::entries(self, &mut input, true)
            .doing(|| format!("unpacking the {} segment at {offset:#x}", compression.name()))?;
        debug_assert!(matches!(end, End::Input), "a compressed segment is read to its end");
        let length = bytes.len().saturating_sub(decoder.left()) as u64;
        if length == 0 {
            return Err(Error::malformed("reading an initramfs", "an empty compressed segment").at(offset));
        }
        Ok(Segment { offset, length, compression, entries })
    }
}

/// Reads an image.
///
/// # Errors
///
/// `Malformed` where the kernel would report a failure (a truncated image, a wrong magic number or padding, corrupt compressed
/// data); `Unsupported` for bzip2 and lzo, and where the limits are exceeded.
pub fn read(image: &[u8], limits: &Limits) -> Result<Archive> {
    let mut archive = Archive::empty(limits);
    archive.add(image)?;
    Ok(archive)
}
