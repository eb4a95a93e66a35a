// SPDX-License-Identifier: Apache-2.0
//! Chunks: where logical addresses lie on the device.

use super::superblock::Superblock;
use super::tree::{Key, LEN_OF_KEY};
use crate::parse::Bytes;
use crate::{Error, Result};

const CHUNK_ITEM: u8 = 228;
/// Of tree `CHUNK`.
const FIRST_CHUNK: u64 = 256;
/// 1 GiB each where there are many: a PiB. Beyond it the map would no longer be small.
const MOST: usize = 1 << 20;
/// DATA, SYSTEM, METADATA and DUP; anything else is a way to spread over devices.
const KNOWN_TYPES: u64 = 1 | 2 | 4 | DUP;
const DUP: u64 = 1 << 5;

/// One run of logical addresses.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chunk {
    pub(super) logical: u64,
    pub(super) len: u64,
    /// Byte addresses on the device: one, or two with equal content.
    pub(super) places: Vec<u64>,
}

/// All chunks by logical address.
#[derive(Debug, Default)]
pub(super) struct Chunks(Vec<Chunk>);

/// A chunk, or why there is no single-device map.
pub(super) enum Parsed {
    Chunk(Chunk),
    Elsewhere(String),
}

impl Chunks {
    /// The chunks of the superblock, which hold the chunk tree.
    pub(super) fn of_superblock(superblock: &Superblock) -> Result<std::result::Result<Self, String>> {
        let raw = Bytes::new(&superblock.system_chunks, "the array of system chunks");
        let (mut chunks, mut at) = (Self::default(), 0);
        while at < raw.len() {
            let key = Key::read(raw, at)?;
            at += LEN_OF_KEY;
            let stripes = usize::from(raw.u16_le(at + 44)?);
            let len = 48 + 32 * stripes;
            match parse(superblock, key, raw.sub(at, len)?)? {
                Some(Parsed::Chunk(chunk)) => chunks.add(chunk)?,
                Some(Parsed::Elsewhere(why)) => return Ok(Err(why)),
                None => return Err(Error::malformed("reading the system chunks", "an item of another kind")),
            }
            at += len;
        }
        Ok(Ok(chunks))
    }

    /// Adds a chunk; a known one must be as it is known. Ascending order is cheapest.
    pub(super) fn add(&mut self, chunk: Chunk) -> Result<()> {
        let index = self.0.partition_point(|have| have.logical < chunk.logical);
        if self.0.get(index) == Some(&chunk) {
            return Ok(());
        }
        let before = index.checked_sub(1).and_then(|index| self.0.get(index));
        let clear = before.is_none_or(|have| have.logical + have.len <= chunk.logical)
            && self.0.get(index).is_none_or(|have| chunk.logical + chunk.len <= have.logical);
        if !clear || self.0.len() >= MOST {
            return Err(
                Error::malformed("reading the chunks", "they overlap or are too many").at(chunk.logical)
            );
        }
        self.0.insert(index, chunk);
        Ok(())
    }

    /// The chunk that holds all of `len` bytes from `logical`.
    pub(super) fn find(&self, logical: u64, len: u64) -> Result<usize> {
        let after = self.0.partition_point(|have| have.logical <= logical);
        let inside = after.checked_sub(1).filter(|&index| {
            let end = logical.checked_add(len);
            self.0.get(index).is_some_and(|chunk| end.is_some_and(|end| end <= chunk.logical + chunk.len))
        });
        inside.ok_or_else(|| {
            Error::malformed(
                "looking up a logical address",
                format!("{len} bytes at {logical:#x} lie in no chunk"),
            )
        })
    }

    pub(super) fn get(&self, index: usize) -> Result<&Chunk> {
        self.0.get(index).ok_or_else(|| Error::malformed("looking up a chunk", "no such chunk"))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.0.iter()
    }
}

/// `None` for an item of another kind.
pub(super) fn parse(superblock: &Superblock, key: Key, item: Bytes<'_>) -> Result<Option<Parsed>> {
    if key.kind != CHUNK_ITEM || key.object != FIRST_CHUNK {
        return Ok(None);
    }
    let (len, kind, stripes) = (item.u64_le(0)?, item.u64_le(24)?, usize::from(item.u16_le(44)?));
    if kind & !KNOWN_TYPES != 0 {
        return Ok(Some(Parsed::Elsewhere(format!(
            "a chunk has profile bits {:#x} (raid)",
            kind & !KNOWN_TYPES
        ))));
    }
    let bad = |why: String| Error::malformed("reading a chunk", why).at(key.offset);
    if stripes != if kind & DUP != 0 { 2 } else { 1 } {
        return Err(bad(format!("{stripes} stripes with profile bits {kind:#x}")));
    }
    let sector = u64::from(superblock.sector_size);
    let end = key.offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
    if len == 0 || !len.is_multiple_of(sector) || !key.offset.is_multiple_of(sector) || end.is_none() {
        return Err(bad(format!("a length of {len}")));
    }
    let mut places = Vec::new();
    for stripe in 0..stripes {
        let (device, place) = (item.u64_le(48 + stripe * 32)?, item.u64_le(56 + stripe * 32)?);
        if device != superblock.device_id {
            return Ok(Some(Parsed::Elsewhere(format!("a chunk lies on device {device}"))));
        }
        if place.checked_add(len).is_none_or(|end| end > superblock.device_bytes) {
            return Err(bad(format!("{len} bytes at {place:#x} lie beyond the device")));
        }
        places.push(place);
    }
    Ok(Some(Parsed::Chunk(Chunk { logical: key.offset, len, places })))
}
