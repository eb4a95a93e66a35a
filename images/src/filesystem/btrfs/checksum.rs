// SPDX-License-Identifier: Apache-2.0
//! The four checksums of superblock and tree blocks.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

use crate::identity::put;

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
        let sum = self.of(data);
        stored.starts_with(sum.get(..self.len()).unwrap_or(&sum))
    }

    /// Puts the checksum of the rest at the start of `data`; what of its place it does not need becomes zero.
    pub(super) fn seal(self, data: &mut [u8]) {
        if let Some((stored, data)) = data.split_at_mut_checked(FIELD) {
            stored.copy_from_slice(&self.of(data));
        }
    }

    /// Bytes that count.
    fn len(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::XxHash64 => 8,
            Self::Sha256 | Self::Blake2b => FIELD,
        }
    }

    fn of(self, data: &[u8]) -> [u8; FIELD] {
        let mut sum = [0; FIELD];
        match self {
            Self::Crc32c => put(&mut sum, 0, &crc32c::crc32c(data).to_le_bytes()),
            Self::XxHash64 => put(&mut sum, 0, &twox_hash::XxHash64::oneshot(0, data).to_le_bytes()),
            Self::Sha256 => put(&mut sum, 0, sha2::Sha256::digest(data).as_slice()),
            Self::Blake2b => put(&mut sum, 0, Blake2b::<U32>::digest(data).as_slice()),
        }
        sum
    }
}
