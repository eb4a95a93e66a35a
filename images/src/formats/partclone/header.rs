// SPDX-License-Identifier: Apache-2.0
//! The header of an image, in both versions.

use std::io::Read;

use super::MAGIC;
use super::blocks::{Blocks, Builder};
use super::sum::{Kind, crc32};
use crate::parse::{Bytes, c_text};
use crate::{Error, Result};

/// Largest block that partclone itself takes (`MAX_BLOCK_SIZE`), and what a reader holds of a strip at a time.
const MOST_BLOCK: u32 = 1 << 24;
/// Largest filesystem, 1 PiB.
const LARGEST: u64 = 1 << 50;
const V1: usize = 4160;
const V2: usize = 110;
/// What follows version 1's map of bytes.
const MAP_END: &[u8] = b"BiTmAgIc";

/// What an image says of itself.
#[derive(Debug, Clone)]
pub struct Header {
    /// "EXTFS", "XFS", "NTFS", "BTRFS", "FAT32", "raw"; for people.
    pub filesystem: String,
    /// 1 or 2.
    pub version: u8,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the filesystem.
    pub total_blocks: u64,
    /// Bytes of the device that it was on; at least its blocks, but for a last one that is not whole.
    pub size: u64,
    pub(super) sum: Kind,
    /// Blocks behind which a checksum stands; 0 for none.
    pub(super) strip: u32,
    /// Each checksum is of its strip alone.
    pub(super) reseed: bool,
}

/// How the map of used blocks is written.
enum Map {
    /// Every block is here.
    None,
    Bits,
    Bytes,
}

fn broken(because: impl Into<String>) -> Error {
    Error::malformed("reading a partclone image's header", because.into())
}

impl Header {
    /// Reads header and map; what is left in `input` are the blocks.
    pub(super) fn read(input: &mut dyn Read) -> Result<(Self, Blocks)> {
        let mut raw = vec![0; V2];
        fill(input, &mut raw, "the header")?;
        if !raw.starts_with(MAGIC) {
            return Err(broken("its magic is not there"));
        }
        let (header, map) = match raw.get(30..34) {
            Some(b"0001") => {
                raw.resize(V1, 0);
                fill(input, raw.get_mut(V2..).unwrap_or_default(), "the header")?;
                Self::v1(Bytes::new(&raw, "partclone header"))?
            }
            Some(b"0002") => Self::v2(Bytes::new(&raw, "partclone header"))?,
            other => {
                let version = c_text(other.unwrap_or_default());
                return Err(Error::unsupported(
                    "reading a partclone image's header",
                    format!("it is of version {version:?}, and 0001 and 0002 are known"),
                ));
            }
        };
        let blocks = header.map(&map, input)?;
        Ok((header, blocks))
    }

    fn v1(raw: Bytes<'_>) -> Result<(Self, Map)> {
        let header = Self {
            filesystem: c_text(raw.slice(15, 15)?),
            version: 1,
            block_size: raw.u32_le(36)?,
            total_blocks: raw.u64_le(48)?,
            size: raw.u64_le(40)?,
            sum: Kind::FirstByte,
            strip: 1,
            reseed: false,
        };
        Ok((header.checked()?, Map::Bytes))
    }

    fn v2(raw: Bytes<'_>) -> Result<(Self, Map)> {
        if crc32(raw.slice(0, V2 - 4)?) != raw.u32_le(V2 - 4)? {
            return Err(broken("its checksum is not that of its content"));
        }
        match raw.u16_le(34)? {
            0xC0DE => {}
            0xDEC0 => {
                let because = "it was made on a big-endian machine";
                return Err(Error::unsupported("reading a partclone image's header", because));
            }
            _ => return Err(broken("its byte order is none")),
        }
        let (features, bits) = (raw.u32_le(88)?, raw.u16_le(94)?);
        if features != 18 || !matches!(bits, 32 | 64) {
            let because = format!("it has {features} bytes of options, and 18 are known");
            return Err(Error::unsupported("reading a partclone image's header", because));
        }
        let (mode, size) = (raw.u16_le(96)?, raw.u16_le(98)?);
        let sum = Kind::of(mode).filter(|kind| kind.size() == usize::from(size));
        let sum = sum.ok_or_else(|| {
            let because = format!("its checksums are of a kind ({mode:#x}, {size} bytes) that is not known");
            Error::unsupported("reading a partclone image's header", because)
        })?;
        let map = match raw.u8(105)? {
            0 => Map::None,
            1 => Map::Bits,
            8 => Map::Bytes,
            mode => {
                let because = format!("its map is of a kind ({mode}) that is not known");
                return Err(Error::unsupported("reading a partclone image's header", because));
            }
        };
        let header = Self {
            filesystem: c_text(raw.slice(36, 16)?),
            version: 2,
            block_size: raw.u32_le(84)?,
            total_blocks: raw.u64_le(60)?,
            size: raw.u64_le(52)?,
            strip: if sum == Kind::None { 0 } else { raw.u32_le(100)? },
            reseed: raw.u8(104)? != 0,
            sum,
        };
        if header.sum != Kind::None && header.strip == 0 {
            return Err(broken("it has checksums, and no block belongs to one"));
        }
        Ok((header.checked()?, map))
    }

    fn checked(mut self) -> Result<Self> {
        if self.block_size == 0 || self.block_size > MOST_BLOCK {
            return Err(broken(format!("a block of {} bytes is impossible", self.block_size)));
        }
        let blocks = self.total_blocks.checked_mul(self.block_size.into()).filter(|len| *len <= LARGEST);
        let blocks = blocks.ok_or_else(|| broken("the filesystem is larger than 1 PiB"))?;
        // An image of a pipe does not know its device, and the last block of a device may not be whole.
        if self.size == 0 || self.size > LARGEST || blocks.saturating_sub(self.size) >= self.block_size.into()
        {
            self.size = blocks;
        }
        Ok(self)
    }

    fn map(&self, map: &Map, input: &mut dyn Read) -> Result<Blocks> {
        let mut builder = Builder::new(self.total_blocks);
        let mut buffer = vec![0; 64 << 10];
        let mut crc = !0;
        let (per_byte, mut left) = match map {
            Map::None => {
                builder.push(self.total_blocks, true)?;
                return Ok(builder.finish());
            }
            Map::Bits => (8, self.total_blocks.div_ceil(8)),
            Map::Bytes => (1, self.total_blocks),
        };
        let mut rest = self.total_blocks;
        while left > 0 {
            let len = left.min(buffer.len() as u64);
            let part = buffer.get_mut(..len as usize).unwrap_or_default();
            fill(input, part, "the map of used blocks")?;
            crc = super::sum::crc32_more(crc, part);
            for byte in part.iter() {
                let count = rest.min(per_byte);
                match (per_byte, *byte) {
                    // Other values than 0 and 1 are those of a bug, and mean that the block is not there.
                    (1, byte) => builder.push(1, byte == 1)?,
                    (_, 0) => builder.push(count, false)?,
                    (_, 0xff) => builder.push(count, true)?,
                    (_, byte) => {
                        for bit in 0..count {
                            builder.push(1, byte >> bit & 1 != 0)?;
                        }
                    }
                }
                rest -= count;
            }
            left -= len;
        }
        let mut end = [0; 8];
        if self.version == 1 {
            fill(input, &mut end, "the end of the map")?;
            if end != MAP_END {
                return Err(broken("the map of used blocks does not end with its mark"));
            }
        } else if matches!(map, Map::Bits) {
            let (sum, _) = end.split_at_mut(4);
            fill(input, sum, "the map's checksum")?;
            if sum != crc.to_le_bytes().as_slice() {
                return Err(broken("the checksum of the map of used blocks is another one"));
            }
        }
        Ok(builder.finish())
    }
}

pub(super) fn fill(input: &mut dyn Read, buf: &mut [u8], what: &'static str) -> Result<()> {
    input.read_exact(buf).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::malformed(
            format!("reading {what} of a partclone image"),
            "the image ends there: it was cut off",
        ),
        _ => Error::io(format!("reading {what} of a partclone image"), error),
    })
}
