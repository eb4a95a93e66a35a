// SPDX-License-Identifier: Apache-2.0
//! One chunk, compressed and sealed, and back.

use zstd::bulk::Decompressor;
use zstd::zstd_safe::{CCtx, CParameter};

use super::Id;
use super::pack::{Codec, Content, Entry};
use super::seal::{Kind, Seal};
use crate::{Error, ErrorKind, Result};

/// Compression state of one thread, reused from call to call.
pub(super) struct Encoder {
    context: CCtx<'static>,
    level: Option<i32>,
    packed: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { context: CCtx::create(), level: None, packed: Vec::new() }
    }

    /// Appends the chunk `id` to `out`. Without a level, or where it does not shrink, it is stored as it is.
    pub(super) fn encode(
        &mut self,
        seal: &Seal,
        (id, content): (Id, Content),
        data: &[u8],
        level: Option<i32>,
        out: &mut Vec<u8>,
    ) -> Result<Entry> {
        let before = out.len();
        let packed = level.map(|level| self.compress(data, level)).transpose()?.unwrap_or(0);
        let (codec, bytes) = match self.packed.get(..packed) {
            Some(bytes) if packed > 0 => (Codec::Zstd, bytes),
            _ => (Codec::Plain, data),
        };
        seal.seal(kind(content), &id, bytes, out)?;
        let stored = (out.len() - before) as u32;
        Ok(Entry { id, stored, raw: data.len() as u32, codec, content })
    }

    /// Bytes in `packed`; 0 where it is not worth the reader's time.
    fn compress(&mut self, data: &[u8], level: i32) -> Result<usize> {
        if self.level != Some(level) {
            let failed = |code| Error::unsupported("preparing zstd", zstd::zstd_safe::get_error_name(code));
            self.context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
            self.level = Some(level);
        }
        let most = data.len() - data.len() / 32;
        self.packed.resize(most.max(self.packed.len()), 0);
        let room = self.packed.get_mut(..most).unwrap_or_default();
        // The one error that can come of valid arguments is "destination too small".
        Ok(self.context.compress2(room, data).unwrap_or(0))
    }
}

fn kind(content: Content) -> Kind {
    match content {
        Content::Leaf => Kind::Chunk,
        Content::Page => Kind::Page,
    }
}

/// Fills `out`, which has the chunk's length, from its stored bytes. That it is the right content, its hash tells.
pub(super) fn decode(seal: &Seal, entry: &Entry, stored: &[u8], out: &mut [u8]) -> Result<()> {
    let broken = |because: String| Error::new(ErrorKind::Mismatch, "unpacking a chunk").because(because);
    let bytes = seal.open(kind(entry.content), &entry.id, stored)?;
    if out.len() != entry.raw as usize {
        return Err(broken(format!("it stands for {} bytes, not {}", entry.raw, out.len())));
    }
    match entry.codec {
        Codec::Plain if bytes.len() == out.len() => out.copy_from_slice(&bytes),
        Codec::Plain => return Err(broken("it is longer or shorter than what it stands for".into())),
        Codec::Zstd => {
            thread_local! {
                static CONTEXT: std::cell::RefCell<Option<Decompressor<'static>>> = const { std::cell::RefCell::new(None) };
            }
            let len = CONTEXT.with_borrow_mut(|context| -> Result<usize> {
                let failed = |error| Error::io("unpacking a chunk", error);
                let context = match context {
                    Some(context) => context,
                    None => context.insert(Decompressor::new().map_err(failed)?),
                };
                context.decompress_to_buffer(&bytes, out).map_err(|error| broken(format!("zstd: {error}")))
            })?;
            if len != entry.raw as usize {
                return Err(broken("it unpacks to fewer bytes than it stands for".into()));
            }
        }
    }
    Ok(())
}
