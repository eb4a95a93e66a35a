// SPDX-License-Identifier: Apache-2.0
//! Which bytes would go with which image: those of chunks that no other image, or no other machine, uses.
//!
//! Every page is read once, and once more if several images have it: what is below a page that two images share is shared by them, and
//! need not be walked for each. Twelve bytes a chunk are in memory.
//!
//! The last answer is kept in `usage.json`, so that a list need not count; it is a cache, and says of which images it knows.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::clock::rfc3339;
use super::dedup::ById;
use super::ids::{Bits, IdSet};
use super::seal::Kind;
use super::walk::{Walk, cancelled, records, roots};
use super::{Id, ImageRef, MOST_METADATA, Store, document};
use crate::merkle::Hash;
use crate::{Monitor, Result, ResultExt};

const OBJECT: &str = "usage.json";
/// Pages that are looked at together.
const PAGES: usize = 1024;

/// Bytes as stored that are of one image or machine only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// When it was counted: RFC 3339.
    pub counted: String,
    /// By machine (the folder of its images) and time, what goes when only that image is removed.
    pub images: BTreeMap<String, BTreeMap<String, u64>>,
    /// By machine, what goes when all its images are removed.
    pub machines: BTreeMap<String, u64>,
    /// What all images use.
    pub used_bytes: u64,
}

/// Who uses a chunk: nobody yet, one image, several of one machine, or several machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner(u32);

impl Owner {
    const NOBODY: Self = Self(u32::MAX);
    const SHARED: Self = Self(u32::MAX - 1);
    const MACHINE: u32 = 1 << 31;

    fn image(number: usize) -> Self {
        Self(number as u32 & (Self::MACHINE - 1))
    }

    /// The machine, if it is one machine's alone.
    fn machine(self, of_image: &[u32]) -> Option<u32> {
        match self {
            Self::NOBODY | Self::SHARED => None,
            Self(number) if number & Self::MACHINE != 0 => Some(number & !Self::MACHINE),
            Self(number) => of_image.get(number as usize).copied(),
        }
    }

    fn with(self, other: Self, of_image: &[u32]) -> Self {
        if self == other || other == Self::NOBODY {
            return self;
        }
        if self == Self::NOBODY {
            return other;
        }
        match (self.machine(of_image), other.machine(of_image)) {
            (Some(one), Some(two)) if one == two => Self(one | Self::MACHINE),
            _ => Self::SHARED,
        }
    }
}

impl Usage {
    /// Bytes of an image that nothing else uses, if that was counted.
    pub fn of_image(&self, image: &ImageRef) -> Option<u64> {
        self.images.get(&image.folder)?.get(&image.time).copied()
    }

    /// True if it was counted over exactly these images.
    pub fn is_of(&self, images: &[ImageRef]) -> bool {
        let counted: usize = self.images.values().map(BTreeMap::len).sum();
        counted == images.len() && images.iter().all(|image| self.of_image(image).is_some())
    }
}

impl Store {
    /// What was counted last; none where nothing was, or where it cannot be read.
    pub fn last_usage(&self) -> Option<Usage> {
        let bytes = self.backend().get(OBJECT, MOST_METADATA).ok()??;
        document::decode(&bytes, self.seal(), Kind::Mark, OBJECT).ok()
    }

    /// Counts. What is damaged counts as far as it can be read.
    pub fn count_usage(&self, monitor: &dyn Monitor) -> Result<Usage> {
        let images = self.images()?;
        let catalog = Catalog::load(self)?;
        count(&catalog, &images, monitor).doing(|| "counting what images use")
    }

    /// Keeps what was counted for the next list.
    pub fn keep_usage(&self, usage: &Usage) -> Result<()> {
        self.backend().put(OBJECT, &document::encode(usage, self.seal(), Kind::Mark, OBJECT)?)?;
        self.backend().barrier()
    }
}

/// Counts over `images`.
pub(super) fn count(catalog: &Catalog, images: &[ImageRef], monitor: &dyn Monitor) -> Result<Usage> {
    let mut machines: Vec<&str> = images.iter().map(|image| image.folder.as_str()).collect();
    machines.dedup();
    let numbers: HashMap<&str, u32> =
        machines.iter().zip(0..).map(|(machine, number)| (*machine, number)).collect();
    let of_image: Vec<u32> =
        images.iter().map(|image| numbers.get(image.folder.as_str()).copied().unwrap_or(0)).collect();
    let (mut used, mut walk) = (IdSet::default(), Walk::new(catalog));
    records(catalog, images, monitor, &mut |_, read| {
        let ends = read.iter().flatten().filter_map(|record| roots(record).ok()).collect::<Vec<_>>().concat();
        walk.go(ends, &mut |id| used.insert(id), monitor)
    })?;
    drop(walk);
    used.settle();
    let owners = vec![Owner::NOBODY; used.len()];
    let mut counter = Counter { catalog, used, owners, pages: ById::default(), of_image, monitor };
    let mut first = 0;
    records(catalog, images, monitor, &mut |images, read| {
        for (index, record) in read.iter().enumerate() {
            let Ok(roots) = record.as_ref().map_err(|_| ()).and_then(|record| roots(record).map_err(|_| ()))
            else {
                continue;
            };
            counter.image(Owner::image(first + index), roots)?;
        }
        first += images.len();
        Ok(())
    })?;
    counter.push_down()?;
    counter.sum(images, &machines)
}

struct Counter<'a> {
    catalog: &'a Catalog,
    used: IdSet,
    /// By position in `used`.
    owners: Vec<Owner>,
    /// Owner and level of each page, and who walked below it.
    pages: ById<(Owner, u8, Owner)>,
    of_image: Vec<u32>,
    monitor: &'a dyn Monitor,
}

impl Counter<'_> {
    fn own(&mut self, id: &Id, owner: Owner) {
        if let Some(slot) = self.used.position(id).and_then(|position| self.owners.get_mut(position)) {
            *slot = slot.with(owner, &self.of_image);
        }
    }

    /// Walks below what nobody has walked below yet; the rest only learns of one more owner.
    fn image(&mut self, owner: Owner, roots: Vec<(Hash, u8)>) -> Result<()> {
        let mut waiting = roots;
        while !waiting.is_empty() {
            if self.monitor.cancelled() {
                return Err(cancelled());
            }
            let now = waiting.split_off(waiting.len().saturating_sub(PAGES));
            let mut new = Vec::new();
            for (hash, level) in now {
                match self.pages.get_mut(&hash) {
                    Some((owners, ..)) => *owners = owners.with(owner, &self.of_image),
                    None => {
                        self.pages.insert(hash, (owner, level, owner));
                        new.push((hash, level));
                    }
                }
            }
            for (_, level, below) in self.catalog.pages(&new)? {
                let Ok(below) = below else { continue };
                for (.., leaf) in &below.leaves {
                    let id = self.catalog.store.seal().id(leaf);
                    self.own(&id, owner);
                }
                waiting.extend(below.children.iter().map(|(.., child)| (*child, level.saturating_sub(1))));
            }
        }
        Ok(())
    }

    /// Who shares a page shares what is below it. From the top, so that each page is read once.
    fn push_down(&mut self) -> Result<()> {
        let top = self.pages.values().map(|(_, level, _)| *level).max().unwrap_or(0);
        for level in (0..=top).rev() {
            let shared = self.pages.iter().filter(|(_, (owner, of, walked))| *of == level && owner != walked);
            let shared: Vec<(Hash, u8)> = shared.map(|(hash, _)| (*hash, level)).collect();
            for batch in shared.chunks(PAGES) {
                if self.monitor.cancelled() {
                    return Err(cancelled());
                }
                for (hash, _, below) in self.catalog.pages(batch)? {
                    let (Ok(below), Some((owner, ..))) = (below, self.pages.get(&hash).copied()) else {
                        continue;
                    };
                    for (.., leaf) in &below.leaves {
                        let id = self.catalog.store.seal().id(leaf);
                        self.own(&id, owner);
                    }
                    for (.., child) in &below.children {
                        if let Some((owners, ..)) = self.pages.get_mut(child) {
                            *owners = owners.with(owner, &self.of_image);
                        }
                    }
                }
            }
        }
        let pages: Vec<(Hash, Owner)> =
            self.pages.iter().map(|(hash, (owner, ..))| (*hash, *owner)).collect();
        for (hash, owner) in pages {
            let id = self.catalog.store.seal().id(&hash);
            self.own(&id, owner);
        }
        Ok(())
    }

    fn sum(&self, images: &[ImageRef], machines: &[&str]) -> Result<Usage> {
        let (mut of_images, mut of_machines) = (vec![0u64; images.len()], vec![0u64; machines.len()]);
        let (mut total, mut met) = (0, Bits::new(self.used.len()));
        self.catalog.tables(&mut |number, table| {
            for (_, entry) in self.catalog.good(number, table) {
                let Some(position) = self.used.position(&entry.id) else { continue };
                if met.set(position) {
                    continue;
                }
                let bytes = u64::from(entry.stored);
                total += bytes;
                let owner = self.owners.get(position).copied().unwrap_or(Owner::SHARED);
                let Some(machine) = owner.machine(&self.of_image) else { continue };
                if let Some(sum) = of_machines.get_mut(machine as usize) {
                    *sum += bytes;
                }
                if owner.0 & Owner::MACHINE == 0
                    && let Some(sum) = of_images.get_mut(owner.0 as usize)
                {
                    *sum += bytes;
                }
            }
            Ok(())
        })?;
        let mut usage = Usage {
            counted: rfc3339(self.catalog.store.clock().unix_seconds()),
            used_bytes: total,
            ..Usage::default()
        };
        for (image, bytes) in images.iter().zip(of_images) {
            usage.images.entry(image.folder.clone()).or_default().insert(image.time.clone(), bytes);
        }
        usage.machines = machines.iter().map(|machine| (*machine).to_owned()).zip(of_machines).collect();
        Ok(usage)
    }
}
