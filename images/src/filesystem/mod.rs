// SPDX-License-Identifier: Apache-2.0
//! Filesystems, read from the raw bytes: what one is, and which bytes it uses.
//!
//! To add one: a folder with a `probe` and a `used` of the shapes below, a line in each of the two
//! tables here, a fuzz target, and a test that holds its map against an independent tool's.
//!
//! An error of kind `Malformed` or `Unsupported` from `used` means "not to be trusted": the caller
//! keeps the whole partition as data and says why.

mod bit_runs;
pub mod btrfs;
mod exfat;
mod ext;
pub mod fat;
pub mod files;
pub mod identity;
#[cfg(test)]
mod loops;
mod ntfs;
pub mod swap;
pub mod xfs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BlockSource, RangeSet, Result};

/// Which filesystem (or swap) it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum FilesystemKind {
    Ext2,
    Ext3,
    Ext4,
    /// An ext journal on a device of its own.
    #[serde(rename = "jbd")]
    Jbd,
    Xfs,
    Btrfs,
    Ntfs,
    Fat12,
    Fat16,
    Fat32,
    Exfat,
    Swap,
}

impl FilesystemKind {
    /// The name that `blkid` and fstab use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Jbd => "jbd",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ntfs => "ntfs",
            Self::Fat12 | Self::Fat16 | Self::Fat32 => "vfat",
            Self::Exfat => "exfat",
            Self::Swap => "swap",
        }
    }
}

/// Whether the filesystem was left in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Nothing to replay.
    Clean,
    /// There is something to replay or the volume says it is in use; the text says what.
    Dirty(String),
    /// A system is suspended onto it (swap), or Windows hibernated (NTFS); the text says what was found.
    Hibernated(String),
}

/// Facts of one filesystem, as its superblock states them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilesystemFacts {
    /// Which one.
    pub kind: FilesystemKind,
    /// As `blkid` prints it: a UUID, or a FAT/NTFS serial number.
    pub uuid: Option<String>,
    /// Label, if not empty.
    pub label: Option<String>,
    /// Allocation unit in bytes (block, cluster, page).
    pub block_size: u32,
    /// Bytes that the filesystem covers from the partition's start; may be less than the partition.
    pub size_bytes: u64,
    /// Left in order?
    pub condition: Condition,
    /// Smallest logical sector on which it mounts is also the largest: bytes (XFS sectsize, FAT bytes per
    /// sector, ext block size). A disk with larger logical sectors cannot hold it.
    pub max_sector_size: u32,
    /// Feature names as the filesystem's own tools print them, for people.
    pub features: Vec<String>,
}

/// Which bytes a filesystem uses, relative to its partition's start.
#[derive(Debug, Default)]
pub struct Used {
    /// Every byte that its own checker or driver may read, journals and backups included.
    pub ranges: RangeSet,
    /// What the administrator should know; each a sentence without a final stop.
    pub warnings: Vec<String>,
    /// Set where the map cannot be trusted though the filesystem can be read (dirty log, several devices): then
    /// `ranges` covers the whole partition, and this says why and what to do.
    pub everything_because: Option<String>,
}

impl Used {
    /// All `size` bytes, for a reason that is also a warning.
    pub fn everything(size: u64, because: impl Into<String>) -> Self {
        Self { ranges: RangeSet::of(0..size), warnings: Vec::new(), everything_because: Some(because.into()) }
    }
}

type Probe = fn(&dyn BlockSource) -> Result<Option<FilesystemFacts>>;

/// Most telling magic first. A probe answers `Ok(None)` for "not mine", and an error only where reading failed or
/// the magic is right and the rest is not.
///
/// ext comes before swap: mkswap clears the place of ext's magic, but mke2fs leaves an old swap signature in block 0.
/// FAT is last: it has no magic to speak of.
const PROBES: &[Probe] =
    &[xfs::probe, btrfs::probe, exfat::probe, ntfs::probe, ext::probe, swap::probe, fat::probe];

/// What filesystem begins at byte 0 of `source`, if any that is known.
pub fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    for probe in PROBES {
        if let Some(facts) = probe(source)? {
            return Ok(Some(facts));
        }
    }
    Ok(None)
}

/// Which bytes of `source` the filesystem `facts` (from [`probe`]) uses.
pub fn used(source: &dyn BlockSource, facts: &FilesystemFacts) -> Result<Used> {
    match facts.kind {
        FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 | FilesystemKind::Jbd => {
            ext::used(source)
        }
        FilesystemKind::Swap => swap::used(source),
        FilesystemKind::Ntfs => ntfs::used(source, facts),
        FilesystemKind::Fat12 | FilesystemKind::Fat16 | FilesystemKind::Fat32 => fat::used(source, facts),
        FilesystemKind::Exfat => exfat::used(source, facts),
        FilesystemKind::Xfs => xfs::used(source),
        FilesystemKind::Btrfs => btrfs::used(source),
    }
}

/// The same of a filesystem that is mounted and may change meanwhile: a hint. What is written in its log alone is not seen.
pub fn used_mounted(source: &dyn BlockSource, facts: &FilesystemFacts) -> Result<Used> {
    match facts.kind {
        FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => ext::used_mounted(source),
        FilesystemKind::Xfs => xfs::used_frozen(source),
        _ => used(source, facts),
    }
}

/// The same of a filesystem that is frozen by the kernel of this machine: it has written all of its metadata in place first.
///
/// ext empties its journal for that, so that its own reader needs no other rule. XFS leaves a record in its log that looks like
/// something to replay (`xfs_log_quiesce` and the dummy record behind it), and its free-space trees are true all the same.
pub fn used_frozen(source: &dyn BlockSource, facts: &FilesystemFacts) -> Result<Used> {
    match facts.kind {
        FilesystemKind::Xfs => xfs::used_frozen(source),
        _ => used(source, facts),
    }
}
