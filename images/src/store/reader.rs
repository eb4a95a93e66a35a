// SPDX-License-Identifier: Apache-2.0
//! An image of a store, opened: its disks as block sources.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::backend::checked;
use super::catalog::{Catalog, id_of};
use super::damage::Damage;
use super::dedup::ById;
use super::encode::decode;
use super::image::ImageRef;
use super::index::IndexObject;
use super::moved::Moved;
use super::pack::{Content, Entry, PackTable};
use super::pool::{IN_FLIGHT, parallel};
use super::{Id, ImageName, ImageRecord, Store, StoreSource, page};
use crate::manifest::hex;
use crate::merkle::{self, Hash, Leaves};
use crate::{Error, ErrorKind, ExtentMap, Result, ResultExt};

/// An image that is open.
pub struct StoredImage {
    /// Which.
    pub image: ImageRef,
    /// Its object.
    pub record: ImageRecord,
    /// Its disks, as in the manifest.
    pub disks: Vec<StoredDisk>,
    /// What is wrong with the store's objects around it.
    pub warnings: Vec<String>,
}

/// One disk.
pub struct StoredDisk {
    /// Its content.
    pub source: StoreSource,
    /// Which bytes are data, zeros, holes.
    pub extents: ExtentMap,
    /// The hash of every leaf.
    pub leaves: Leaves,
}

/// A chunk's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Number of the pack.
    pub(super) pack: u32,
    /// First byte in it.
    pub(super) at: u32,
    pub(super) stored: u32,
    pub(super) raw: u32,
    pub(super) codec: super::pack::Codec,
    pub(super) content: super::pack::Content,
}

impl Place {
    /// None where the pack is larger than any that is written.
    pub(super) fn of(pack: u32, at: u64, entry: &Entry) -> Option<Self> {
        let at = u32::try_from(at).ok()?;
        let Entry { stored, raw, codec, content, .. } = *entry;
        Some(Self { pack, at, stored, raw, codec, content })
    }

    /// The first byte behind it.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.at) + u64::from(self.stored)
    }

    /// Its pack, and its bytes in it.
    pub(super) fn span(&self) -> (u32, std::ops::Range<u64>) {
        (self.pack, u64::from(self.at)..self.end())
    }

    pub(super) fn entry(&self, id: Id) -> Entry {
        Entry { id, stored: self.stored, raw: self.raw, codec: self.codec, content: self.content }
    }
}

/// Where the chunks of an image are.
pub(super) struct Places {
    store: Store,
    chunks: ById<Place>,
    /// Their objects' names.
    packs: Vec<String>,
    numbers: ById<u32>,
    damage: Damage,
    warnings: Vec<String>,
    /// Copies elsewhere of what this image needs, once one was looked for.
    copies: Mutex<Option<Copies>>,
}

/// All places of an image's chunks in a whole store.
struct Copies {
    chunks: ById<Vec<Place>>,
    /// The packs' objects.
    packs: Vec<String>,
}

impl Places {
    fn new(store: &Store) -> Result<Self> {
        Ok(Self {
            store: store.clone(),
            chunks: ById::default(),
            packs: Vec::new(),
            numbers: ById::default(),
            damage: Damage::load(store)?,
            warnings: Vec::new(),
            copies: Mutex::default(),
        })
    }

    /// The packs that the image's object names, by the index objects that it names; where prune has moved what they held, the
    /// packs in their place.
    fn load(&mut self, record: &ImageRecord) -> Result<()> {
        let mut alone: Vec<Id> = Vec::new();
        for lists in record.pack_ids()?.chunks(IN_FLIGHT) {
            let store = &self.store;
            let read = parallel(lists, IN_FLIGHT, |(index, _)| {
                Ok(index.as_ref().map(|index| IndexObject::read(store.backend(), store.seal(), index)))
            })?;
            for ((_, packs), index) in lists.iter().zip(read) {
                let wanted: HashSet<Id> = packs.iter().copied().collect();
                match index {
                    Some(Ok(Some(index))) => {
                        index
                            .packs
                            .iter()
                            .filter(|pack| wanted.contains(&pack.id))
                            .for_each(|pack| self.add(pack));
                    }
                    Some(Err(error)) => self.warnings.push(error.chain()),
                    _ => {}
                }
                alone.extend(packs.iter().filter(|pack| !self.numbers.contains_key(*pack)));
            }
        }
        let gone = self.read_tables(&alone)?;
        if !gone.is_empty() {
            let moved = Moved::load(&self.store)?;
            let mut instead: Vec<Id> = gone.iter().flat_map(|pack| moved.find(pack)).collect();
            instead.sort();
            instead.dedup();
            instead.retain(|pack| !self.numbers.contains_key(pack));
            self.read_tables(&instead)?;
        }
        Ok(())
    }

    /// Answers the packs that are not there.
    fn read_tables(&mut self, packs: &[Id]) -> Result<Vec<Id>> {
        let mut gone = Vec::new();
        for packs in packs.chunks(IN_FLIGHT) {
            let store = &self.store;
            let tables =
                parallel(packs, IN_FLIGHT, |id| Ok(PackTable::read(store.backend(), store.seal(), id)))?;
            for (id, table) in packs.iter().zip(tables) {
                match table {
                    Ok(Some(table)) => self.add(&table),
                    Ok(None) => gone.push(*id),
                    Err(error) => self.warnings.push(error.chain()),
                }
            }
        }
        Ok(gone)
    }

    /// Asks all of the store for chunks that are not where the image's object says. Only what is `wanted` is kept.
    fn ask_all(&mut self, wanted: &dyn Fn(&Entry) -> bool) -> Result<()> {
        let catalog = Catalog::load(&self.store)?;
        // An index may list packs that prune has removed.
        let gone = |name: &String| PackTable::id_of(name).is_none_or(|id| catalog.number(&id).is_none());
        let gone: Vec<bool> = self.packs.iter().map(gone).collect();
        self.chunks.retain(|_, place| !gone.get(place.pack as usize).copied().unwrap_or(true));
        catalog.tables(&mut |number, table| {
            for (at, entry) in catalog.good(number, table).filter(|(_, entry)| wanted(entry)) {
                let pack = self.pack_number(&table.id);
                if let Some(place) = Place::of(pack, at, entry) {
                    self.chunks.entry(entry.id).or_insert(place);
                }
            }
            Ok(())
        })?;
        let damaged = catalog.oddities.into_iter().filter(|oddity| oddity.damage);
        self.warnings.extend(damaged.map(|oddity| format!("{}: {}", oddity.object, oddity.what)));
        Ok(())
    }

    fn pack_number(&mut self, id: &Id) -> u32 {
        *self.numbers.entry(*id).or_insert_with(|| {
            self.packs.push(PackTable::object(id));
            self.packs.len() as u32 - 1
        })
    }

    fn add(&mut self, pack: &PackTable) {
        if self.numbers.contains_key(&pack.id) {
            return;
        }
        let number = self.pack_number(&pack.id);
        self.chunks.reserve(pack.entries.len());
        for (at, entry) in pack.places() {
            let Some(place) = Place::of(number, at, entry) else { break };
            if !self.damage.has(&pack.id, &entry.id) {
                self.chunks.entry(entry.id).or_insert(place);
            }
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn place(&self, id: &Id) -> Option<&Place> {
        self.chunks.get(id)
    }

    pub(super) fn pack(&self, place: &Place) -> &str {
        self.pack_name(place.pack)
    }

    pub(super) fn pack_name(&self, pack: u32) -> &str {
        self.packs.get(pack as usize).map_or("", String::as_str)
    }

    /// The chunk from another pack than `failed`, where its place was damaged, or removed since this image was opened: prune has
    /// then put it elsewhere. `out` is filled.
    pub(super) fn read_elsewhere(&self, id: &Id, failed: &str, out: &mut [u8]) -> Result<bool> {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        // What was found for an earlier chunk may have been moved again.
        for known in [copies.is_some(), false] {
            if !known {
                *copies = Some(self.find_copies()?);
            }
            let Some(found) = &*copies else { continue };
            for place in found.chunks.get(id).map(Vec::as_slice).unwrap_or_default() {
                let pack = found.packs.get(place.pack as usize).map_or("", String::as_str);
                let entry = place.entry(*id);
                if pack == failed || entry.raw as usize != out.len() {
                    continue;
                }
                let mut stored = vec![0; entry.stored as usize];
                let read = self.store.backend().read(pack, &mut stored, place.at.into());
                if read.is_ok()
                    && decode(self.store.seal(), &entry, &stored, out).is_ok()
                    && id_of(&self.store, entry.content, out) == *id
                {
                    return Ok(true);
                }
            }
            if !known {
                break;
            }
            let moved =
                |place: &Place| found.packs.get(place.pack as usize).is_none_or(|pack| !self.is_there(pack));
            if !found.chunks.get(id).is_some_and(|places| places.iter().any(moved)) {
                break;
            }
        }
        Ok(false)
    }

    fn is_there(&self, pack: &str) -> bool {
        self.store.backend().tail(pack, 16).is_ok_and(|found| found.is_some())
    }

    fn find_copies(&self) -> Result<Copies> {
        let catalog = Catalog::load(&self.store)?;
        let mut chunks: ById<Vec<Place>> = ById::default();
        catalog.tables(&mut |number, table| {
            for (at, entry) in catalog.good(number, table) {
                if self.chunks.contains_key(&entry.id) {
                    chunks.entry(entry.id).or_default().extend(Place::of(number, at, entry));
                }
            }
            Ok(())
        })?;
        Ok(Copies { chunks, packs: catalog.packs.iter().map(|pack| PackTable::object(&pack.id)).collect() })
    }

    /// A page or node by the hash of its bytes.
    fn page(&mut self, hash: &Hash) -> Result<Vec<u8>> {
        let id = self.store.seal().id(hash);
        if !self.chunks.contains_key(&id) {
            self.ask_all(&|entry| entry.content == Content::Page)?;
        }
        let missing = || {
            Error::new(ErrorKind::Mismatch, format!("looking for the page {}", hex(hash)))
                .because("no pack has it: packs were lost or damaged")
        };
        let place = *self.chunks.get(&id).ok_or_else(missing)?;
        let pack = self.pack(&place).to_owned();
        let read = checked(|| {
            let mut bytes = vec![0; place.raw as usize];
            self.read_page(hash, &place, &pack, &mut bytes).map(|()| bytes)
        });
        match read.doing(|| format!("reading a page from {pack} at {:#x}", place.at)) {
            Ok(bytes) => Ok(bytes),
            Err(error) => {
                let mut bytes = vec![0; place.raw as usize];
                if !self.read_elsewhere(&id, &pack, &mut bytes)? {
                    return Err(error);
                }
                self.warnings.push(format!("{}; another pack has it", error.chain()));
                Ok(bytes)
            }
        }
    }

    fn read_page(&self, hash: &Hash, place: &Place, pack: &str, bytes: &mut [u8]) -> Result<()> {
        let mut stored = vec![0; place.stored as usize];
        self.store.backend().read(pack, &mut stored, place.at.into())?;
        decode(self.store.seal(), &place.entry(self.store.seal().id(hash)), &stored, bytes)?;
        if page::name(bytes) != *hash {
            return Err(
                Error::new(ErrorKind::Mismatch, "comparing a page").because("its hash is another one")
            );
        }
        Ok(())
    }
}

impl Store {
    /// Opens an image for reading.
    pub fn open_image(&self, name: &ImageName) -> Result<StoredImage> {
        let image = self.find(name)?;
        self.open_ref(&image).doing(|| format!("opening the image {}@{}", name.machine, image.time))
    }

    /// The same by its place in the listing.
    pub fn open_ref(&self, image: &ImageRef) -> Result<StoredImage> {
        let record = self.record(image)?;
        let mut places = Places::new(self)?;
        places.load(&record)?;
        let mut maps = Vec::new();
        for (index, tree) in record.trees.iter().enumerate() {
            let root = record.root(index)?;
            let doing = || format!("reading the tree of disk {index}");
            let (extents, leaves) =
                page::read(tree.size, &root, &mut |hash| places.page(hash)).doing(doing)?;
            let expected = record.manifest.disks.get(index).map(|disk| disk.root.as_str());
            if expected != Some(hex(&leaves.root()).as_str()) {
                return Err(Error::new(ErrorKind::Mismatch, doing())
                    .because("it is of another disk than the manifest"));
            }
            maps.push((extents, leaves));
        }
        let mut missing: HashSet<Id> = HashSet::new();
        for (_, leaves) in &maps {
            for (first, count, hash) in leaves.runs() {
                let bytes = ((first + count) * crate::LEAF).min(leaves.size()) - first * crate::LEAF;
                let id = self.seal().id(&hash);
                if hash != merkle::zero_leaf(bytes.min(crate::LEAF)) && places.place(&id).is_none() {
                    missing.insert(id);
                }
            }
        }
        if !missing.is_empty() {
            places.ask_all(&|entry| missing.contains(&entry.id))?;
        }
        let warnings = std::mem::take(&mut places.warnings);
        let places = Arc::new(places);
        let disks = maps.into_iter().zip(&record.manifest.disks).map(|((extents, leaves), disk)| {
            let source = StoreSource::new(places.clone(), leaves.clone(), disk.sector_size);
            StoredDisk { source, extents, leaves }
        });
        let disks = disks.collect();
        Ok(StoredImage { image: image.clone(), record, disks, warnings })
    }
}
