// SPDX-License-Identifier: Apache-2.0
//! A filesystem or swap area with another UUID.

#[cfg(test)]
mod tests;

use super::{FilesystemKind, btrfs, ext, fat, probe, swap, xfs};
use crate::identity::Change;
use crate::{BlockSource, Error, Result};

/// Plans the UUID `new` for the filesystem at byte 0 of `source`; of FAT's serial number it is the first four bytes.
///
/// # Errors
///
/// `Refused`, with the reason, where this filesystem cannot get another UUID, or not as it is; `Malformed`.
pub fn change(source: &dyn BlockSource, new: &[u8; 16]) -> Result<Change> {
    let facts = probe(source)?.ok_or_else(|| refused("there is no filesystem that is known"))?;
    match facts.kind {
        FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => ext::change_uuid(source, new),
        FilesystemKind::Xfs => xfs::change_uuid(source, new),
        FilesystemKind::Btrfs => btrfs::change_uuid(source, new),
        FilesystemKind::Fat12 | FilesystemKind::Fat16 | FilesystemKind::Fat32 => {
            let [a, b, c, d, ..] = *new;
            fat::change_serial(source, [a, b, c, d])
        }
        FilesystemKind::Swap => swap::change_uuid(source, new),
        FilesystemKind::Jbd => Err(refused(
            "it is the journal of a filesystem on another device, which knows it by its UUID: make that filesystem's journal an \
             internal one (tune2fs -O ^has_journal, then -j)",
        )),
        FilesystemKind::Ntfs | FilesystemKind::Exfat => {
            Err(refused("Windows' own records name it, and nothing of a Linux guest needs another one"))
        }
    }
}

pub(super) fn refused(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::refused("giving a filesystem another UUID", because)
}
