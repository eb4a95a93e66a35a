// SPDX-License-Identifier: Apache-2.0
//! Checksums of blocks.

use std::hash::Hasher;

/// Kinds of checksums, by partclone's numbers (`checksum.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    Crc32,
    Xxh64,
    Xxh128,
    /// Version 1's CRC-32, which takes a block's first byte again and again instead of all its bytes.
    FirstByte,
}

impl Kind {
    pub(super) fn of(mode: u16) -> Option<Self> {
        Some(match mode {
            0 => Self::None,
            0x20 => Self::Crc32,
            0x30 => Self::Xxh64,
            0x31 => Self::Xxh128,
            0xff => Self::FirstByte,
            _ => return None,
        })
    }

    /// Bytes of one.
    pub(super) fn size(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32 | Self::FirstByte => 4,
            Self::Xxh64 => 8,
            Self::Xxh128 => 16,
        }
    }
}

/// A checksum under way.
#[derive(Clone)]
pub(super) enum Sum {
    None,
    Crc32(u32),
    FirstByte(u32),
    Xxh64(twox_hash::XxHash64),
    Xxh128(Box<twox_hash::XxHash3_128>),
}

impl Sum {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::None => Self::None,
            Kind::Crc32 => Self::Crc32(!0),
            Kind::FirstByte => Self::FirstByte(!0),
            Kind::Xxh64 => Self::Xxh64(twox_hash::XxHash64::with_seed(0)),
            Kind::Xxh128 => Self::Xxh128(Box::new(twox_hash::XxHash3_128::with_seed(0))),
        }
    }

    /// Takes whole blocks of `block_size` bytes.
    pub(super) fn update(&mut self, blocks: &[u8], block_size: usize) {
        match self {
            Self::None => {}
            Self::Crc32(crc) => *crc = crc32_more(*crc, blocks),
            Self::FirstByte(crc) => {
                for block in blocks.chunks(block_size.max(1)) {
                    let mut same = [0; 4096];
                    same.fill(block.first().copied().unwrap_or(0));
                    let mut left = block.len();
                    while left > 0 {
                        let part = left.min(same.len());
                        *crc = crc32_more(*crc, same.get(..part).unwrap_or(&same));
                        left -= part;
                    }
                }
            }
            Self::Xxh64(hasher) => hasher.write(blocks),
            Self::Xxh128(hasher) => hasher.write(blocks),
        }
    }

    /// As it stands in an image.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Crc32(crc) | Self::FirstByte(crc) => crc.to_le_bytes().to_vec(),
            Self::Xxh64(hasher) => hasher.finish().to_le_bytes().to_vec(),
            Self::Xxh128(hasher) => hasher.finish_128().to_le_bytes().to_vec(),
        }
    }
}

/// CRC-32 without its final inversion.
pub(super) fn crc32(data: &[u8]) -> u32 {
    crc32_more(!0, data)
}

/// The same, going on from `crc`.
pub(super) fn crc32_more(crc: u32, data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!crc);
    hasher.update(data);
    !hasher.finalize()
}
