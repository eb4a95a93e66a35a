// SPDX-License-Identifier: Apache-2.0
//! A capture into a store.
//!
//! ```text
//!   lease -> marks, indexes -> each thread: hash is there? | compress, seal | append to the pack    a full pack -> sent
//!   commit: trees -> last pack -> marks again -> index objects -> flush -> lease still held? -> the image, last
//! ```
//!
//! Whatever is sent before the image is nothing but packs, which the next capture finds. Memory is bounded by the threads,
//! three packs, and what is known to be there (`dedup.rs`).

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::dedup::Dedup;
use super::encode::{Encoder, decode};
use super::image::{ImageRef, IndexedPacks};
use super::index::{IndexObject, MOST_ENTRIES};
use super::leases::Lease;
use super::location::check_name;
use super::pack::{Content, Entry, PackTable};
use super::sending::Sending;
use super::{
    Added, DiskTree, Id, ImageName, ImageRecord, LeaseState, Mark, PACK, Store, StoreSink, Summary, page,
};
use crate::formats::Compression;
use crate::manifest::{Manifest, hex};
use crate::merkle::{self, Hash, Leaves};
use crate::{Error, ErrorKind, ExtentMap, LEAF, Monitor, Result, ResultExt, State};

/// What an image is compared with first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Since {
    /// The machine's latest image.
    #[default]
    Latest,
    /// This image, of this machine or another.
    Image(ImageName),
}

/// How to write.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Of chunks; stores have no deflate.
    pub compression: Compression,
    /// What to look at first for what is there.
    pub since: Since,
    /// Who captures, for people who look at leases.
    pub holder: String,
}

/// A capture that has begun.
#[must_use = "a capture that is not committed leaves packs that no image uses"]
pub struct Writer {
    pub(super) store: Store,
    machine: String,
    pub(super) level: Option<i32>,
    pub(super) lease: Lease,
    parent: Option<ImageRef>,
    pub(super) dedup: Mutex<Dedup>,
    filling: Mutex<Filling>,
    sending: Sending,
    pub(super) encoders: Mutex<Vec<(Encoder, Vec<u8>)>>,
    /// Bytes at which a pack is closed.
    pub(super) pack_bytes: AtomicUsize,
    pub(super) new_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

/// The pack that chunks are put into.
#[derive(Default)]
struct Filling {
    pack: Option<Vec<u8>>,
    entries: Vec<Entry>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// Begins a capture of `machine`: takes a lease, and asks what is there.
    pub fn begin(
        store: &Store,
        machine: &str,
        options: &WriterOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        check_name(machine)?;
        let level = match options.compression {
            Compression::None => None,
            Compression::Zstd(level) => Some(level),
            Compression::Auto => Some(1),
            Compression::Zlib(_) => {
                let because = "chunks of a store are compressed by zstd, or not at all";
                return Err(Error::new(ErrorKind::Usage, "choosing a compression").because(because));
            }
        };
        let parent = match &options.since {
            Since::Latest => store.images_of(machine)?.pop(),
            Since::Image(name) => Some(store.find(name)?),
        };
        let lease = Lease::take(store, &options.holder)?;
        let marked = Mark::packs(store)?;
        // Behind the lease: what prune marks from now on, it will not remove before this capture has ended.
        let record = match &parent {
            None => None,
            Some(image) => match store.record(image) {
                Ok(record) => Some(record),
                Err(error) => {
                    monitor.warn(format!("the last image cannot be looked at: {}", error.chain()));
                    None
                }
            },
        };
        let others = LeaseState::list(store)?.iter().any(|other| other.id != lease.id() && !other.prune);
        let dedup = Dedup::load(store, record.as_ref(), others, &marked, monitor)
            .doing(|| "asking the store what is there")?;
        Ok(Self {
            store: store.clone(),
            machine: machine.to_owned(),
            level,
            lease,
            parent,
            dedup: Mutex::new(dedup),
            filling: Mutex::default(),
            sending: Sending::new(store)?,
            encoders: Mutex::default(),
            pack_bytes: AtomicUsize::new(PACK),
            new_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
        })
    }

    /// The image that was looked at first.
    pub fn parent(&self) -> Option<&ImageRef> {
        self.parent.as_ref()
    }

    /// Where one disk goes.
    pub fn sink(&self, size: u64) -> StoreSink<'_> {
        StoreSink::new(self, size)
    }

    /// Bytes of chunks that were stored so far.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// The lease, for tests that lie about time.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// True if a leaf is in the store already; this capture then relies on it.
    pub(super) fn has(&self, hash: &Hash) -> bool {
        lock(&self.dedup).find(&self.id(hash))
    }

    pub(super) fn id(&self, hash: &Hash) -> Id {
        self.store.seal().id(hash)
    }

    /// Stores those of `chunks` that are not there, in this thread.
    pub(super) fn send(&self, content: Content, chunks: &[(Id, &[u8])]) -> Result<()> {
        let missing: Vec<&(Id, &[u8])> = {
            let mut dedup = lock(&self.dedup);
            chunks.iter().filter(|(id, _)| !dedup.claim(id)).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let pooled = lock(&self.encoders).pop();
        let (mut encoder, mut bytes) = pooled.unwrap_or_else(|| (Encoder::new(), Vec::new()));
        bytes.clear();
        let mut entries = Vec::with_capacity(missing.len());
        for (id, data) in missing {
            entries.push(encoder.encode(self.store.seal(), (*id, content), data, self.level, &mut bytes)?);
            if content == Content::Leaf {
                self.new_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
        }
        self.append(&entries, &bytes)?;
        lock(&self.encoders).push((encoder, bytes));
        Ok(())
    }

    /// Puts encoded chunks side by side into the pack; one that is full goes its way.
    pub(super) fn append(&self, entries: &[Entry], bytes: &[u8]) -> Result<()> {
        self.stored_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let most = self.pack_bytes.load(Ordering::Relaxed);
        let full = {
            let mut filling = lock(&self.filling);
            let sealed = self.store.seal().is_sealed();
            if filling.pack.is_none() {
                let header = PackTable::header(sealed)?;
                filling.pack.insert(self.sending.buffer(most + (2 << 20))).extend_from_slice(&header);
            }
            let pack = filling.pack.get_or_insert_default();
            pack.extend_from_slice(bytes);
            let full = pack.len() >= most;
            filling.entries.extend_from_slice(entries);
            full.then(|| std::mem::take(&mut *filling))
        };
        full.map_or(Ok(()), |full| self.send_pack(full))
    }

    fn send_pack(&self, filling: Filling) -> Result<()> {
        let Some(mut pack) = filling.pack else { return Ok(()) };
        match PackTable::close(filling.entries, self.store.seal(), &mut pack) {
            Ok(table) => self.sending.send(table, pack),
            Err(error) => {
                // Others wait for the buffer.
                self.sending.give(pack);
                Err(error)
            }
        }
    }

    /// Sends the last pack, and waits until all have arrived.
    pub(super) fn send_rest(&self) -> Result<Vec<PackTable>> {
        self.send_pack(std::mem::take(&mut *lock(&self.filling)))?;
        self.sending.finish()
    }

    /// Makes the image: `disks` are its disks' maps and leaves in the manifest's order. What `added` says of reading is kept.
    pub fn commit(
        self,
        manifest: Manifest,
        disks: &[(&ExtentMap, &Leaves)],
        read_bytes: u64,
    ) -> Result<(ImageRef, Summary)> {
        self.commit_with(manifest, disks, read_bytes, &mut || {})
    }

    /// The same, with what happens between the last pack and the second look at the marks, for tests.
    pub(super) fn commit_with(
        self,
        manifest: Manifest,
        disks: &[(&ExtentMap, &Leaves)],
        read_bytes: u64,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(ImageRef, Summary)> {
        let mut trees = self.trees(disks).doing(|| "storing the disks' trees")?;
        let mut sent = self.send_rest()?;
        meanwhile();
        self.store.backend().barrier()?;
        while let Some(marked) = self.newly_marked()? {
            self.send_again(&marked, disks).doing(|| "sending again what prune has marked")?;
            trees = self.trees(disks)?;
            sent = self.send_rest()?;
        }
        let new_packs = sent.len() as u64;
        let packs = self.write_indexes(sent).doing(|| "storing the index")?;
        self.store.backend().barrier()?;
        self.lease.check()?;
        let summary = Summary {
            machine: self.machine.clone(),
            created: manifest.created.clone(),
            size_bytes: manifest.disks.iter().map(|disk| disk.size).sum(),
            data_bytes: disks.iter().map(|(extents, _)| extents.bytes(State::Data)).sum(),
            added: Added {
                read_bytes,
                new_bytes: self.new_bytes.load(Ordering::Relaxed),
                stored_bytes: self.stored_bytes(),
                packs: new_packs,
            },
        };
        let record = ImageRecord::new(summary.clone(), trees, packs, manifest);
        let image = self.store.commit(&record).doing(|| "storing the image")?;
        // The write itself may have taken long.
        if let Err(error) = self.lease.check() {
            self.store.backend().delete(&image.object())?;
            return Err(error);
        }
        self.lease.release()?;
        Ok((image, summary))
    }

    fn trees(&self, disks: &[(&ExtentMap, &Leaves)]) -> Result<Vec<DiskTree>> {
        let mut trees = Vec::new();
        for (extents, leaves) in disks {
            let root = page::write(extents, leaves, &mut |name, bytes| {
                if bytes.len() as u64 > super::pack::MOST_PAGE {
                    return Err(Error::unsupported(
                        "storing a page",
                        "64 MiB of disk have millions of extents",
                    ));
                }
                self.send(Content::Page, &[(self.id(&name), &bytes)])
            })?;
            trees.push(DiskTree { size: extents.size(), root: hex(&root) });
        }
        Ok(trees)
    }

    /// Packs that this capture relies on and prune has marked since.
    fn newly_marked(&self) -> Result<Option<HashSet<Id>>> {
        let marked = Mark::packs(&self.store)?;
        let used: HashSet<Id> = lock(&self.dedup).used().map(|pack| pack.id).collect();
        let both: HashSet<Id> = used.intersection(&marked).copied().collect();
        Ok((!both.is_empty()).then_some(both))
    }

    /// Copies what the image needs out of marked packs. They are still there: prune waits for the lease.
    fn send_again(&self, marked: &HashSet<Id>, disks: &[(&ExtentMap, &Leaves)]) -> Result<()> {
        let mut wanted: HashSet<Id> = HashSet::new();
        let mut hashes: Vec<(Id, Hash)> = Vec::new();
        {
            let mut dedup = lock(&self.dedup);
            for (_, leaves) in disks {
                for (_, _, hash) in leaves.runs() {
                    let id = self.id(&hash);
                    if dedup.pack_of(&id).is_some_and(|pack| marked.contains(&pack)) && wanted.insert(id) {
                        hashes.push((id, hash));
                    }
                }
            }
            // Pages are made anew by `trees`, which finds them missing.
            dedup.forget(marked);
        }
        let hashes: std::collections::HashMap<Id, Hash> = hashes.into_iter().collect();
        let mut buffer = vec![0; LEAF as usize];
        for id in marked {
            let object = PackTable::object(id);
            let table = PackTable::read(self.store.backend(), self.store.seal(), id)?;
            let table = table.ok_or_else(|| {
                Error::new(ErrorKind::Io, format!("reading {object}"))
                    .because("it was removed in spite of the lease")
            })?;
            for (at, entry) in table.places() {
                let Some(hash) = hashes.get(&entry.id) else { continue };
                let mut stored = vec![0; entry.stored as usize];
                self.store.backend().read(&object, &mut stored, at)?;
                let out = buffer.get_mut(..entry.raw as usize).unwrap_or_default();
                decode(self.store.seal(), entry, &stored, out)?;
                if merkle::leaf(out) != *hash {
                    return Err(Error::new(ErrorKind::Mismatch, format!("reading {object}"))
                        .at(at)
                        .because("a chunk is damaged"));
                }
                self.send(Content::Leaf, &[(entry.id, out)])?;
            }
        }
        Ok(())
    }

    /// Index objects for what no index lists yet; answers all packs that the image relies on.
    pub(super) fn write_indexes(&self, own: Vec<PackTable>) -> Result<Vec<IndexedPacks>> {
        let mut lists: Vec<IndexedPacks> = Vec::new();
        let mut fresh = own;
        {
            let dedup = lock(&self.dedup);
            for pack in dedup.used() {
                let Some(index) = pack.index.as_ref().map(hex) else {
                    fresh.extend(pack.table.clone());
                    continue;
                };
                match lists.iter_mut().find(|list| list.index.as_ref() == Some(&index)) {
                    Some(list) => list.packs.push(hex(&pack.id)),
                    None => lists.push(IndexedPacks { index: Some(index), packs: vec![hex(&pack.id)] }),
                }
            }
        }
        let mut rest = fresh.as_slice();
        while !rest.is_empty() {
            let mut entries = 0;
            let count = rest.iter().take_while(|pack| {
                let first = entries == 0;
                entries += pack.entries.len();
                first || entries <= MOST_ENTRIES
            });
            let (now, later) = rest.split_at(count.count().max(1).min(rest.len()));
            let (id, bytes) = IndexObject::encode(now, self.store.seal())?;
            let object = IndexObject::object(&id);
            self.store.backend().put(&object, &bytes).doing(|| format!("storing {object}"))?;
            lists.push(IndexedPacks {
                index: Some(hex(&id)),
                packs: now.iter().map(|pack| hex(&pack.id)).collect(),
            });
            rest = later;
        }
        Ok(lists)
    }
}
