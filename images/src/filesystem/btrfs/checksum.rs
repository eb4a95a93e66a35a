// SPDX-License-Identifier: Apache-2.0
//! The four checksums of superblock and tree blocks.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

/// Bytes reserved for a checksum at the start of each structure; it covers all that follows.
pub(super) const FIELD: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    pub(super) fn from_number(number: u16) -> Option<Self> {
        [Self::Crc32c, Self::XxHash64, Self::Sha256, Self::Blake2b].get(usize::from(number)).copied()
    }

    /// As `mkfs.btrfs --csum` spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::XxHash64 => "xxhash",
            Self::Sha256 => "sha256",
            Self::Blake2b => "blake2",
        }
    }

    /// True if the checksum at the start of `data` is that of the rest.
    pub(super) fn matches(self, data: &[u8]) -> bool {
        let Some((stored, data)) = data.split_at_checked(FIELD) else { return false };
        match self {
            Self::Crc32c => stored.starts_with(&crc32c::crc32c(data).to_le_bytes()),
            Self::XxHash64 => stored.starts_with(&twox_hash::XxHash64::oneshot(0, data).to_le_bytes()),
            Self::Sha256 => stored == sha2::Sha256::digest(data).as_slice(),
            Self::Blake2b => stored == Blake2b::<U32>::digest(data).as_slice(),
        }
    }
}
