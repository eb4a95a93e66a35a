// SPDX-License-Identifier: Apache-2.0
//! Marks: packs that prune is about to remove.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::backend::names;
use super::clock::rfc3339;
use super::keys::{hex, random};
use super::seal::Kind;
use super::{Id, MOST_METADATA, Store, document, parse_id};
use crate::{Result, ResultExt};

/// One mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its name: 32 hex digits.
    pub id: String,
    /// When it was made, for people: RFC 3339.
    pub created: String,
    /// The packs, hex.
    pub packs: Vec<String>,
    /// The leases that there were once the mark was there, by name; absent until they are known. When all of them have ended, no
    /// capture relies on the packs any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<Vec<String>>,
}

impl Mark {
    fn object(id: &str) -> String {
        format!("marks/{id}.json")
    }

    /// Marks packs, durably.
    pub fn write(store: &Store, packs: &[Id]) -> Result<Self> {
        let mut id = [0; 16];
        random(&mut id)?;
        let mark = Self {
            id: hex(&id),
            created: rfc3339(store.clock().unix_seconds()),
            packs: packs.iter().map(crate::manifest::hex).collect(),
            leases: None,
        };
        mark.put(store)?;
        Ok(mark)
    }

    fn put(&self, store: &Store) -> Result<()> {
        let object = Self::object(&self.id);
        store.backend().put(&object, &document::encode(self, store.seal(), Kind::Mark, &object)?)?;
        store.backend().barrier()
    }

    /// Says which leases there were once the mark was there.
    pub(super) fn waits_for(mut self, store: &Store, leases: Vec<String>) -> Result<Self> {
        self.leases = Some(leases);
        self.put(store)?;
        Ok(self)
    }

    /// All marks. One that cannot be read is an error: nobody knows what it marks.
    pub fn list(store: &Store) -> Result<Vec<Self>> {
        let mut marks = Vec::new();
        for name in names(store.backend(), "marks/")? {
            if let Some(bytes) = store.backend().get(&name, MOST_METADATA)? {
                marks.push(document::decode(&bytes, store.seal(), Kind::Mark, &name)?);
            }
        }
        Ok(marks)
    }

    /// All marks, for a prune that is alone: one that cannot be read is of no use to anybody, and shown without packs.
    pub(super) fn list_all(store: &Store) -> Result<Vec<Self>> {
        let mut marks = Vec::new();
        for name in names(store.backend(), "marks/")? {
            let Some(id) = name.strip_prefix("marks/").and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            let Some(bytes) = store.backend().get(&name, MOST_METADATA)? else { continue };
            let empty = Self { id: String::new(), created: String::new(), packs: Vec::new(), leases: None };
            let mark = document::decode(&bytes, store.seal(), Kind::Mark, &name).unwrap_or(empty);
            // By the name that it is removed by.
            marks.push(Self { id: id.to_owned(), ..mark });
        }
        Ok(marks)
    }

    /// Every pack that is marked.
    pub fn packs(store: &Store) -> Result<HashSet<Id>> {
        let mut packs = HashSet::new();
        for mark in Self::list(store).doing(|| "reading what prune has marked")? {
            for pack in &mark.packs {
                packs.insert(parse_id(pack)?);
            }
        }
        Ok(packs)
    }

    /// Takes a mark back.
    pub fn remove(store: &Store, id: &str) -> Result<()> {
        store.backend().delete(&Self::object(id))
    }
}
