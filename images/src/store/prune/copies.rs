// SPDX-License-Identifier: Apache-2.0
//! Chunks that stand in several packs: which copy stays.
//!
//! Two captures at once, a damaged chunk that was sent again, and a prune that was killed leave chunks twice. The copy that goes must not be
//! the good one, so the one that stays is read and hashed first.

use std::collections::{HashMap, HashSet};

use super::plan::Count;
use crate::store::Id;
use crate::store::catalog::Catalog;
use crate::store::check::is_right;
use crate::store::dedup::ById;
use crate::store::ids::short;
use crate::store::pack::{Entry, PackTable};
use crate::store::walk::cancelled;
use crate::{Monitor, Result};

/// What stays of chunks that are there several times.
#[derive(Default)]
pub(super) struct Copies {
    /// The pack whose copy stays, by chunk; none where no copy is right: then all packs that have one stay.
    stays: ById<Option<u32>>,
}

/// A copy: number of the pack, first byte in it, entry.
type Copy = (u32, u64, Entry);

impl Copies {
    /// `doubles` has the first 64 bits of the ids of used chunks that are there more than once.
    pub(super) fn find(
        catalog: &Catalog,
        doubles: &HashSet<u64>,
        doubtful: &HashSet<Id>,
        counts: &[Count],
        read: bool,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let mut copies = Self::default();
        if doubles.is_empty() {
            return Ok(copies);
        }
        let mut all: HashMap<Id, Vec<Copy>> = HashMap::new();
        catalog.tables(&mut |number, table| {
            for (at, entry) in
                catalog.good(number, table).filter(|(_, entry)| doubles.contains(&short(&entry.id)))
            {
                all.entry(entry.id).or_default().push((number, at, *entry));
            }
            Ok(())
        })?;
        // Two ids that share 64 bits are two chunks.
        all.retain(|_, found| found.len() > 1);
        let mut plain = Vec::new();
        for (id, mut found) in all {
            if monitor.cancelled() {
                return Err(cancelled());
            }
            // In a pack of which much is used it costs least to keep; what a killed prune has marked goes first.
            found.sort_by_key(|(number, ..)| {
                let pack = catalog.packs.get(*number as usize);
                let marked = pack.is_some_and(|pack| doubtful.contains(&pack.id));
                let harmed = pack.is_some_and(|pack| catalog.damage.touches(&pack.id));
                let count = counts.get(*number as usize).copied().unwrap_or_default();
                (marked, harmed, count.unused_percent(), *number)
            });
            let mut right = |copy: &&Copy| !read || is_copy_right(catalog, copy, &mut plain);
            let stays = found.iter().find(&mut right).map(|(number, ..)| *number);
            if stays.is_none() {
                monitor.warn(format!(
                    "the chunk {} is damaged in every pack that has it",
                    crate::manifest::hex(&id)
                ));
            }
            copies.stays.insert(id, stays);
        }
        Ok(copies)
    }

    /// True if this copy of a used chunk counts as used.
    pub(super) fn is_used(&self, id: &Id, pack: u32) -> bool {
        self.stays.get(id).is_none_or(|stays| stays.is_none_or(|stays| stays == pack))
    }
}

fn is_copy_right(catalog: &Catalog, (number, at, entry): &Copy, plain: &mut Vec<u8>) -> bool {
    let Some(pack) = catalog.packs.get(*number as usize) else { return false };
    let mut stored = vec![0; entry.stored as usize];
    let read = catalog.store.backend().read(&PackTable::object(&pack.id), &mut stored, *at);
    read.is_ok() && is_right(&catalog.store, entry, &stored, plain)
}
