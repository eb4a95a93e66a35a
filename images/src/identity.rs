// SPDX-License-Identifier: Apache-2.0
//! What lies on a disk is known by UUIDs; here it gets others, as bytes to write.
//!
//! ```text
//!   filesystem::identity::change   superblocks (all copies), XFS' log, FAT's and swap's headers
//!   volume::luks::change           the header, twice
//!   volume::md::change             a member's superblock and bitmap
//!   volume::lvm::change            labels and metadata of all physical volumes of a group
//!   partition::identity::change    disk and partition GUIDs, or an MBR's signature
//! ```
//!
//! Nothing else changes: labels, names and content stay. What would have to be rewritten as a whole for it is refused, and
//! so is what is not in order: what a log or journal holds would bring the old identity back.

/// Bytes to write: first byte, bytes. Disjoint.
pub type Writes = Vec<(u64, Vec<u8>)>;

/// A change of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As `blkid` prints it.
    pub old: String,
    /// As `blkid` will print it.
    pub new: String,
    /// What to write.
    pub writes: Writes,
    /// Features, by the names that [`FilesystemFacts::features`](crate::filesystem::FilesystemFacts) has for them, that the filesystem
    /// gets by it: a kernel or boot loader that does not know them cannot read it.
    pub adds: Vec<&'static str>,
}

/// Puts `field` at `at`, where the bytes reach that far.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = at.checked_add(field.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(field);
    }
}
