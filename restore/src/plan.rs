// SPDX-License-Identifier: Apache-2.0
//! What a restore will write, decided before anything is touched.

mod build;
mod conflicts;
mod document;
mod fits;
mod stream;
mod volume;

pub use document::{Document, Grown, Move, TargetDocument, Write};

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use unmoor_images::ExtentMap;
use unmoor_images::formats::{Compression, Format};
use unmoor_images::partition::Partition;

use crate::grow::Growth;
use crate::image::Image;
use crate::view::{Patch, Piece};

/// Where one disk goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A whole block device.
    Device {
        /// Its path as it was named.
        path: PathBuf,
        /// Size in bytes.
        size: u64,
        /// Logical sector in bytes.
        sector_size: u32,
        /// Model, serial and what is on it, for people.
        description: String,
    },
    /// A file that is made anew.
    File {
        /// Its path.
        path: PathBuf,
        /// Its format.
        format: Format,
    },
}

impl Target {
    /// Its path.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Device { path, .. } | Self::File { path, .. } => path,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().display())
    }
}

/// Whether to use a larger target's room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Grow {
    /// Trailing swap and a trailing EFI system partition move, the last partition and its filesystem grow.
    #[default]
    Last,
    /// Nothing grows; the table is made right for the larger disk.
    No,
    /// This logical volume gets the room: "VG/LV", or "LV" of the group whose physical volume grows.
    LogicalVolume(String),
}

/// What the user chose.
#[derive(Debug, Clone)]
pub struct Options {
    /// Use of a larger target.
    pub grow: Grow,
    /// Size of a file target in bytes; the image's if absent.
    pub size: Option<u64>,
    /// Logical sector of a file target in bytes; the image's if absent.
    pub sector_size: Option<u32>,
    /// Discard and zero what no filesystem uses.
    pub wipe: bool,
    /// Read back and compare before the table is written.
    pub verify: bool,
    /// Go on with what an interrupted restore left on the target.
    pub resume: bool,
    /// Worker threads; 0 chooses.
    pub threads: usize,
    /// For image targets that compress.
    pub compression: Compression,
    /// For image targets with clusters, in bytes; the format's usual one if absent.
    pub cluster_size: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grow: Grow::Last,
            size: None,
            sector_size: None,
            wipe: false,
            verify: true,
            resume: false,
            threads: 0,
            compression: Compression::Zstd(1),
            cluster_size: None,
        }
    }
}

/// One disk's part of the plan.
pub struct DiskPlan {
    /// What is restored.
    pub image: Image,
    /// Where.
    pub target: Target,
    /// Size of the target in bytes.
    pub size: u64,
    /// Its logical sector in bytes.
    pub sector_size: u32,
    /// The partitions as they will be.
    pub partitions: Vec<Partition>,
    /// Ranges of the image and their places.
    pub pieces: Vec<Piece>,
    /// Bytes that differ from the image's.
    pub patches: Vec<Patch>,
    /// Every byte of the target: data and zeros are written, holes left.
    pub extents: ExtentMap,
    /// Written last, the lowest at the very end.
    pub held: Vec<Range<u64>>,
    /// Zeroed before all else and in this order, so that nothing old is found.
    pub clear: Vec<Range<u64>>,
    /// The filesystem that will be grown.
    pub growth: Option<Growth>,
    /// What else will be, for people.
    pub notes: Vec<String>,
    /// What the administrator should weigh.
    pub warnings: Vec<String>,
}

/// All disks of one restore.
pub struct Plan {
    /// In the order in which they were named.
    pub disks: Vec<DiskPlan>,
}

impl Plan {
    /// Plans each image onto its target. Touches nothing.
    ///
    /// # Errors
    ///
    /// `Refused` where it does not fit: by how many bytes, and what would make it fit; and where a target is another
    /// one's too, or is the image itself.
    pub fn new(pairs: Vec<(Image, Target)>, options: &Options) -> unmoor_images::Result<Self> {
        conflicts::check(&pairs)?;
        let disks = pairs.into_iter().map(|(image, target)| build::disk(image, target, options));
        Ok(Self { disks: disks.collect::<unmoor_images::Result<_>>()? })
    }
}
