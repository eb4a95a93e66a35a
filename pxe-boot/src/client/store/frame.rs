// SPDX-License-Identifier: Apache-2.0
//! A leaf on the wire: `hash 32 | stored u32 le | raw u32 le | codec u8 (0 plain, 1 zstd) | bytes`.

use unmoor_images::merkle::{self, Hash};
use unmoor_images::{Error, ErrorKind, LEAF, Result};
use zstd::bulk::{Compressor, Decompressor};

/// Bytes before a frame's content.
const HEAD: usize = 41;
/// Most bytes of a frame: a leaf that does not shrink travels as it is.
pub const MOST_FRAME: u64 = LEAF + HEAD as u64;

/// A frame as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// BLAKE3 of the leaf, as it claims.
    pub hash: Hash,
    /// Bytes of the leaf.
    pub raw: u32,
    /// Whether the content is compressed.
    pub packed: bool,
    /// The content.
    pub bytes: &'a [u8],
}

/// Appends a leaf to `out`; compressed where there is a compressor and it helps.
pub fn encode_frame(
    hash: &Hash,
    leaf: &[u8],
    compressor: Option<&mut Compressor<'_>>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let most = leaf.len() - leaf.len() / 32;
    let packed = compressor.and_then(|compressor| {
        let mut packed = vec![0; most];
        // The one error that can come of valid arguments is that it does not fit, and then it is not worth it.
        let len = compressor.compress_to_buffer(leaf, packed.as_mut_slice()).ok()?;
        packed.truncate(len);
        Some(packed)
    });
    let (codec, bytes) = match &packed {
        Some(packed) => (1, packed.as_slice()),
        None => (0, leaf),
    };
    let raw = u32::try_from(leaf.len())
        .map_err(|_| Error::malformed("sending a leaf", "it is longer than a leaf can be"))?;
    Frame { hash: *hash, raw, packed: codec == 1, bytes }.write(out)
}

/// What stands before a frame's content.
struct Head {
    hash: Hash,
    stored: u32,
    raw: u32,
    packed: bool,
}

impl Head {
    /// `head` has [`HEAD`] bytes.
    fn read(head: &[u8]) -> Result<Self> {
        let bytes = unmoor_images::parse::Bytes::new(head, "frame");
        let (stored, raw) = (bytes.u32_le(32)?, bytes.u32_le(36)?);
        let hash: Hash = bytes.slice(0, 32)?.try_into().map_err(|_| broken("a hash is cut off"))?;
        let packed = match bytes.u8(40)? {
            0 => false,
            1 => true,
            _ => return Err(broken("one is packed in a way that is not known")),
        };
        if u64::from(raw) > LEAF || raw == 0 || u64::from(stored) > LEAF {
            return Err(broken("one stands for more than a leaf"));
        }
        Ok(Self { hash, stored, raw, packed })
    }
}

fn broken(because: &'static str) -> Error {
    Error::malformed("reading frames", because)
}

/// Bytes of those frames that are there as a whole: what follows them is the beginning of one.
pub fn whole_frames(body: &[u8]) -> Result<usize> {
    let mut rest = body;
    while let Some((head, behind)) = rest.split_at_checked(HEAD) {
        let head = Head::read(head)?;
        let Some((_, next)) = behind.split_at_checked(head.stored as usize) else { break };
        rest = next;
    }
    Ok(body.len().saturating_sub(rest.len()))
}

/// Takes a body apart. Nothing is unpacked.
pub fn read_frames(mut rest: &[u8]) -> Result<Vec<Frame<'_>>> {
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(HEAD).ok_or_else(|| broken("the last one is cut off"))?;
        let Head { hash, stored, raw, packed } = Head::read(head)?;
        let content = behind.split_at_checked(stored as usize);
        let (bytes, next) = content.ok_or_else(|| broken("the last one is cut off"))?;
        frames.push(Frame { hash, raw, packed, bytes });
        rest = next;
    }
    Ok(frames)
}

impl Frame<'_> {
    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        let stored = u32::try_from(self.bytes.len())
            .map_err(|_| Error::malformed("sending a leaf", "it is longer than a leaf can be"))?;
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(&stored.to_le_bytes());
        out.extend_from_slice(&self.raw.to_le_bytes());
        out.push(self.packed.into());
        out.extend_from_slice(self.bytes);
        Ok(())
    }

    /// Fills `out`, which has the leaf's length, and compares it with the hash.
    pub fn unpack(&self, decompressor: &mut Decompressor<'_>, out: &mut [u8]) -> Result<()> {
        let broken =
            |because: &'static str| Error::new(ErrorKind::Mismatch, "unpacking a leaf").because(because);
        if out.len() != self.raw as usize {
            return Err(broken("it has another length than its disk says"));
        }
        if self.packed {
            let len = decompressor.decompress_to_buffer(self.bytes, out);
            if len.ok() != Some(out.len()) {
                return Err(broken("it does not unpack"));
            }
        } else if self.bytes.len() == out.len() {
            out.copy_from_slice(self.bytes);
        } else {
            return Err(broken("it is longer or shorter than it says"));
        }
        if merkle::leaf(out) != self.hash {
            return Err(broken("its content has another hash: it was damaged on the server or on its way"));
        }
        Ok(())
    }
}
