// SPDX-License-Identifier: Apache-2.0
//! Files of a filesystem, read from the raw bytes: small ones, by path, without mounting.
//!
//! ```text
//!   Limited source --open--> Volume (ext, XFS, btrfs, FAT: inodes) --> Tree (paths, links within its root)
//! ```
//!
//! For looking at a system only, so everything is bounded: a volume reads at most [`Limited`]'s bytes, which ends every loop
//! that bad structures could make. Two crates were looked at first: `ext4-view` reads no volume with inodes of 128 bytes and
//! reserves memory by fields of the disk, `lamxfs` reserves it by the length of links.

mod limited;
#[cfg(test)]
mod tests;
mod tree;

pub use limited::Limited;
pub use tree::Tree;

use super::{FilesystemKind, btrfs, ext, fat, xfs};
use crate::{BlockSource, Error, RangeSet, Result};

/// A file, directory or link. What the numbers mean is the volume's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64, pub u64);

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Link,
    /// Device, socket, pipe.
    Other,
}

impl Kind {
    /// From the type bits of `st_mode`.
    pub(super) fn from_mode(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Link,
            _ => Self::Other,
        }
    }
}

/// An inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: Id,
    /// What it is.
    pub kind: Kind,
    /// Length of its content in bytes, as it says.
    pub size: u64,
}

/// What an inode says of itself besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Type and permissions, as `st_mode` has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that it has; of a directory what the filesystem counts.
    pub links: u32,
    /// Numbers of the device, as `st_rdev` has them; 0 for all else.
    pub device: u64,
    /// When the content was changed: seconds since 1970, and nanoseconds. `None` where it is not known.
    pub modified: Option<(i64, u32)>,
    /// When content or status were changed.
    pub changed: Option<(i64, u32)>,
}

impl Status {
    /// Where nothing is recorded, as on FAT.
    fn of_kind(kind: Kind) -> Self {
        let mode = match kind {
            Kind::File => 0o100_644,
            Kind::Directory => 0o040_755,
            Kind::Link => 0o120_777,
            Kind::Other => 0o600,
        };
        Self { mode, uid: 0, gid: 0, links: 1, device: 0, modified: None, changed: None }
    }
}

/// Where a run of a file's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte in the file.
    pub logical: u64,
    /// In bytes of the file.
    pub len: u64,
    /// First byte of the filesystem.
    pub physical: u64,
    /// In bytes of the filesystem: fewer where it is compressed.
    pub stored: u64,
    /// Bytes of what is stored there that come before it.
    pub skip: u64,
}

impl From<Piece> for Run {
    fn from(piece: Piece) -> Self {
        let Piece { logical, physical, len } = piece;
        Self { logical, len, physical, stored: len, skip: 0 }
    }
}

/// More of a directory than this is not read, in bytes.
pub(super) const MOST_DIRECTORY: u64 = 64 << 20;

/// A filesystem whose files can be read.
pub trait Volume: Send {
    /// The directory that a mount without options shows.
    fn root(&self) -> Id;

    /// Other directories that a mount may show as root, with the name that chooses them: btrfs' subvolumes.
    fn other_roots(&mut self) -> Result<Vec<(String, Id)>> {
        Ok(Vec::new())
    }

    /// What `id` is.
    fn node(&mut self, id: Id) -> Result<Node>;

    /// Calls `visit` with name and number of each entry of a directory, in no order, until it answers false. Entries "."
    /// and ".." may be among them.
    fn entries(&mut self, directory: Id, visit: &mut dyn FnMut(&[u8], Id) -> bool) -> Result<()>;

    /// Up to `len` bytes of a file's content or a link's target from byte `offset`; fewer only at its end. Holes are zeros.
    fn read(&mut self, id: Id, offset: u64, len: usize) -> Result<Vec<u8>>;

    /// What `id` says of itself.
    fn status(&mut self, id: Id) -> Result<Status> {
        Ok(Status::of_kind(self.node(id)?.kind))
    }

    /// Where the content of `id` lies, in order; what no run covers is zeros. `None` where it has no place of its own: in an
    /// inode, in a tree's leaf.
    fn runs(&mut self, id: Id) -> Result<Option<Vec<Run>>> {
        let _ = id;
        Ok(None)
    }

    /// Ranges of the filesystem that are shown otherwise than they are on disk: what was replayed from a journal.
    fn replaced(&self) -> RangeSet {
        RangeSet::new()
    }

    /// Whether an entry named `found` is what `wanted` means.
    fn same_name(&self, wanted: &[u8], found: &[u8]) -> bool {
        wanted == found
    }

    /// What the reader should know of what is shown, such as changes that wait in a log.
    fn note(&self) -> Option<String> {
        None
    }
}

/// Opens the filesystem at byte 0 of `source`.
///
/// # Errors
///
/// `Unsupported` for kinds that have no reader and for features that change where files lie; `Malformed` for broken
/// structures.
pub fn open<'a>(source: &'a Limited<'a>, kind: FilesystemKind) -> Result<Box<dyn Volume + 'a>> {
    match kind {
        FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => ext::files::open(source),
        FilesystemKind::Xfs => xfs::files::open(source),
        FilesystemKind::Btrfs => btrfs::files::open(source),
        FilesystemKind::Fat12 | FilesystemKind::Fat16 | FilesystemKind::Fat32 => fat::files::open(source),
        _ => Err(Error::unsupported(
            format!("reading files of {}", kind.name()),
            "files of this filesystem are not read yet",
        )),
    }
}

/// A range of a file that lies in one piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// First byte in the file.
    pub(super) logical: u64,
    /// First byte of the filesystem.
    pub(super) physical: u64,
    /// In bytes.
    pub(super) len: u64,
}

/// Puts pieces together to bytes `offset..offset + len` of a file; what no piece covers is zero.
pub(super) fn gather(source: &dyn BlockSource, pieces: &[Piece], offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    let end = offset.saturating_add(len as u64);
    for piece in pieces {
        let (from, to) = (piece.logical.max(offset), piece.logical.saturating_add(piece.len).min(end));
        if from >= to {
            continue;
        }
        let at = piece.physical.saturating_add(from - piece.logical);
        if let Some(part) = out.get_mut((from - offset) as usize..(to - offset) as usize) {
            source.read_at(part, at)?;
        }
    }
    Ok(out)
}
