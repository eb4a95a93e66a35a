// SPDX-License-Identifier: Apache-2.0
//! The map file: a disk's extent map and leaf hashes, in binary because they have millions of entries.
//!
//! All integers are LEB128 (unsigned, at most 10 bytes) but for the fixed head:
//!
//! ```text
//!   "UNMOORMP"  u32 le version = 1  u32 le 0  u64 le disk size
//!   count of extents, then for each: length << 2 | state   (0 data, 1 zero, 2 hole), contiguous from 0
//!   count of runs, then for each: how many equal leaves, 32 bytes of hash, contiguous from 0
//! ```
//!
//! The manifest names the file's length and BLAKE3, so it carries no checksum of its own.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use super::{MapRecord, hex, sync_folder};
use crate::merkle::{Hash, Leaves};
use crate::{Error, ErrorKind, Extent, ExtentMap, LEAF, Result, ResultExt, State};

const MAGIC: &[u8; 8] = b"UNMOORMP";
const VERSION: u32 = 1;

/// Writes the map file at `path` (replacing what is there) and flushes it.
pub fn write_map(path: &Path, extents: &ExtentMap, leaves: &Leaves) -> Result<MapRecord> {
    let doing = || format!("writing {}", path.display());
    let file = File::create(path).doing(doing)?;
    let mut out = Hashing { inner: BufWriter::new(file), hasher: blake3::Hasher::new(), bytes: 0 };
    let written = encode(&mut out, extents, leaves);
    written.and_then(|()| out.inner.flush()).and_then(|()| out.inner.get_ref().sync_all()).doing(doing)?;
    sync_folder(path)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(MapRecord { file, bytes: out.bytes, blake3: hex(out.hasher.finalize().as_bytes()) })
}

/// The bytes that [`write_map`] puts into a file.
pub fn encode_map(extents: &ExtentMap, leaves: &Leaves) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = encode(&mut out, extents, leaves);
    out
}

/// The same, piece by piece.
pub fn encode_map_to(out: &mut impl Write, extents: &ExtentMap, leaves: &Leaves) -> std::io::Result<()> {
    encode(out, extents, leaves)
}

/// Decodes a map; every length is bounded by what is really there. What stands behind it is left alone.
pub fn decode_map(mut bytes: &[u8]) -> Result<(ExtentMap, Leaves)> {
    decode(&mut bytes)
}

fn encode(out: &mut impl Write, extents: &ExtentMap, leaves: &Leaves) -> std::io::Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&0u32.to_le_bytes())?;
    out.write_all(&extents.size().to_le_bytes())?;
    leb(out, extents.len() as u64)?;
    for extent in extents.iter() {
        leb(out, extent.len << 2 | extent.state as u64)?;
    }
    leb(out, leaves.runs().count() as u64)?;
    for (_, count, hash) in leaves.runs() {
        leb(out, count)?;
        out.write_all(&hash)?;
    }
    Ok(())
}

fn leb(out: &mut impl Write, mut value: u64) -> std::io::Result<()> {
    while value >= 0x80 {
        out.write_all(&[value as u8 | 0x80])?;
        value >>= 7;
    }
    out.write_all(&[value as u8])
}

struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.hasher.update(buf);
        self.bytes += buf.len() as u64;
        self.inner.write_all(buf).map(|()| buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Reads a map file that must be the one of `record`.
pub fn read_map(path: &Path, record: &MapRecord) -> Result<(ExtentMap, Leaves)> {
    let doing = || format!("reading {}", path.display());
    let mut file = File::open(path).doing(doing)?;
    let bytes = file.metadata().doing(doing)?.len();
    if bytes != record.bytes {
        let because = format!("it has {bytes} bytes, the manifest says {}", record.bytes);
        return Err(Error::new(ErrorKind::Mismatch, doing()).because(because));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).doing(doing)?;
    if hex(hasher.finalize().as_bytes()) != record.blake3 {
        return Err(
            Error::new(ErrorKind::Mismatch, doing()).because("its BLAKE3 is not the one in the manifest")
        );
    }
    decode(&mut std::io::BufReader::new(File::open(path).doing(doing)?)).doing(doing)
}

fn decode(input: &mut impl Read) -> Result<(ExtentMap, Leaves)> {
    let mut head = [0; 24];
    input.read_exact(&mut head).map_err(short)?;
    let [magic @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = head;
    let head = crate::parse::Bytes::new(&head, "map header");
    if &magic != MAGIC || head.u32_le(8)? != VERSION || head.u32_le(12)? != 0 {
        return Err(Error::malformed("reading the map's header", "it is not a map of version 1"));
    }
    let size = head.u64_le(16)?;
    let count = number(input)?;
    let mut at = 0u64;
    let mut failure = None;
    let extents = ExtentMap::from_extents((0..count).map_while(|_| {
        let state_and_len = match number(input) {
            Ok(value) => value,
            Err(error) => {
                failure = Some(error);
                return None;
            }
        };
        let state = match state_and_len & 3 {
            0 => State::Data,
            1 => State::Zero,
            _ => State::Hole,
        };
        let extent = Extent { offset: at, len: state_and_len >> 2, state };
        at = at.saturating_add(extent.len);
        Some(extent)
    }))?;
    if let Some(error) = failure {
        return Err(error);
    }
    if extents.size() != size {
        return Err(Error::malformed("reading the map's extents", "they do not add up to the disk"));
    }
    let runs = number(input)?;
    let mut leaves = Leaves::builder(size);
    for _ in 0..runs {
        let count = number(input)?;
        let mut hash: Hash = [0; 32];
        input.read_exact(&mut hash).map_err(short)?;
        leaves.push_run(count, hash)?;
    }
    let leaves = leaves.finish()?;
    debug_assert_eq!(leaves.count(), size.div_ceil(LEAF));
    Ok((extents, leaves))
}

fn short(error: std::io::Error) -> Error {
    Error::io("reading the map", error)
}

fn number(input: &mut impl Read) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte).map_err(short)?;
        let [byte] = byte;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            break;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::malformed("reading the map", "a number has more than 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RangeSet;

    fn sample() -> (ExtentMap, Leaves) {
        let size = 100 * LEAF + 1000;
        let mut data = RangeSet::of(4096..900_000);
        data.insert(50 * LEAF..60 * LEAF + 512);
        let map =
            ExtentMap::from_data(size, &mut data, State::Hole).zero_holes(&mut RangeSet::of(0..1 << 20));
        (
            map,
            Leaves::from_pairs(size, vec![(3, [7; 32]), (50, [8; 32]), (51, [8; 32]), (100, [9; 32])])
                .unwrap(),
        )
    }

    #[test]
    fn what_is_written_is_read_and_a_changed_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.map");
        let (extents, leaves) = sample();
        let record = write_map(&path, &extents, &leaves).unwrap();
        assert_eq!(read_map(&path, &record).unwrap(), (extents, leaves));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_map(&path, &record).unwrap_err().kind(), ErrorKind::Mismatch);
    }

    #[test]
    fn no_flipped_or_cut_byte_panics() {
        let (extents, leaves) = sample();
        let mut bytes = Vec::new();
        encode(&mut bytes, &extents, &leaves).unwrap();
        for index in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[index] ^= flip;
                let _ = decode(&mut bad.as_slice());
            }
            assert!(decode(&mut &bytes[..index]).is_err());
        }
    }
}
