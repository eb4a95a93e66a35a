// SPDX-License-Identifier: Apache-2.0
//! All packs of a store and where its pages are, for those who look at the whole: verify, prune, and who counts.
//!
//! Tables are read again for every pass rather than kept: a pass costs reading 40 bytes a chunk, and what stays in memory is one
//! index object at a time, 80 bytes a pack, and 64 bytes a page (a page stands for up to 64 MiB of disk).

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::backend::names;
use super::damage::Damage;
use super::dedup::ById;
use super::encode::decode;
use super::ids::Bits;
use super::index::IndexObject;
use super::near::{Reach, together};
use super::pack::{Content, Entry, PackTable};
use super::pool::{IN_FLIGHT, parallel};
use super::reader::Place;
use super::{Id, Store, page};
use crate::merkle::{self, Hash};
use crate::{Error, ErrorKind, Result, ResultExt};

/// What is read of a pack at a time.
const REACH: Reach = Reach { gap: 64 << 10, most: 4 << 20 };

/// A pack that the listing shows.
#[derive(Debug, Clone)]
pub(super) struct Pack {
    pub(super) id: Id,
    /// Its length.
    pub(super) bytes: u64,
    /// True if an index object lists it.
    pub(super) indexed: bool,
}

/// Something about an object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Oddity {
    /// The object's name.
    pub(super) object: String,
    pub(super) what: String,
    /// True if bytes were lost, whether or not an image needs them.
    pub(super) damage: bool,
}

/// What a store holds, as it was listed.
pub(super) struct Catalog {
    pub(super) store: Store,
    pub(super) packs: Vec<Pack>,
    numbers: ById<u32>,
    /// Index objects that can be read, with how many entries they have.
    pub(super) indexes: Vec<(Id, usize)>,
    /// Index objects that cannot.
    pub(super) broken_indexes: Vec<String>,
    /// Packs that an index lists and the listing does not show, and one such index.
    pub(super) absent: ById<Id>,
    pub(super) damage: Damage,
    /// Pages, by id; further copies in `spare`.
    pages: ById<Place>,
    spare: HashMap<Id, Vec<Place>>,
    pub(super) oddities: Vec<Oddity>,
}

impl Catalog {
    /// Lists packs and indexes, and reads all tables once.
    pub(super) fn load(store: &Store) -> Result<Self> {
        let mut catalog = Self {
            store: store.clone(),
            packs: Vec::new(),
            numbers: ById::default(),
            indexes: Vec::new(),
            broken_indexes: Vec::new(),
            absent: ById::default(),
            damage: Damage::load(store)?,
            pages: ById::default(),
            spare: HashMap::new(),
            oddities: Vec::new(),
        };
        let indexes = names(store.backend(), "index/").doing(|| "listing indexes")?;
        let mut strangers = Vec::new();
        store
            .backend()
            .list("packs/", &mut |listed| {
                match PackTable::id_of(&listed.name) {
                    Some(id) => catalog.packs.push(Pack { id, bytes: listed.bytes, indexed: false }),
                    None => strangers.push(listed.name),
                }
                Ok(())
            })
            .doing(|| "listing packs")?;
        // A listing that was continued may show an object twice.
        catalog.packs.sort_by_key(|pack| pack.id);
        catalog.packs.dedup_by_key(|pack| pack.id);
        catalog.numbers = catalog.packs.iter().zip(0..).map(|(pack, number)| (pack.id, number)).collect();
        let ids = indexes.iter().filter_map(|name| Some((IndexObject::id_of(name)?, 0)));
        catalog.indexes = ids.collect();
        strangers.extend(indexes.into_iter().filter(|name| IndexObject::id_of(name).is_none()));
        for object in strangers {
            catalog.odd(object, "it is not one of the store's objects", false);
        }
        catalog.first_pass()?;
        Ok(catalog)
    }

    fn odd(&mut self, object: String, what: impl Into<String>, damage: bool) {
        self.oddities.push(Oddity { object, what: what.into(), damage });
    }

    /// Finds out which indexes and tables can be read, and where pages are.
    fn first_pass(&mut self) -> Result<()> {
        let mut readable = Vec::new();
        let mut seen = Bits::new(self.packs.len());
        for batch in std::mem::take(&mut self.indexes).chunks(4) {
            for ((id, _), index) in batch.iter().zip(self.read_indexes(batch)?) {
                match index {
                    Ok(Some(index)) => {
                        let entries = index.packs.iter().map(|pack| pack.entries.len()).sum();
                        readable.push((*id, entries));
                        for table in &index.packs {
                            self.take_in(table, Some(*id), &mut seen);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        self.odd(IndexObject::object(id), error.chain(), true);
                        self.broken_indexes.push(IndexObject::object(id));
                    }
                }
            }
        }
        self.indexes = readable;
        let loose: Vec<Id> = self.packs.iter().filter(|pack| !pack.indexed).map(|pack| pack.id).collect();
        for batch in loose.chunks(IN_FLIGHT) {
            for (id, table) in batch.iter().zip(self.read_tables(batch)?) {
                match table {
                    Ok(Some(table)) => self.take_in(&table, None, &mut seen),
                    Ok(None) => {}
                    Err(error) => self.odd(PackTable::object(id), error.chain(), true),
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, table: &PackTable, index: Option<Id>, seen: &mut Bits) {
        let Some(number) = self.number(&table.id) else {
            if let Some(index) = index {
                self.absent.entry(table.id).or_insert(index);
            }
            return;
        };
        if let Some(pack) = self.packs.get_mut(number as usize) {
            pack.indexed |= index.is_some();
        }
        if seen.set(number as usize) {
            return;
        }
        if !self.fits(number, table) {
            self.odd(PackTable::object(&table.id), "it is shorter or longer than its table says", true);
        }
        let places = self.good(number, table).filter(|(_, entry)| entry.content == Content::Page);
        let pages: Vec<(Id, Place)> =
            places.filter_map(|(at, entry)| Some((entry.id, Place::of(number, at, entry)?))).collect();
        for (id, place) in pages {
            match self.pages.entry(id) {
                Slot::Vacant(slot) => {
                    slot.insert(place);
                }
                Slot::Occupied(_) => self.spare.entry(id).or_default().push(place),
            }
        }
    }

    /// The number of a pack.
    pub(super) fn number(&self, id: &Id) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    /// True if the pack has the length that its table asks for.
    pub(super) fn fits(&self, number: u32, table: &PackTable) -> bool {
        self.packs.get(number as usize).is_some_and(|pack| pack.bytes == table.pack_bytes(self.store.seal()))
    }

    /// The chunks of a pack with their places: those that lie in the pack as it is, and are not known to be damaged.
    pub(super) fn good<'a>(
        &'a self,
        number: u32,
        table: &'a PackTable,
    ) -> impl Iterator<Item = (u64, &'a Entry)> {
        let bytes = self.packs.get(number as usize).map_or(0, |pack| pack.bytes);
        let touched = self.damage.touches(&table.id);
        table.places().filter(move |(at, entry)| {
            at + u64::from(entry.stored) <= bytes && !(touched && self.damage.has(&table.id, &entry.id))
        })
    }

    fn read_indexes(&self, batch: &[(Id, usize)]) -> Result<Vec<Result<Option<IndexObject>>>> {
        let store = &self.store;
        parallel(batch, IN_FLIGHT, |(id, _)| Ok(IndexObject::read(store.backend(), store.seal(), id)))
    }

    /// The tables that stand in the packs themselves.
    pub(super) fn read_tables(&self, batch: &[Id]) -> Result<Vec<Result<Option<PackTable>>>> {
        let store = &self.store;
        parallel(batch, IN_FLIGHT, |id| Ok(PackTable::read(store.backend(), store.seal(), id)))
    }

    /// `each` for the table of every pack that is there and can be read, once, with its number.
    pub(super) fn tables(&self, each: &mut dyn FnMut(u32, &PackTable) -> Result<()>) -> Result<()> {
        let mut seen = Bits::new(self.packs.len());
        let mut take = |table: &PackTable, seen: &mut Bits| match self.number(&table.id) {
            Some(number) if !seen.set(number as usize) => each(number, table),
            _ => Ok(()),
        };
        for batch in self.indexes.chunks(4) {
            for index in self.read_indexes(batch)?.into_iter().flatten().flatten() {
                index.packs.iter().try_for_each(|table| take(table, &mut seen))?;
            }
        }
        let packs = self.packs.iter().enumerate();
        let loose: Vec<Id> =
            packs.filter(|(number, _)| !seen.get(*number)).map(|(_, pack)| pack.id).collect();
        for batch in loose.chunks(IN_FLIGHT) {
            for table in self.read_tables(batch)?.into_iter().flatten().flatten() {
                take(&table, &mut seen)?;
            }
        }
        Ok(())
    }

    /// Packs whose length is not what their table asks for, and the chunks that they lack.
    pub(super) fn packs_cut_short(&self) -> Result<Vec<(Id, HashSet<Id>)>> {
        let mut short = Vec::new();
        self.tables(&mut |number, table| {
            if !self.fits(number, table) {
                let mut lost: HashSet<Id> = table.entries.iter().map(|entry| entry.id).collect();
                self.good(number, table).for_each(|(_, entry)| {
                    lost.remove(&entry.id);
                });
                short.push((table.id, lost));
            }
            Ok(())
        })?;
        Ok(short)
    }

    /// Reads pages, those that lie together by one read, and takes each apart. `wanted`: hash and level.
    pub(super) fn pages(&self, wanted: &[(Hash, u8)]) -> Result<Vec<(Hash, u8, Result<page::Below>)>> {
        let mut found = Vec::with_capacity(wanted.len());
        let mut places: Vec<(Hash, u8, Id, Place)> = Vec::with_capacity(wanted.len());
        for (hash, level) in wanted {
            let id = self.store.seal().id(hash);
            match self.pages.get(&id) {
                Some(place) => places.push((*hash, *level, id, *place)),
                None => found.push((
                    *hash,
                    *level,
                    Err(Error::new(ErrorKind::Mismatch, "looking for a page of a disk's tree")
                        .because("no pack has it")),
                )),
            }
        }
        places.sort_unstable_by_key(|(.., place)| (place.pack, place.at));
        let groups = together(&places, REACH, |(.., place)| place.span());
        let read = |(members, bytes): &(Range<usize>, Range<u64>)| {
            Ok(self.page_group(places.get(members.clone()).unwrap_or_default(), bytes))
        };
        for group in parallel(&groups, IN_FLIGHT, read)? {
            found.extend(group);
        }
        Ok(found)
    }

    /// Pages that lie within these bytes of one pack.
    fn page_group(
        &self,
        group: &[(Hash, u8, Id, Place)],
        within: &Range<u64>,
    ) -> Vec<(Hash, u8, Result<page::Below>)> {
        let start = within.start;
        let pack = group.first().and_then(|(.., place)| self.packs.get(place.pack as usize));
        let object = pack.map(|pack| PackTable::object(&pack.id)).unwrap_or_default();
        let mut bytes = vec![0; (within.end - start) as usize];
        let read = self.store.backend().read(&object, &mut bytes, start);
        let each = group.iter().map(|(hash, level, id, place)| {
            let from = (u64::from(place.at) - start) as usize;
            let mut alone = Vec::new();
            let stored = match &read {
                Ok(()) => Ok(bytes.get(from..from + place.stored as usize).unwrap_or_default()),
                // One bad sector among many good ones.
                Err(_) => {
                    alone.resize(place.stored as usize, 0);
                    self.store.backend().read(&object, &mut alone, place.at.into()).map(|()| alone.as_slice())
                }
            };
            let first = stored.and_then(|stored| self.page(hash, *level, place.entry(*id), stored));
            let found = first.or_else(|error| self.spare_page(hash, *level, id).ok_or(error));
            (*hash, *level, found.doing(|| format!("reading {object}")))
        });
        each.collect()
    }

    fn page(&self, hash: &Hash, level: u8, entry: Entry, stored: &[u8]) -> Result<page::Below> {
        let mut plain = vec![0; entry.raw as usize];
        decode(self.store.seal(), &entry, stored, &mut plain)?;
        if page::name(&plain) != *hash {
            return Err(Error::new(ErrorKind::Mismatch, "reading a page").because("its hash is another one"));
        }
        page::below(&plain, level)
    }

    /// A page from another pack that has it.
    fn spare_page(&self, hash: &Hash, level: u8, id: &Id) -> Option<page::Below> {
        self.spare.get(id)?.iter().find_map(|place| {
            let pack = self.packs.get(place.pack as usize)?;
            let mut stored = vec![0; place.stored as usize];
            self.store.backend().read(&PackTable::object(&pack.id), &mut stored, place.at.into()).ok()?;
            self.page(hash, level, place.entry(*id), &stored).ok()
        })
    }
}

/// The id of a chunk's content.
pub(super) fn id_of(store: &Store, content: Content, plain: &[u8]) -> Id {
    store.seal().id(&match content {
        Content::Leaf => merkle::leaf(plain),
        Content::Page => page::name(plain),
    })
}
