// SPDX-License-Identifier: Apache-2.0
//! Packs: many chunks, one behind the other, with their table at the end.

use super::backend::checked;
use super::document::check_version;
use super::seal::{Kind, Seal};
use super::{Id, config};
use crate::parse::Bytes;
use crate::{Error, ErrorKind, LEAF, Result, ResultExt};

const MAGIC: &[u8; 8] = b"UNMOORPK";
const END: &[u8; 8] = b"KPROOMNU";
/// Bytes before the first chunk.
pub(super) const HEADER: usize = 16;
/// Bytes behind the table.
const FOOTER: usize = 16;
/// Bytes of one entry.
pub(super) const ENTRY: usize = 40;
/// Largest page in bytes, which is what 24 bits hold.
pub(super) const MOST_PAGE: u64 = (1 << 24) - 1;
/// Bytes of a pack's end that are read at once: the tables of nearly all packs.
const TAIL: u64 = 64 * 1024;
/// Largest table that is read, in bytes: that of a pack of one-byte chunks is far from it.
const MOST_TABLE: u64 = 64 << 20;

/// How a chunk's bytes are stored, beneath the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Plain = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// What a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Content {
    /// Up to 256 KiB of a disk.
    Leaf = 0,
    /// A node of a disk's tree.
    Page = 1,
}

/// One chunk in a pack's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: Id,
    /// Bytes in the pack.
    pub stored: u32,
    /// Bytes that it stands for.
    pub raw: u32,
    /// How it is stored.
    pub codec: Codec,
    /// What it is.
    pub content: Content,
}

impl Entry {
    /// 40 bytes: id, stored length and codec | content << 4, raw length and 0; lengths in 24 bits.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id);
        let kind = self.codec as u32 | (self.content as u32) << 4;
        out.extend_from_slice(&(self.stored & 0xff_ffff | kind << 24).to_le_bytes());
        out.extend_from_slice(&(self.raw & 0xff_ffff).to_le_bytes());
    }

    /// Refuses lengths that cannot be.
    pub(super) fn decode(bytes: Bytes<'_>) -> Result<Self> {
        let mut id = [0; 32];
        id.copy_from_slice(bytes.slice(0, 32)?);
        let (first, raw) = (bytes.u32_le(32)?, bytes.u32_le(36)?);
        let broken = |because| Err(Error::malformed("reading a chunk's entry", because));
        let codec = match first >> 24 & 15 {
            0 => Codec::Plain,
            1 => Codec::Zstd,
            _ => return broken("its compression is not known here"),
        };
        let content = match first >> 28 {
            0 => Content::Leaf,
            1 => Content::Page,
            _ => return broken("its kind is not known here"),
        };
        let most = if content == Content::Leaf { LEAF } else { MOST_PAGE };
        if raw == 0 || u64::from(raw) > most {
            return broken("its length cannot be");
        }
        Ok(Self { id, stored: first & 0xff_ffff, raw, codec, content })
    }
}

/// A pack's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackTable {
    /// The pack's name.
    pub id: Id,
    /// Its chunks in the order in which they lie.
    pub entries: Vec<Entry>,
}

impl PackTable {
    /// The object's name: `packs/ab/abcdef...`.
    pub fn object(id: &Id) -> String {
        let hex = crate::manifest::hex(id);
        format!("packs/{}/{hex}", hex.get(..2).unwrap_or_default())
    }

    /// The pack that an object's name names.
    pub fn id_of(object: &str) -> Option<Id> {
        let (folder, hex) = object.strip_prefix("packs/")?.split_once('/')?;
        if !hex.starts_with(folder) || folder.len() != 2 {
            return None;
        }
        super::parse_id(hex).ok()
    }

    /// Each chunk with its first byte in the pack.
    pub fn places(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let mut at = HEADER as u64;
        self.entries.iter().map(move |entry| {
            let start = at;
            at += u64::from(entry.stored);
            (start, entry)
        })
    }

    /// Bytes of all chunks as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.stored)).sum()
    }

    /// Bytes of the whole pack.
    pub(super) fn pack_bytes(&self, seal: &Seal) -> u64 {
        let table = self.entries.len() as u64 * ENTRY as u64 + seal.overhead();
        HEADER as u64 + self.stored_bytes() + table + FOOTER as u64
    }

    /// The bytes that stand before the first chunk. Random ones are among them, so that no two packs ever have one name: what
    /// prune has decided to remove can never be what a capture has just written, of the same chunks.
    pub(super) fn header(sealed: bool) -> Result<[u8; HEADER]> {
        let mut salt = [0; 4];
        super::keys::random(&mut salt)?;
        let mut header = [0; HEADER];
        let fields = MAGIC.iter().copied().chain(config::VERSION.to_le_bytes());
        let fields = fields.chain([u8::from(sealed), 0]).chain(salt);
        header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        Ok(header)
    }

    /// Appends table and footer to a pack that holds its header and its chunks; answers its name.
    pub(super) fn close(entries: Vec<Entry>, seal: &Seal, pack: &mut Vec<u8>) -> Result<Self> {
        let mut plain = Vec::with_capacity(entries.len() * ENTRY);
        entries.iter().for_each(|entry| entry.encode(&mut plain));
        let at = pack.len();
        seal.seal(Kind::PackTable, b"", &plain, pack)?;
        let len = (pack.len() - at) as u32;
        pack.extend_from_slice(&len.to_le_bytes());
        pack.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        pack.extend_from_slice(END);
        let id = name(pack.get(..HEADER).unwrap_or_default(), pack.get(at..).unwrap_or_default());
        Ok(Self { id, entries })
    }

    /// Reads the table of a pack that is called `id`; none if there is no such object. Everything but the chunks is checked.
    pub(super) fn read(backend: &dyn super::backend::Backend, seal: &Seal, id: &Id) -> Result<Option<Self>> {
        checked(|| Self::read_once(backend, seal, id))
    }

    fn read_once(backend: &dyn super::backend::Backend, seal: &Seal, id: &Id) -> Result<Option<Self>> {
        let object = Self::object(id);
        let doing = || format!("reading the table of {object}");
        let Some((mut tail, len)) = backend.tail(&object, TAIL).doing(doing)? else { return Ok(None) };
        let table = table_bytes(&tail, len).doing(doing)?;
        if table > MOST_TABLE {
            return Err(Error::malformed(doing(), "no table is that large"));
        }
        if table > tail.len() as u64 {
            let Some((longer, again)) = backend.tail(&object, table).doing(doing)? else { return Ok(None) };
            if again != len {
                return Err(Error::malformed(doing(), "it changed while it was read"));
            }
            tail = longer;
        }
        let mut header = [0; HEADER];
        backend.read(&object, &mut header, 0).doing(doing)?;
        let end = tail.get(tail.len().saturating_sub(table as usize)..).unwrap_or_default();
        Self::decode(id, &header, end, len, seal).doing(doing).map(Some)
    }

    /// `end` is table and footer, `len` the whole pack's length.
    pub(super) fn decode(id: &Id, header: &[u8; HEADER], end: &[u8], len: u64, seal: &Seal) -> Result<Self> {
        const DOING: &str = "reading a pack's table";
        if name(header, end) != *id {
            return Err(
                Error::new(ErrorKind::Mismatch, DOING).because("it is not the one that the pack is named by")
            );
        }
        let fields = Bytes::new(header, "pack header");
        if fields.slice(0, 8)? != MAGIC {
            return Err(Error::malformed(DOING, "it is not a pack"));
        }
        let flags = fields.u16_le(10)?;
        check_version(fields.u16_le(8)?, flags & !1)?;
        if (flags & 1 == 1) != seal.is_sealed() {
            return Err(Error::malformed(
                DOING,
                "it is sealed in a store that is not, or the other way round",
            ));
        }
        let footer = Bytes::new(end, "pack footer");
        let at = end.len().saturating_sub(FOOTER);
        let count = footer.u32_le(at + 4)? as usize;
        let plain = seal.open(Kind::PackTable, b"", footer.slice(0, at)?)?;
        if plain.len() != count.saturating_mul(ENTRY) {
            return Err(Error::malformed(DOING, "its length is not that of its entries"));
        }
        let entries: Vec<Entry> = plain
            .chunks_exact(ENTRY)
            .map(|raw| Entry::decode(Bytes::new(raw, "entry")))
            .collect::<Result<_>>()?;
        let table = Self { id: *id, entries };
        let whole =
            (HEADER as u64).checked_add(table.stored_bytes()).and_then(|at| at.checked_add(end.len() as u64));
        if whole != Some(len) {
            return Err(Error::malformed(DOING, "the pack is shorter or longer than its table says"));
        }
        Ok(table)
    }
}

/// A pack is named by its header and table; the table has the hash of each chunk, so the name covers the content.
fn name(header: &[u8], end: &[u8]) -> Id {
    *blake3::Hasher::new().update(header).update(end).finalize().as_bytes()
}

/// Bytes of table and footer, as the footer says.
fn table_bytes(tail: &[u8], len: u64) -> Result<u64> {
    let bytes = Bytes::new(tail, "end of a pack");
    let at = tail.len().saturating_sub(FOOTER);
    if len < (HEADER + FOOTER) as u64 || bytes.slice(at + 8, 8)? != END {
        return Err(Error::malformed(
            "reading a pack's footer",
            "the pack does not end as one: it was cut off",
        ));
    }
    let whole = u64::from(bytes.u32_le(at)?) + FOOTER as u64;
    if whole + HEADER as u64 > len {
        return Err(Error::malformed("reading a pack's footer", "its table is longer than the pack"));
    }
    Ok(whole)
}

/// Packs as bytes, for the fuzzer: decodes a whole pack.
pub fn decode_pack(bytes: &[u8]) -> Result<PackTable> {
    let len = bytes.len() as u64;
    let table = table_bytes(bytes, len)? as usize;
    let end = bytes.get(bytes.len().saturating_sub(table)..).unwrap_or_default();
    let header = bytes.first_chunk().ok_or_else(|| Error::malformed("reading a pack", "it is too short"))?;
    PackTable::decode(&name(header, end), header, end, len, &Seal::none())
}
