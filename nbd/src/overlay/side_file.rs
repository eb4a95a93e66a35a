// SPDX-License-Identifier: Apache-2.0
//! The file beside an overlay: of which image it is, and which granules it holds.
//!
//! ```text
//!   0     header, 512 bytes, written once:
//!           0  "UNMOOR-OVERLAY\0\0"      16  version u32, granule in bytes u32
//!          24  size of the disk u64      32  identity of the image, 32 bytes
//!          64  bytes of its name u16     66  its name, at most 256 bytes, for people
//!         508  CRC-32C of bytes 0..508                          (integers are little-endian)
//!   512   completion mark, 512 bytes: zeros, or since the overlay stands alone
//!           0  "COMPLETE"                508  CRC-32C of bytes 0..508
//!   4096  bitmap: bit n of byte m is granule 8 m + n, 512 bytes for 16 MiB of disk
//! ```
//!
//! Every part that is ever changed is one sector, and bits are only ever set, so that a torn write leaves nothing wrong: a
//! bit that is not set costs what was not flushed.

use std::fs::File;
use std::path::{Path, PathBuf};

use unmoor_images::parse::{Bytes, c_text};
use unmoor_images::{Error, Result, manifest};

use super::bitmap::{Bitmap, GRANULE, LEAF};
use super::storage::Storage;

const MAGIC: &[u8; 16] = b"UNMOOR-OVERLAY\0\0";
const COMPLETE: &[u8; 8] = b"COMPLETE";
const VERSION: u32 = 1;
const SECTOR: usize = 512;
const CHECKED: usize = SECTOR - 4;
const NAME_MOST: usize = 256;
/// Where the bitmap begins.
const BITMAP: u64 = 4096;
/// Largest disk, in bytes: 64 TiB, whose bitmap has 2 GiB, and a table of leaves in memory 64 MiB.
const SIZE_MOST: u64 = 1 << 46;

/// `web01.raw` -> `web01.raw.bitmap`.
pub fn path_for(overlay: &Path) -> PathBuf {
    let mut name = overlay.as_os_str().to_owned();
    name.push(".bitmap");
    name.into()
}

/// What the header and the mark say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Identity of the image below.
    pub identity: [u8; 32],
    /// What the image was called.
    pub name: String,
    /// The overlay holds every byte; the image is not needed any more.
    pub complete: bool,
}

impl Header {
    /// The first 1,024 bytes of the file.
    pub fn encode(&self) -> [u8; 2 * SECTOR] {
        let mut raw = [0; 2 * SECTOR];
        let mut end = self.name.len().min(NAME_MOST);
        while !self.name.is_char_boundary(end) {
            end -= 1;
        }
        let name = self.name.get(..end).unwrap_or_default();
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(room) = raw.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
        };
        put(0, MAGIC);
        put(16, &VERSION.to_le_bytes());
        put(20, &(GRANULE as u32).to_le_bytes());
        put(24, &self.size.to_le_bytes());
        put(32, &self.identity);
        put(64, &(name.len() as u16).to_le_bytes());
        put(66, name.as_bytes());
        if self.complete {
            put(SECTOR, COMPLETE);
        }
        seal(&mut raw, 0);
        if self.complete {
            seal(&mut raw, SECTOR);
        }
        raw
    }

    /// Takes the first 1,024 bytes of a file apart.
    pub fn decode(raw: &[u8; 2 * SECTOR]) -> Result<Self> {
        let doing = "reading an overlay's bitmap";
        let bytes = Bytes::new(raw, "an overlay's bitmap");
        if bytes.slice(0, MAGIC.len())? != MAGIC {
            return Err(Error::malformed(doing, "it is not one: its first bytes are others"));
        }
        if !is_sealed(bytes, 0)? {
            return Err(Error::malformed(doing, "its header is damaged: the checksum differs"));
        }
        let (version, granule) = (bytes.u32_le(16)?, bytes.u32_le(20)?);
        if version != VERSION || u64::from(granule) != GRANULE {
            let because =
                format!("it is of version {version} with granules of {granule} bytes: use a newer unmoor");
            return Err(Error::unsupported(doing, because));
        }
        let size = bytes.u64_le(24)?;
        if size == 0 || size > SIZE_MOST {
            return Err(Error::malformed(doing, format!("a disk of {size} bytes")));
        }
        let mut identity = [0; 32];
        identity.copy_from_slice(bytes.slice(32, 32)?);
        let name_len = usize::from(bytes.u16_le(64)?);
        if name_len > NAME_MOST {
            return Err(Error::malformed(doing, "its name is too long"));
        }
        let mark = bytes.sub(SECTOR, SECTOR)?;
        let complete = mark.slice(0, COMPLETE.len())? == COMPLETE && is_sealed(mark, 0)?;
        Ok(Self { size, identity, name: c_text(bytes.slice(66, name_len)?), complete })
    }
}

fn checksum(raw: &[u8]) -> [u8; 4] {
    crc32c::crc32c(raw).to_le_bytes()
}

fn seal(raw: &mut [u8], at: usize) {
    let sum = raw.get(at..at + CHECKED).map(checksum).unwrap_or_default();
    if let Some(room) = raw.get_mut(at + CHECKED..at + SECTOR) {
        room.copy_from_slice(&sum);
    }
}

fn is_sealed(bytes: Bytes<'_>, at: usize) -> Result<bool> {
    Ok(bytes.slice(at + CHECKED, 4)? == checksum(bytes.slice(at, CHECKED)?))
}

/// Makes the file for an empty overlay: whole, or not at all.
pub(super) fn create(path: &Path, header: &Header) -> Result<()> {
    if header.size == 0 || header.size > SIZE_MOST {
        let because =
            format!("overlays are for disks of 1 byte to 64 TiB, and this one has {} bytes", header.size);
        return Err(Error::unsupported("creating an overlay", because));
    }
    manifest::write_durably(path, &header.encode())
}

/// Reads the header.
pub(super) fn read_header(file: &File) -> Result<Header> {
    let mut raw = [0; 2 * SECTOR];
    Storage::read_at(file, &mut raw, 0).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::malformed("reading an overlay's bitmap", "it is too short")
        }
        _ => Error::io("reading an overlay's bitmap", error),
    })?;
    Header::decode(&raw)
}

/// Reads the bitmap; what lies behind the file's end is clear.
pub(super) fn read_bitmap(storage: &dyn Storage, len: u64, size: u64) -> Result<Bitmap> {
    let doing = "reading an overlay's bitmap";
    let mut bitmap = Bitmap::new(size);
    let end = (BITMAP + (bitmap.leaf_count() * LEAF) as u64).min(len);
    let mut at = BITMAP;
    let mut buffer = vec![0; 1 << 20];
    while at < end {
        let (data, to) = storage.run_at(at, end);
        // The bits of a hole are clear; a leaf that is partly one is read.
        if !data && (to - BITMAP).is_multiple_of(LEAF as u64) {
            at = to;
            continue;
        }
        let piece = buffer.get_mut(..(end - at).min(1 << 20) as usize).unwrap_or(&mut []);
        storage.read_at(piece, at).map_err(|error| Error::io(doing, error).at(at))?;
        for raw in piece.chunks(LEAF) {
            let mut leaf = [0; LEAF];
            // A file that ends within a leaf was cut by a crash while it grew.
            if let Some(room) = leaf.get_mut(..raw.len()) {
                room.copy_from_slice(raw);
            }
            if !bitmap.load(((at - BITMAP) / LEAF as u64) as usize, &leaf) {
                return Err(Error::malformed(doing, "it has granules behind the disk's end").at(at));
            }
            at += raw.len() as u64;
        }
    }
    Ok(bitmap)
}

/// Writes leaves of the bitmap.
pub(super) fn write_leaves(storage: &dyn Storage, leaves: &[(usize, [u8; LEAF])]) -> std::io::Result<()> {
    leaves.iter().try_for_each(|(index, leaf)| storage.write_at(leaf, BITMAP + (index * LEAF) as u64))
}

/// Writes the mark that the overlay stands alone.
pub(super) fn write_mark(storage: &dyn Storage) -> std::io::Result<()> {
    let whole = Header { size: 1, identity: [0; 32], name: String::new(), complete: true }.encode();
    storage.write_at(whole.get(SECTOR..).unwrap_or(&[]), SECTOR as u64)?;
    storage.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_no_damage_passes() {
        let header = Header { size: 12 << 30, identity: [7; 32], name: "ä".repeat(200), complete: true };
        let raw = header.encode();
        let read = Header::decode(&raw).unwrap();
        assert_eq!(read, Header { name: "ä".repeat(128), ..header.clone() });
        for at in (0..SECTOR).chain([SECTOR, 2 * SECTOR - 1]) {
            for bit in [1, 0x80] {
                let mut damaged = raw;
                damaged[at] ^= bit;
                // A mark that is not whole is no mark.
                assert!(
                    Header::decode(&damaged).map_or(true, |read| at >= SECTOR && !read.complete),
                    "byte {at}"
                );
            }
        }
        assert!(Header::decode(&[0; 1024]).is_err());
    }
}
