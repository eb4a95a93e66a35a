// SPDX-License-Identifier: Apache-2.0
//! Reading integers and fields from untrusted bytes: out of bounds is an error, never a panic.

use crate::{BlockSource, Error, Result};

/// A byte slice from a disk, with checked access. `what` names it in errors: "group descriptor".
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    data: &'a [u8],
    what: &'static str,
}

macro_rules! reader {
    ($($name:ident $type:ty, $from:ident;)*) => {$(
        #[doc = concat!("`", stringify!($type), "` at byte `offset`, by `", stringify!($from), "`.")]
        pub fn $name(&self, offset: usize) -> Result<$type> {
            let mut raw = [0; size_of::<$type>()];
            raw.copy_from_slice(self.slice(offset, size_of::<$type>())?);
            Ok(<$type>::$from(raw))
        }
    )*};
}

impl<'a> Bytes<'a> {
    /// Wraps `data`.
    pub fn new(data: &'a [u8], what: &'static str) -> Self {
        Self { data, what }
    }

    /// All of it.
    pub fn all(&self) -> &'a [u8] {
        self.data
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True if there is nothing.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// `len` bytes from `offset`.
    pub fn slice(&self, offset: usize, len: usize) -> Result<&'a [u8]> {
        offset.checked_add(len).and_then(|end| self.data.get(offset..end)).ok_or_else(|| {
            Error::malformed(
                format!("reading {len} bytes at {offset} of {}", self.what),
                format!("it has only {} bytes", self.data.len()),
            )
        })
    }

    /// A sub-slice that keeps its name.
    pub fn sub(&self, offset: usize, len: usize) -> Result<Self> {
        Ok(Self { data: self.slice(offset, len)?, what: self.what })
    }

    reader! {
        u16_le u16, from_le_bytes; u32_le u32, from_le_bytes; u64_le u64, from_le_bytes;
        u16_be u16, from_be_bytes; u32_be u32, from_be_bytes; u64_be u64, from_be_bytes;
        u8 u8, from_le_bytes;
    }
}

/// Reads `len` bytes at `offset`; `len` is capped at 64 MiB so that hostile lengths cannot exhaust memory.
pub fn read_vec(source: &dyn BlockSource, offset: u64, len: usize) -> Result<Vec<u8>> {
    const MOST: usize = 64 << 20;
    if len > MOST {
        return Err(Error::malformed(format!("reading {len} bytes"), "no structure is that large").at(offset));
    }
    let mut data = vec![0; len];
    source.read_at(&mut data, offset)?;
    Ok(data)
}

/// A UUID's 16 bytes as text, in the byte order in which they stand.
pub fn uuid_text(raw: &[u8; 16]) -> String {
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A GUID whose 16 bytes are in the order of its text, as it stands on disk and in EFI's structures: the first three fields
/// are little-endian (UEFI 2.10, appendix A). It is its own inverse.
pub fn guid_bytes(ordered: &[u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *ordered;
    let mut raw = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    if let Some(tail) = raw.last_chunk_mut::<8>() {
        *tail = rest;
    }
    raw
}

/// Text up to the first NUL; bytes that are not UTF-8 are replaced.
pub fn c_text(raw: &[u8]) -> String {
    let end = raw.iter().position(|&byte| byte == 0).unwrap_or(raw.len());
    String::from_utf8_lossy(raw.get(..end).unwrap_or(raw)).into_owned()
}

/// UTF-16LE text without what pads it at the end; what is no character is replaced.
pub fn utf16_text(raw: &[u8]) -> String {
    let pairs = raw.chunks_exact(2).filter_map(|pair| Some(u16::from_le_bytes(pair.try_into().ok()?)));
    let text: String =
        char::decode_utf16(pairs).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    text.trim_end_matches([' ', '\0']).to_owned()
}
