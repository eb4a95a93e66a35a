// SPDX-License-Identifier: Apache-2.0
//! Index objects: the tables of many packs in one object, so that asking what is there takes few requests.
//!
//! An index object adds nothing: what it says can be read from the packs. It may be missing, or stand in two objects.

use super::backend::checked;
use super::document::check_version;
use super::pack::{ENTRY, Entry, PackTable};
use super::seal::{Kind, Seal};
use super::{Id, config};
use crate::parse::Bytes;
use crate::{Error, ErrorKind, Result, ResultExt};

const MAGIC: &[u8; 8] = b"UNMOORIX";
const HEADER: usize = 12;
/// Most entries in one object: 10 MiB, and bounded memory when one is read.
pub(super) const MOST_ENTRIES: usize = 250_000;

/// Tables of packs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexObject {
    /// Its name.
    pub id: Id,
    /// What it holds.
    pub packs: Vec<PackTable>,
}

impl IndexObject {
    /// The object's name.
    pub fn object(id: &Id) -> String {
        format!("index/{}", crate::manifest::hex(id))
    }

    /// The index that an object's name names.
    pub fn id_of(object: &str) -> Option<Id> {
        super::parse_id(object.strip_prefix("index/")?).ok()
    }

    /// Its bytes, and its name by content.
    pub(super) fn encode(packs: &[PackTable], seal: &Seal) -> Result<(Id, Vec<u8>)> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(packs.len() as u32).to_le_bytes());
        for pack in packs {
            plain.extend_from_slice(&pack.id);
            plain.extend_from_slice(&(pack.entries.len() as u32).to_le_bytes());
            pack.entries.iter().for_each(|entry| entry.encode(&mut plain));
        }
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&config::VERSION.to_le_bytes());
        out.extend_from_slice(&u16::from(seal.is_sealed()).to_le_bytes());
        seal.seal(Kind::Index, b"", &plain, &mut out)?;
        Ok((*blake3::hash(&out).as_bytes(), out))
    }

    /// The object `id`; none if there is none.
    pub(super) fn read(backend: &dyn super::backend::Backend, seal: &Seal, id: &Id) -> Result<Option<Self>> {
        let object = Self::object(id);
        let doing = || format!("reading {object}");
        checked(|| match backend.get(&object, super::MOST_METADATA).doing(doing)? {
            None => Ok(None),
            Some(bytes) => Self::decode(id, &bytes, seal).doing(doing).map(Some),
        })
    }

    fn decode(id: &Id, bytes: &[u8], seal: &Seal) -> Result<Self> {
        const DOING: &str = "reading an index";
        if blake3::hash(bytes).as_bytes() != id {
            return Err(
                Error::new(ErrorKind::Mismatch, DOING).because("its content is not what it is named by")
            );
        }
        let object = Bytes::new(bytes, "index");
        if object.slice(0, 8)? != MAGIC {
            return Err(Error::malformed(DOING, "it is not an index"));
        }
        let flags = object.u16_le(10)?;
        check_version(object.u16_le(8)?, flags & !1)?;
        if (flags & 1 == 1) != seal.is_sealed() {
            return Err(Error::malformed(
                DOING,
                "it is sealed in a store that is not, or the other way round",
            ));
        }
        let plain = seal.open(Kind::Index, b"", bytes.get(HEADER..).unwrap_or_default())?;
        let plain = Bytes::new(&plain, "index");
        let count = plain.u32_le(0)?;
        let (mut at, mut packs) = (4usize, Vec::new());
        for _ in 0..count {
            let mut id = [0; 32];
            id.copy_from_slice(plain.slice(at, 32)?);
            let entries = plain.u32_le(at + 32)? as usize;
            at += 36;
            let table = plain.slice(at, entries.saturating_mul(ENTRY))?;
            let entries: Vec<Entry> = table
                .chunks_exact(ENTRY)
                .map(|raw| Entry::decode(Bytes::new(raw, "entry")))
                .collect::<Result<_>>()?;
            at += table.len();
            packs.push(PackTable { id, entries });
        }
        if at != plain.len() {
            return Err(Error::malformed(DOING, "there is something behind its last entry"));
        }
        Ok(Self { id: *id, packs })
    }
}

/// Index objects as bytes, for the fuzzer.
pub fn decode_index(bytes: &[u8]) -> Result<IndexObject> {
    IndexObject::decode(blake3::hash(bytes).as_bytes(), bytes, &Seal::none())
}
