// SPDX-License-Identifier: Apache-2.0
//! XFS, versions 4 and 5 ("XFS Algorithms & Data Structures", 3rd edition; kernel `fs/xfs/libxfs/xfs_format.h`).
//!
//! ```text
//!   allocation group 0          group 1             group n
//!   |SB|AGF|AGI|AGFL| blocks... |SB|AGF|AGI|AGFL|.. |...   <- one sector each, then blocks
//!        |                                ^ the log is one run of blocks inside one group
//!        +-> bnobt: free extents by place  \  the same set,
//!        +-> cntbt: free extents by length /  so each checks the other
//! ```
//!
//! Used is everything but what the free-space trees of each group call free. Blocks on a group's free list
//! (AGFL), the trees themselves, the log and the superblock copies are in neither tree, and so are used.

pub(super) mod files;
mod free_space;
mod log;
mod superblock;
#[cfg(test)]
mod tests;
mod uuid;

use crate::filesystem::{Condition, FilesystemFacts, FilesystemKind, Used};
use crate::parse::{c_text, uuid_text};
use crate::{BlockSource, Error, Result};
use log::LogState;
use superblock::Superblock;
pub(super) use uuid::change_uuid;

/// Tells whether an XFS begins at byte 0, and what its superblock and log say of it.
///
/// `Ok(None)` without the magic; an error of kind `Malformed` or `Unsupported` where the magic is right and the
/// rest is not.
pub fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    let Some(superblock) = Superblock::read(source)? else { return Ok(None) };
    let condition = match untrusted_because(source, &superblock)? {
        Some(Distrust::Dirty(why)) => Condition::Dirty(why),
        Some(Distrust::OtherDevice(_)) | None => Condition::Clean,
    };
    let label = c_text(&superblock.label);
    Ok(Some(FilesystemFacts {
        kind: FilesystemKind::Xfs,
        uuid: Some(uuid_text(&superblock.uuid)),
        label: (!label.is_empty()).then_some(label),
        block_size: superblock.block_size,
        size_bytes: superblock.size_bytes(),
        condition,
        max_sector_size: superblock.sector_size,
        features: superblock.features.names(),
    }))
}

/// The bytes of the XFS at byte 0 of `source` that are in use.
///
/// Everything where the log is dirty or a second device belongs to the filesystem; an error of kind `Malformed`
/// or `Unsupported` where its structures contradict themselves or a feature is not known.
pub fn used(source: &dyn BlockSource) -> Result<Used> {
    let superblock = Superblock::read(source)?
        .ok_or_else(|| Error::malformed("reading the XFS superblock", "no XFS magic").at(0))?;
    if let Some(why) = untrusted_because(source, &superblock)? {
        let (Distrust::Dirty(why) | Distrust::OtherDevice(why)) = why;
        return Ok(Used::everything(source.size(), why));
    }
    superblock.refuse_unknown_features()?;
    if superblock.size_bytes() > source.size() {
        return Err(Error::malformed(
            "reading the XFS superblock",
            format!("it covers {} bytes, the partition has {}", superblock.size_bytes(), source.size()),
        )
        .at(0));
    }
    free_space::used(source, &superblock)
}

/// The same of one that this machine's kernel has mounted, and frozen if the answer is to be exact: whatever its log
/// seems to hold is in its place too. See [`crate::filesystem::used_frozen`].
pub fn used_frozen(source: &dyn BlockSource) -> Result<Used> {
    let superblock = Superblock::read(source)?
        .ok_or_else(|| Error::malformed("reading the XFS superblock", "no XFS magic").at(0))?;
    let elsewhere = superblock.log_start == 0 || superblock.realtime_blocks != 0;
    if superblock.features.needs_repair() || elsewhere || superblock.size_bytes() > source.size() {
        return used(source);
    }
    superblock.refuse_unknown_features()?;
    free_space::used(source, &superblock)
}

/// Why the free-space trees do not show the truth, though they can be read.
enum Distrust {
    /// Something is to be replayed or repaired first.
    Dirty(String),
    /// Part of the filesystem is on another device.
    OtherDevice(String),
}

fn untrusted_because(source: &dyn BlockSource, superblock: &Superblock) -> Result<Option<Distrust>> {
    if superblock.features.needs_repair() {
        let why = "the filesystem is marked as needing repair: run xfs_repair";
        return Ok(Some(Distrust::Dirty(why.into())));
    }
    if superblock.log_start == 0 {
        let why = "its log is on another device, so what is to be replayed is not known";
        return Ok(Some(Distrust::OtherDevice(why.into())));
    }
    if let LogState::Dirty(what) = log::state(source, superblock)? {
        let why = format!("dirty log ({what}): mount it once, or boot the machine and shut it down");
        return Ok(Some(Distrust::Dirty(why)));
    }
    if superblock.realtime_blocks != 0 {
        return Ok(Some(Distrust::OtherDevice("it has a realtime device".into())));
    }
    Ok(None)
}
