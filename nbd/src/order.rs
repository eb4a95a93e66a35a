// SPDX-License-Identifier: Apache-2.0
//! The order in which a machine read its disk while it booted: recorded once, followed by later boots' read-ahead.
//!
//! ```text
//!   0  "UNMOOR-ORDER\0\0\0\0"   16  version u32, bytes of a piece u32    24  size of the disk u64
//!   32 identity of the image    64  number of pieces u32                 68  pieces: u32 each
//!   at the end: CRC-32C of all before it                                 (integers are little-endian)
//! ```

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use unmoor_images::parse::Bytes;
use unmoor_images::{Error, Result, manifest};

use crate::cache::PIECE;

const MAGIC: &[u8; 16] = b"UNMOOR-ORDER\0\0\0\0";
const VERSION: u32 = 1;
const PIECES_AT: usize = 68;
/// Most pieces of an order: 4 GiB of disk.
const MOST: usize = 16 * 1024;
/// How long a boot is watched.
const WATCHED: Duration = Duration::from_secs(600);

/// Pieces of a disk in the order of their first use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Numbers of pieces of [`PIECE`] bytes, each once.
    pub pieces: Vec<u64>,
}

impl Order {
    /// First bytes of its pieces.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.pieces.iter().map(|piece| piece.saturating_mul(PIECE))
    }

    /// The bytes of a file for an image with this identity.
    pub fn encode(&self, identity: &[u8; 32]) -> Vec<u8> {
        let mut raw = MAGIC.to_vec();
        raw.extend(VERSION.to_le_bytes());
        raw.extend((PIECE as u32).to_le_bytes());
        raw.extend(self.size.to_le_bytes());
        raw.extend(identity);
        // A disk is smaller than 2^32 pieces, which are 1 PiB.
        let pieces: Vec<u32> =
            self.pieces.iter().take(MOST).filter_map(|piece| u32::try_from(*piece).ok()).collect();
        raw.extend((pieces.len() as u32).to_le_bytes());
        raw.extend(pieces.iter().flat_map(|piece| piece.to_le_bytes()));
        raw.extend(crc32c::crc32c(&raw).to_le_bytes());
        raw
    }

    /// Takes a file apart.
    ///
    /// # Errors
    ///
    /// `Malformed` for damage, `Mismatch` for the order of another image.
    pub fn decode(raw: &[u8], identity: &[u8; 32]) -> Result<Self> {
        let doing = "reading the order of a boot";
        let bytes = Bytes::new(raw, "the order of a boot");
        if bytes.slice(0, MAGIC.len())? != MAGIC {
            return Err(Error::malformed(doing, "it is not one: its first bytes are others"));
        }
        if bytes.u32_le(16)? != VERSION || u64::from(bytes.u32_le(20)?) != PIECE {
            return Err(Error::unsupported(doing, "it is of another version"));
        }
        let (size, count) = (bytes.u64_le(24)?, bytes.u32_le(64)? as usize);
        let end = PIECES_AT + count.min(MOST) * 4;
        if count > MOST
            || bytes.len() != end + 4
            || bytes.u32_le(end)? != crc32c::crc32c(bytes.slice(0, end)?)
        {
            return Err(Error::malformed(doing, "its length or its checksum is wrong"));
        }
        if bytes.slice(32, 32)? != identity {
            return Err(
                Error::new(unmoor_images::ErrorKind::Mismatch, doing).because("it is of another image")
            );
        }
        let pieces = (0..count).map(|index| bytes.u32_le(PIECES_AT + index * 4).map(u64::from));
        let pieces: Vec<u64> = pieces.collect::<Result<_>>()?;
        let mut seen = HashSet::new();
        if !pieces.iter().all(|piece| *piece < size.div_ceil(PIECE) && seen.insert(*piece)) {
            return Err(Error::malformed(doing, "a piece is named twice or lies behind the disk's end"));
        }
        Ok(Self { size, pieces })
    }

    /// Reads the order that lies at `path`; `None` where there is none.
    pub fn read(path: &Path, identity: &[u8; 32]) -> Result<Option<Self>> {
        let failed = |error| Error::io("reading the order of a boot", error).path(path);
        let len = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?.len(),
        };
        if len > (PIECES_AT + MOST * 4 + 4) as u64 {
            return Err(Error::malformed("reading the order of a boot", "it is too large").path(path));
        }
        Self::decode(&std::fs::read(path).map_err(failed)?, identity).map(Some)
    }

    /// Writes it: whole, or not at all.
    pub fn write(&self, path: &Path, identity: &[u8; 32]) -> Result<()> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| Error::io("creating", error).path(folder))?;
        }
        manifest::write_durably(path, &self.encode(identity))
    }
}

/// An order in the making: from the first read on, ten minutes or 4 GiB of different pieces long.
#[derive(Debug)]
pub struct Recording {
    order: Order,
    seen: HashSet<u64>,
    began: Option<Instant>,
}

impl Recording {
    /// An empty one, of a disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { order: Order { size, pieces: Vec::new() }, seen: HashSet::new(), began: None }
    }

    pub(crate) fn touch(&mut self, piece: u64) {
        if self.seen.len() >= MOST || self.seen.contains(&piece) {
            return;
        }
        if self.began.get_or_insert_with(Instant::now).elapsed() > WATCHED {
            return;
        }
        self.seen.insert(piece);
        self.order.pieces.push(piece);
    }

    /// What was recorded.
    pub fn into_order(self) -> Order {
        self.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_written_and_no_damage_passes() {
        let mut recording = Recording::new(1 << 30);
        [7, 3, 7, 4000, 3, 0].into_iter().for_each(|piece| recording.touch(piece));
        let order = recording.into_order();
        assert_eq!(order.pieces, [7, 3, 4000, 0]);
        let raw = order.encode(&[5; 32]);
        assert_eq!(Order::decode(&raw, &[5; 32]).unwrap(), order);
        assert_eq!(Order::decode(&raw, &[6; 32]).unwrap_err().kind(), unmoor_images::ErrorKind::Mismatch);
        for at in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[at] ^= 4;
            assert!(Order::decode(&damaged, &[5; 32]).is_err(), "byte {at}");
            assert!(Order::decode(&raw[..at], &[5; 32]).is_err(), "cut at {at}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/order");
        assert_eq!(Order::read(&path, &[5; 32]).unwrap(), None);
        order.write(&path, &[5; 32]).unwrap();
        assert_eq!(Order::read(&path, &[5; 32]).unwrap(), Some(order));
    }
}
