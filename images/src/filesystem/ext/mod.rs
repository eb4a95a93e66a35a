// SPDX-License-Identifier: Apache-2.0
//! ext2, ext3 and ext4, read from the raw bytes.
//!
//! ```text
//!   superblock -> geometry -> group descriptors -> block bitmaps -> used ranges
//!                     `-> journal inode -> log -> overlay --^ (once more, as it will be after a replay)
//! ```
//!
//! Everything that has a checksum is held against it: superblock, descriptors, bitmaps, the journal with its inode
//! and extent tree. What has none is held against the free counts.

mod bitmap;
mod checksum;
mod features;
pub(super) mod files;
mod groups;
mod inode;
mod journal;
mod log_block;
mod overlay;
mod superblock;
#[cfg(test)]
mod tests;
mod uuid;

use bitmap::Check;
use features::Generation;
use groups::Geometry;
use journal::Journal;
use overlay::Overlay;
use superblock::Superblock;
pub(super) use uuid::change_uuid;

use super::{Condition, FilesystemFacts, FilesystemKind, Used};
use crate::parse::uuid_text;
use crate::{BlockSource, Error, ErrorKind, RangeSet, Result};

/// ext2, ext3, ext4 or an ext journal device at byte 0 of `source`. See [`super::probe`].
pub(super) fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    let Some(sb) = Superblock::read(source)? else { return Ok(None) };
    let condition = if sb.needs_recovery() {
        Condition::Dirty("the journal has changes to replay: it was in use or not unmounted".into())
    } else if let Some(reason) = sb.distrust().filter(|_| !sb.is_journal_device()) {
        Condition::Dirty(reason.into())
    } else {
        Condition::Clean
    };
    Ok(Some(FilesystemFacts {
        kind: match sb.features.generation() {
            Generation::Ext2 => FilesystemKind::Ext2,
            Generation::Ext3 => FilesystemKind::Ext3,
            Generation::Ext4 => FilesystemKind::Ext4,
            Generation::JournalDevice => FilesystemKind::Jbd,
        },
        uuid: (sb.uuid != [0; 16]).then(|| uuid_text(&sb.uuid)),
        label: Some(sb.label.clone()).filter(|label| !label.is_empty()),
        block_size: sb.block_size,
        size_bytes: sb.size_bytes(),
        condition,
        // Larger blocks mount on 4096-byte sectors too; larger sectors than these do not exist.
        max_sector_size: sb.block_size.min(4096),
        features: sb.features.names(),
    }))
}

/// Which bytes the ext filesystem or journal device uses. See [`super::used`].
pub(super) fn used(source: &dyn BlockSource) -> Result<Used> {
    let Some(sb) = Superblock::read(source)? else {
        return Err(
            Error::malformed("reading the ext superblock", "its magic is gone").at(superblock::OFFSET)
        );
    };
    if sb.is_journal_device() {
        return Ok(Used::everything(
            source.size(),
            "it is the journal of an ext filesystem on another device",
        ));
    }
    let geometry = Geometry::new(sb, source.size())?;
    let sb = &geometry.sb;
    if let Some(uuid) = sb.external_journal() {
        return Ok(Used::everything(
            source.size(),
            format!(
                "its journal is on another device, with UUID {uuid}; capture that device too, or remove the \
                 journal with tune2fs -O ^has_journal"
            ),
        ));
    }
    if let Some(reason) = sb.distrust() {
        return Ok(Used::everything(source.size(), format!("{reason}; run e2fsck -f on it")));
    }
    if !sb.has_journal() {
        let mut ranges = RangeSet::new();
        bitmap::used(source, &geometry, Check::Yes, &mut ranges)?;
        return Ok(Used { ranges, ..Used::default() });
    }
    match with_journal(source, &geometry) {
        Err(error) if matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Unsupported) => {
            if sb.needs_recovery() {
                return Ok(Used::everything(
                    source.size(),
                    format!(
                        "the filesystem was not unmounted and what its journal would change is not sure ({}); \
                         boot the machine and shut it down, or mount the filesystem once",
                        error.chain()
                    ),
                ));
            }
            Err(error)
        }
        result => result,
    }
}

/// Which bytes it uses by its bitmaps as they are on the disk, mounted as it is. See [`super::used_mounted`].
pub(super) fn used_mounted(source: &dyn BlockSource) -> Result<Used> {
    let Some(sb) = Superblock::read(source)? else {
        return Err(
            Error::malformed("reading the ext superblock", "its magic is gone").at(superblock::OFFSET)
        );
    };
    let geometry = Geometry::new(sb, source.size())?;
    let mut ranges = RangeSet::new();
    bitmap::used(source, &geometry, Check::No, &mut ranges)?;
    Ok(Used { ranges, ..Used::default() })
}

fn with_journal(source: &dyn BlockSource, geometry: &Geometry) -> Result<Used> {
    let sb = &geometry.sb;
    let journal = Journal::open(source, geometry)?;
    if journal.has_error() {
        return Ok(Used::everything(
            source.size(),
            "the kernel recorded an error in its journal; run e2fsck -f on it",
        ));
    }
    let mut ranges = RangeSet::new();
    if journal.is_empty() {
        // Everything committed has reached its place, whether or not the filesystem is mounted.
        bitmap::used(source, geometry, Check::Yes, &mut ranges)?;
        return Ok(Used { ranges, ..Used::default() });
    }
    if !sb.needs_recovery() {
        return Ok(Used::everything(
            source.size(),
            "its journal has changes though the superblock says that there are none; run e2fsck on it",
        ));
    }
    let after = Overlay::new(source, sb.block_size, journal.replay()?);
    let Some(sb_after) = Superblock::read(&after)? else {
        return Err(Error::malformed("replaying the journal", "it overwrites the superblock"));
    };
    if let Some(reason) = sb_after.distrust() {
        return Ok(Used::everything(source.size(), format!("{reason}; run e2fsck -f on it")));
    }
    if sb_after.block_size != sb.block_size || sb_after.journal_inode != sb.journal_inode {
        return Err(Error::malformed("replaying the journal", "it contradicts the superblock"));
    }
    let geometry_after = Geometry::new(sb_after, source.size())?;
    // Before: what a reader sees that does not replay (`mount -o ro,noload`, `e2fsck -n`). After: what counts.
    bitmap::used(source, geometry, Check::No, &mut ranges)?;
    bitmap::used(&after, &geometry_after, Check::Yes, &mut ranges)?;
    let warning = format!(
        "the filesystem was not unmounted: its journal was replayed in memory ({} blocks), and what is in use before or \
         after the replay is kept",
        after.len()
    );
    Ok(Used { ranges, warnings: vec![warning], everything_because: None })
}
