// SPDX-License-Identifier: Apache-2.0
//! An image of a store, opened: its disks as block sources.

use std::collections::HashSet;
use std::sync::Arc;

use super::backend::{checked, names};
use super::dedup::ById;
use super::encode::decode;
use super::image::ImageRef;
use super::index::IndexObject;
use super::pack::{Entry, PackTable};
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
    known: HashSet<Id>,
    warnings: Vec<String>,
    /// True once everything that the store has was asked.
    complete: bool,
}

impl Places {
    fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            chunks: ById::default(),
            packs: Vec::new(),
            known: HashSet::new(),
            warnings: Vec::new(),
            complete: false,
        }
    }

    /// The packs that the image's object names, by the index objects that it names.
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
                alone.extend(packs.iter().filter(|pack| !self.known.contains(*pack)));
            }
        }
        self.read_tables(&alone)
    }

    fn read_tables(&mut self, packs: &[Id]) -> Result<()> {
        for packs in packs.chunks(IN_FLIGHT) {
            let store = &self.store;
            let tables =
                parallel(packs, IN_FLIGHT, |id| Ok(PackTable::read(store.backend(), store.seal(), id)))?;
            for table in tables {
                match table {
                    Ok(Some(table)) => self.add(&table),
                    // Repacked since; whether a chunk is missing is seen when it is asked for.
                    Ok(None) => {}
                    Err(error) => self.warnings.push(error.chain()),
                }
            }
        }
        Ok(())
    }

    /// Everything else that the store has, for chunks that are no longer where the image's object says.
    fn load_all(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.complete, true) {
            return Ok(());
        }
        for name in names(self.store.backend(), "index/")? {
            let Some(id) = IndexObject::id_of(&name) else { continue };
            match IndexObject::read(self.store.backend(), self.store.seal(), &id) {
                Ok(Some(index)) => index.packs.iter().for_each(|pack| self.add(pack)),
                Ok(None) => {}
                Err(error) => self.warnings.push(error.chain()),
            }
        }
        let listed = names(self.store.backend(), "packs/")?;
        let there: HashSet<Id> = listed.iter().filter_map(|name| PackTable::id_of(name)).collect();
        // An index may list packs that prune has removed.
        let gone: Vec<bool> = self
            .packs
            .iter()
            .map(|name| PackTable::id_of(name).is_none_or(|id| !there.contains(&id)))
            .collect();
        self.chunks.retain(|_, place| !gone.get(place.pack as usize).copied().unwrap_or(true));
        let indexed = std::mem::take(&mut self.known);
        let mut again: Vec<Id> = there.iter().filter(|id| !indexed.contains(*id)).copied().collect();
        again.sort();
        self.read_tables(&again)
    }

    fn add(&mut self, pack: &PackTable) {
        if !self.known.insert(pack.id) {
            return;
        }
        let number = self.packs.len() as u32;
        self.packs.push(PackTable::object(&pack.id));
        self.chunks.reserve(pack.entries.len());
        for (at, entry) in pack.places() {
            let Ok(at) = u32::try_from(at) else { break };
            let place = Place {
                pack: number,
                at,
                stored: entry.stored,
                raw: entry.raw,
                codec: entry.codec,
                content: entry.content,
            };
            self.chunks.entry(entry.id).or_insert(place);
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

    /// A page or node by the hash of its bytes.
    fn page(&mut self, hash: &Hash) -> Result<Vec<u8>> {
        let id = self.store.seal().id(hash);
        if !self.chunks.contains_key(&id) {
            self.load_all()?;
        }
        let missing = || {
            Error::new(ErrorKind::Mismatch, format!("looking for the page {}", hex(hash)))
                .because("no pack has it: packs were lost or damaged")
        };
        let place = *self.chunks.get(&id).ok_or_else(missing)?;
        let pack = self.pack(&place).to_owned();
        let doing = || format!("reading a page from {pack} at {:#x}", place.at);
        checked(|| {
            let mut stored = vec![0; place.stored as usize];
            self.store.backend().read(&pack, &mut stored, place.at.into()).doing(doing)?;
            let mut bytes = vec![0; place.raw as usize];
            decode(self.store.seal(), &place.entry(id), &stored, &mut bytes).doing(doing)?;
            if page::name(&bytes) != *hash {
                return Err(Error::new(ErrorKind::Mismatch, doing()).because("its hash is another one"));
            }
            Ok(bytes)
        })
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
        let mut places = Places::new(self);
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
        let missing = maps.iter().any(|(_, leaves)| {
            leaves.runs().any(|(first, count, hash)| {
                let bytes = ((first + count) * crate::LEAF).min(leaves.size()) - first * crate::LEAF;
                let zero = hash == merkle::zero_leaf(bytes.min(crate::LEAF));
                !zero && places.place(&self.seal().id(&hash)).is_none()
            })
        });
        if missing {
            places.load_all()?;
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
