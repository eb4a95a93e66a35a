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
        };
        let object = Self::object(&mark.id);
        store.backend().put(&object, &document::encode(&mark, store.seal(), Kind::Mark, &object)?)?;
        store.backend().barrier()?;
        Ok(mark)
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
