// SPDX-License-Identifier: Apache-2.0
//! Chunks that `verify` has found damaged, written down: no capture takes them for there, and no reader prefers them.
//!
//! `damaged/PACK.json` names chunks of one pack, or all of it. So the next capture that has such a chunk sends it again, which
//! mends every image that needs it; prune leaves it behind when it repacks, and removes the record with the pack.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::backend::names;
use super::seal::{Kind, Seal};
use super::{Id, MOST_METADATA, Store, document, parse_id};
use crate::manifest::hex;
use crate::{Error, ErrorKind, Result, ResultExt};

/// What the object says. Not sealed: it has ids of a pack and of chunks, which are names without the key's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The pack, hex.
    pub(super) pack: String,
    /// Its damaged chunks, hex; none where all of it is, or it is not there.
    pub(super) chunks: Option<Vec<String>>,
}

/// All that is known to be damaged.
#[derive(Debug, Default, Clone)]
pub(super) struct Damage {
    packs: HashMap<Id, Option<HashSet<Id>>>,
}

impl Damage {
    pub(super) fn object(pack: &Id) -> String {
        format!("damaged/{}.json", hex(pack))
    }

    /// What the store has written down. A record that cannot be read counts as all of its pack.
    pub(super) fn load(store: &Store) -> Result<Self> {
        let mut damage = Self::default();
        for name in names(store.backend(), "damaged/").doing(|| "listing what is damaged")? {
            let text = name.strip_prefix("damaged/").and_then(|name| name.strip_suffix(".json"));
            let Some(pack) = text.and_then(|text| parse_id(text).ok()) else { continue };
            let Some(bytes) = store.backend().get(&name, MOST_METADATA)? else { continue };
            let record = document::decode::<Record>(&bytes, &Seal::none(), Kind::Mark, &name);
            let chunks = record.ok().and_then(|record| record.chunks);
            let chunks = chunks.and_then(|ids| ids.iter().map(|id| parse_id(id)).collect::<Result<_>>().ok());
            damage.packs.insert(pack, chunks);
        }
        Ok(damage)
    }

    /// True if this copy of a chunk is known to be damaged.
    pub(super) fn has(&self, pack: &Id, chunk: &Id) -> bool {
        self.packs.get(pack).is_some_and(|chunks| chunks.as_ref().is_none_or(|chunks| chunks.contains(chunk)))
    }

    /// True if anything of the pack is known to be damaged.
    pub(super) fn touches(&self, pack: &Id) -> bool {
        self.packs.contains_key(pack)
    }

    pub(super) fn packs(&self) -> impl Iterator<Item = &Id> {
        self.packs.keys()
    }

    /// Writes down more: `chunks` of a pack, or all of it.
    pub(super) fn add(&mut self, store: &Store, pack: &Id, chunks: Option<HashSet<Id>>) -> Result<()> {
        let chunks = match (self.packs.remove(pack), chunks) {
            (Some(None), _) | (_, None) => None,
            (Some(Some(mut known)), Some(more)) => {
                known.extend(more);
                Some(known)
            }
            (None, Some(more)) => Some(more),
        };
        let listed = chunks.as_ref().map(|chunks| {
            let mut listed: Vec<String> = chunks.iter().map(hex).collect();
            listed.sort();
            listed
        });
        let object = Self::object(pack);
        let record = Record { pack: hex(pack), chunks: listed };
        let bytes = document::encode(&record, &Seal::none(), Kind::Mark, &object)?;
        if bytes.len() as u64 > MOST_METADATA {
            return Err(Error::new(ErrorKind::Unsupported, format!("writing {object}"))
                .because("a pack with so many chunks is not known here"));
        }
        store.backend().put(&object, &bytes)?;
        self.packs.insert(*pack, chunks);
        Ok(())
    }

    /// Forgets a pack that is gone.
    pub(super) fn remove(store: &Store, pack: &Id) -> Result<()> {
        store.backend().delete(&Self::object(pack))
    }
}
