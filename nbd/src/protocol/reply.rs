// SPDX-License-Identifier: Apache-2.0
//! Replies, as the server sends them.

use super::{CHUNK_MAGIC, Errno, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, chunk};

/// Writes integers big-endian, one after the other.
macro_rules! put {
    ($($value:expr),* $(,)?) => {{
        let mut bytes: Vec<u8> = Vec::new();
        $(bytes.extend_from_slice(&$value.to_be_bytes());)*
        bytes
    }};
}
pub(crate) use put;

/// A reply to an option of the handshake.
pub(crate) fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut reply = put![OPTION_REPLY_MAGIC, option, kind, data.len() as u32];
    reply.extend_from_slice(data);
    reply
}

/// A simple reply's header; the data of a read follows where `error` is `None`.
pub fn simple(cookie: u64, error: Option<Errno>) -> Vec<u8> {
    put![SIMPLE_REPLY_MAGIC, error.map_or(0, |errno| errno as u32), cookie]
}

/// The header of a chunk with `len` bytes of payload.
pub fn chunk_header(cookie: u64, flags: u16, kind: u16, len: u32) -> Vec<u8> {
    put![CHUNK_MAGIC, flags, kind, cookie, len]
}

/// What comes before the `len` bytes of an OFFSET_DATA chunk.
pub fn offset_data(cookie: u64, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = chunk_header(cookie, flags, chunk::OFFSET_DATA, len.saturating_add(8));
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes
}

/// An OFFSET_HOLE chunk.
pub fn offset_hole(cookie: u64, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = chunk_header(cookie, flags, chunk::OFFSET_HOLE, 12);
    bytes.extend(put![offset, len]);
    bytes
}

/// An ERROR chunk, the last of its reply, with words for a person.
pub fn error_chunk(cookie: u64, errno: Errno, words: &str) -> Vec<u8> {
    let mut bytes = chunk_header(cookie, chunk::DONE, chunk::ERROR, 6 + words.len() as u32);
    bytes.extend(put![errno as u32, words.len() as u16]);
    bytes.extend_from_slice(words.as_bytes());
    bytes
}

/// The BLOCK_STATUS chunk of context `id`, the last of its reply: (length in bytes, state flags) of each extent.
pub fn descriptors(cookie: u64, id: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let mut bytes = chunk_header(cookie, chunk::DONE, chunk::BLOCK_STATUS, 4 + 8 * extents.len() as u32);
    bytes.extend_from_slice(&id.to_be_bytes());
    for (len, flags) in extents {
        bytes.extend(put![*len, *flags]);
    }
    bytes
}
