// SPDX-License-Identifier: Apache-2.0
//! Where prune has put the chunks of packs that it removed, so that an image which names such a pack opens as fast as before.
//!
//! `moved/ID.json` maps packs that are gone to those that hold what was live of them. It is a hint as an image's own list of
//! packs is: without it a reader asks all indexes of the store. Every prune writes one object that stands for all before it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::backend::names;
use super::keys::random;
use super::seal::{Kind, Seal};
use super::{Id, MOST_METADATA, Store, document, keys, parse_id};
use crate::manifest::hex;
use crate::{Result, ResultExt};

/// Longest way from a pack to where its chunks are now. Prune keeps it at one; more is a circle.
const LONGEST: usize = 64;

/// What the object says. Not sealed: names of objects only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    /// Packs that are gone, and the packs that took their place; hex.
    moved: BTreeMap<String, BTreeSet<String>>,
}

/// All of a store's.
#[derive(Debug, Default, Clone)]
pub(super) struct Moved {
    packs: HashMap<Id, Vec<Id>>,
}

impl Moved {
    /// What the store has. What cannot be read of it is left out.
    pub(super) fn load(store: &Store) -> Result<Self> {
        let mut moved = Self::default();
        for name in names(store.backend(), "moved/").doing(|| "listing what was moved")? {
            let Some(bytes) = store.backend().get(&name, MOST_METADATA)? else { continue };
            let Ok(document) = document::decode::<Document>(&bytes, &Seal::none(), Kind::Mark, &name) else {
                continue;
            };
            for (from, to) in &document.moved {
                let Ok(from) = parse_id(from) else { continue };
                let to = to.iter().filter_map(|id| parse_id(id).ok());
                moved.packs.entry(from).or_default().extend(to);
            }
        }
        Ok(moved)
    }

    pub(super) fn insert(&mut self, from: Id, to: Vec<Id>) {
        self.packs.insert(from, to);
    }

    /// The packs that now hold what `pack` held; none where nobody knows.
    pub(super) fn find(&self, pack: &Id) -> Vec<Id> {
        let (mut found, mut now) = (BTreeSet::new(), BTreeSet::from([*pack]));
        let mut seen = BTreeSet::new();
        for _ in 0..LONGEST {
            let mut next = BTreeSet::new();
            for id in now {
                match self.packs.get(&id) {
                    Some(to) if seen.insert(id) => next.extend(to.iter().copied()),
                    Some(_) => {}
                    None => {
                        found.insert(id);
                    }
                }
            }
            now = next;
        }
        found.remove(pack);
        found.into_iter().collect()
    }

    /// Keeps what images still ask for, each in one step, and writes it in place of all objects that there are.
    pub(super) fn replace(&self, store: &Store, named: &dyn Fn(&Id) -> bool) -> Result<()> {
        let before = names(store.backend(), "moved/")?;
        let mut document = Document::default();
        for from in self.packs.keys().filter(|from| named(from)) {
            let to: BTreeSet<String> = self.find(from).iter().map(hex).collect();
            if !to.is_empty() {
                document.moved.insert(hex(from), to);
            }
        }
        if before.is_empty() && document.moved.is_empty() {
            return Ok(());
        }
        let mut id = [0; 16];
        random(&mut id)?;
        let object = format!("moved/{}.json", keys::hex(&id));
        let bytes = document::encode(&document, &Seal::none(), Kind::Mark, &object)?;
        // A hint that nobody could read back is left out.
        if bytes.len() as u64 <= MOST_METADATA && !document.moved.is_empty() {
            store.backend().put(&object, &bytes)?;
            store.backend().barrier()?;
        }
        before.iter().try_for_each(|name| store.backend().delete(name))
    }
}

/// Reads one object, and follows everything in it, for the fuzzer.
pub(super) fn decode(bytes: &[u8]) -> Result<String> {
    let document: Document = document::decode(bytes, &Seal::none(), Kind::Mark, "moved/x.json")?;
    let mut moved = Moved::default();
    for (from, to) in &document.moved {
        let to = to.iter().map(|id| parse_id(id)).collect::<Result<_>>()?;
        moved.insert(parse_id(from)?, to);
    }
    let found: BTreeMap<Id, Vec<Id>> = moved.packs.keys().map(|from| (*from, moved.find(from))).collect();
    Ok(format!("{found:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_followed_and_circles_end() {
        let id = |number: u8| [number; 32];
        let mut moved = Moved::default();
        moved.insert(id(1), vec![id(2), id(3)]);
        moved.insert(id(2), vec![id(4)]);
        moved.insert(id(7), vec![id(8)]);
        moved.insert(id(8), vec![id(7), id(9)]);
        assert_eq!(moved.find(&id(1)), [id(3), id(4)]);
        assert_eq!(moved.find(&id(7)), [id(9)]);
        assert!(moved.find(&id(5)).is_empty());
    }
}
