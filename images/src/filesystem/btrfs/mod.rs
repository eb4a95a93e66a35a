// SPDX-License-Identifier: Apache-2.0
//! btrfs on one device (kernel `include/uapi/linux/btrfs_tree.h`; "On-disk format" of the btrfs documentation).
//!
//! ```text
//!   superblock (64 KiB) --sys_chunk_array--> chunk tree: logical address -> place on the device, once or twice (dup)
//!        |
//!        +--> root tree --> extent tree: every extent in use, by logical address
//!                      \--> block group tree (or in the extent tree): how much of each chunk is in use
//! ```
//!
//! Used is the first MiB, the superblock copies, and each extent wherever its chunk puts it. The extents of a
//! block group must add up to what the group says, so that no part of the tree can be missed unseen.

mod checksum;
mod chunks;
mod extents;
pub(super) mod files;
mod superblock;
#[cfg(test)]
mod tests;
mod tree;
mod uuid;

use crate::filesystem::{Condition, FilesystemFacts, FilesystemKind, Used};
use crate::parse::{c_text, uuid_text};
use crate::{BlockSource, Error, Result};
use superblock::Superblock;
pub(super) use uuid::change_uuid;

/// Tells whether a btrfs is on `source`, and what its superblock says of it.
///
/// `Ok(None)` without the magic at 64 KiB; an error of kind `Malformed` or `Unsupported` where the magic is right
/// and the rest is not.
pub fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    let Some(superblock) = Superblock::read(source)? else { return Ok(None) };
    let label = c_text(&superblock.label);
    Ok(Some(FilesystemFacts {
        kind: FilesystemKind::Btrfs,
        uuid: Some(uuid_text(&superblock.fsid)),
        label: (!label.is_empty()).then_some(label),
        block_size: superblock.sector_size,
        size_bytes: superblock.device_bytes,
        condition: superblock.pending().map_or(Condition::Clean, Condition::Dirty),
        max_sector_size: superblock.sector_size,
        features: superblock.feature_names(),
    }))
}

/// The bytes of the btrfs on `source` that are in use.
///
/// Everything where a log is to be replayed, other devices belong to it or a profile other than single and dup is
/// in use; an error of kind `Malformed` or `Unsupported` where its structures contradict themselves or a feature is
/// not known.
pub fn used(source: &dyn BlockSource) -> Result<Used> {
    let superblock = Superblock::read(source)?.ok_or_else(|| {
        Error::malformed("reading the btrfs superblock", "no btrfs magic").at(superblock::AT)
    })?;
    if let Some(why) = superblock.pending().or_else(|| superblock.other_devices()) {
        return Ok(Used::everything(source.size(), why));
    }
    superblock.refuse_unknown_features()?;
    if superblock.device_bytes > source.size() {
        return Err(Error::malformed(
            "reading the btrfs superblock",
            format!("it covers {} bytes, the partition has {}", superblock.device_bytes, source.size()),
        )
        .at(superblock::AT));
    }
    extents::used(source, &superblock)
}
