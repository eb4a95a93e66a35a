// SPDX-License-Identifier: Apache-2.0
//! What a capture knows to be there.
//!
//! A chunk that is there and not known here is stored again, which costs room and nothing else. So what is known may be
//! bounded: first all that the machine's last image uses, then as much of the rest as fits.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::backend::names;
use super::damage::Damage;
use super::index::IndexObject;
use super::moved::Moved;
use super::pack::PackTable;
use super::pool::{IN_FLIGHT, parallel};
use super::{Id, ImageRecord, Store};
use crate::{Monitor, Result};

/// Chunks that are known at most beyond those of the machine's last image: 77 MiB of memory, 450 GiB of disk.
pub(super) const MOST: usize = 1_800_000;

/// Chunk ids are hashes already.
#[derive(Default)]
pub(super) struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }
    /// The length of an array, which is always the same.
    fn write_usize(&mut self, _: usize) {}
}

/// A map by chunk id.
pub(super) type ById<T> = HashMap<Id, T, BuildHasherDefault<Taken>>;

/// Stands for the packs that this capture writes.
const OWN: u32 = u32::MAX;

/// Chunks and where they are.
pub(super) struct Dedup {
    chunks: ById<u32>,
    packs: Vec<KnownPack>,
    /// Copies of chunks that do not count.
    damage: Damage,
}

/// A pack of an earlier capture.
pub(super) struct KnownPack {
    pub(super) id: Id,
    /// The index object that lists it; none for one that was found by itself, whose table is then kept.
    pub(super) index: Option<Id>,
    pub(super) table: Option<PackTable>,
    /// True once this capture relies on it.
    pub(super) used: bool,
}

impl Dedup {
    /// Asks the store. Packs in `marked` are as good as gone.
    pub(super) fn load(
        store: &Store,
        parent: Option<&ImageRecord>,
        orphans: bool,
        marked: &HashSet<Id>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let damage = Damage::load(store)?;
        let mut dedup = Self { chunks: ById::default(), packs: Vec::new(), damage };
        let mut indexed = HashSet::new();
        let mut wanted: Vec<Id> = Vec::new();
        // What the parent uses, wherever prune has put it since.
        let mut parents: HashSet<Id> = HashSet::new();
        if let Some(parent) = parent {
            let moved = Moved::load(store)?;
            for (index, packs) in parent.pack_ids()? {
                wanted.extend(index);
                parents.extend(packs.iter().flat_map(|pack| moved.find(pack)));
                parents.extend(packs);
            }
        }
        let of_parent = wanted.len();
        let known: HashSet<Id> = wanted.iter().copied().collect();
        let listed = names(store.backend(), "index/")?;
        wanted.extend(
            listed.iter().filter_map(|name| IndexObject::id_of(name)).filter(|id| !known.contains(id)),
        );
        let mut damaged = false;
        for (batch, ids) in wanted.chunks(IN_FLIGHT).enumerate() {
            let read =
                parallel(ids, IN_FLIGHT, |id| Ok(IndexObject::read(store.backend(), store.seal(), id)))?;
            for (place, index) in read.into_iter().enumerate() {
                let first = batch * IN_FLIGHT + place < of_parent;
                match index {
                    Ok(Some(index)) => {
                        for pack in index.packs {
                            indexed.insert(pack.id);
                            let first = first || parents.contains(&pack.id);
                            let room = first || dedup.chunks.len() + pack.entries.len() <= MOST;
                            if room && !marked.contains(&pack.id) {
                                dedup.add(&pack, Some(index.id));
                            }
                        }
                    }
                    // Prune has put it together with others since.
                    Ok(None) => damaged |= first,
                    Err(error) => {
                        monitor.warn(format!(
                            "an index is left out, and the packs are asked instead: {}",
                            error.chain()
                        ));
                        damaged = true;
                    }
                }
            }
        }
        if orphans || damaged {
            dedup.find_packs(store, &indexed, marked, monitor)?;
        }
        Ok(dedup)
    }

    /// Packs that no index lists: those of a capture that was killed, or runs now.
    fn find_packs(
        &mut self,
        store: &Store,
        indexed: &HashSet<Id>,
        marked: &HashSet<Id>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let listed = names(store.backend(), "packs/")?;
        let ids = listed.iter().filter_map(|name| PackTable::id_of(name));
        let ids: Vec<Id> = ids.filter(|id| !indexed.contains(id) && !marked.contains(id)).collect();
        for ids in ids.chunks(IN_FLIGHT) {
            let tables =
                parallel(ids, IN_FLIGHT, |id| Ok(PackTable::read(store.backend(), store.seal(), id)))?;
            for table in tables {
                match table {
                    Ok(Some(table)) if self.chunks.len() + table.entries.len() <= MOST => {
                        self.add(&table, None);
                    }
                    Ok(_) => {}
                    Err(error) => monitor.warn(format!("a pack is left out: {}", error.chain())),
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, pack: &PackTable, index: Option<Id>) {
        let number = self.packs.len() as u32;
        self.chunks.reserve(pack.entries.len());
        for entry in pack.entries.iter().filter(|entry| !self.damage.has(&pack.id, &entry.id)) {
            self.chunks.entry(entry.id).or_insert(number);
        }
        let table = index.is_none().then(|| pack.clone());
        self.packs.push(KnownPack { id: pack.id, index, table, used: false });
    }

    /// True if the chunk is there, or somebody is about to send it; else the caller has to.
    pub(super) fn claim(&mut self, id: &Id) -> bool {
        match self.chunks.entry(*id) {
            Slot::Occupied(slot) => {
                if let Some(pack) = self.packs.get_mut(*slot.get() as usize) {
                    pack.used = true;
                }
                true
            }
            Slot::Vacant(slot) => {
                slot.insert(OWN);
                false
            }
        }
    }

    /// True if the chunk is there, which is then relied upon.
    pub(super) fn find(&mut self, id: &Id) -> bool {
        let Some(number) = self.chunks.get(id) else { return false };
        if let Some(pack) = self.packs.get_mut(*number as usize) {
            pack.used = true;
        }
        true
    }

    /// True if the chunk is there. Nobody relies on it for that.
    pub(super) fn knows(&self, id: &Id) -> bool {
        self.chunks.contains_key(id)
    }

    /// Takes back a claim that came to nothing.
    pub(super) fn unclaim(&mut self, id: &Id) {
        if self.chunks.get(id) == Some(&OWN) {
            self.chunks.remove(id);
        }
    }

    /// The earlier pack that a chunk is taken from.
    pub(super) fn pack_of(&self, id: &Id) -> Option<Id> {
        self.packs.get(*self.chunks.get(id)? as usize).map(|pack| pack.id)
    }

    /// The packs that this capture relies on.
    pub(super) fn used(&self) -> impl Iterator<Item = &KnownPack> {
        self.packs.iter().filter(|pack| pack.used)
    }

    /// Nothing of these packs counts as there any more.
    pub(super) fn forget(&mut self, marked: &HashSet<Id>) {
        let gone: Vec<bool> = self.packs.iter().map(|pack| marked.contains(&pack.id)).collect();
        self.chunks.retain(|_, number| !gone.get(*number as usize).copied().unwrap_or(false));
        for pack in &mut self.packs {
            pack.used &= !marked.contains(&pack.id);
        }
    }
}
