// SPDX-License-Identifier: Apache-2.0
//! Whether a store has everything that its images need, and has it unharmed.
//!
//! ```text
//!   listing, tables --> what is there  --+--> trees of all images: is every page and leaf there? --> none is missing: whole
//!   packs (--read-data) -> what is damaged                                |
//!                                                                         +--> else each image once more: which bytes of which disks
//! ```
//!
//! What is there is kept by 64 bits of each id. Two chunks that share them (one pair in a store of 4 billion chunks, or made by somebody
//! who hashed as many) could hide that one of them is lost; reading an image (`unmoor verify`) trusts no such thing.

mod hurt;
mod packs;

pub(super) use packs::is_right;

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::catalog::{Catalog, Oddity};
use super::damage::Damage;
use super::ids::IdSet;
use super::image::ImageRecord;
use super::pack::PackTable;
use super::walk::{Walk, records, roots};
use super::{Id, ImageRef, LeaseState, Mark, Store};
use crate::manifest::hex;
use crate::merkle::Hash;
use crate::{Error, ErrorKind, Monitor, Result, ResultExt};

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// These images and what they need; the whole store where there are none.
    pub images: Option<Vec<ImageRef>>,
    /// Percent of the packs whose content is read; 0 reads nothing but tables and trees.
    pub read_percent: u8,
    /// Write down which chunks are damaged, so that the next capture that has them sends them again.
    pub quarantine: bool,
    /// Packs that are read at a time; 0 chooses by the number of processors.
    pub threads: usize,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// Images that were looked at.
    pub images: u64,
    /// Packs that there are.
    pub packs: u64,
    /// Bytes of them.
    pub pack_bytes: u64,
    /// Bytes of packs that were read.
    pub read_bytes: u64,
    /// Pages of trees that were read.
    pub pages: u64,
    /// Images that lack something.
    pub hurt: Vec<HurtImage>,
    /// Objects that are damaged, whether or not an image needs them.
    pub damaged: Vec<Finding>,
    /// What is worth knowing, and harmless.
    pub notes: Vec<Finding>,
    /// Packs of which damage was written down.
    pub quarantined: u64,
}

/// Something about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub object: String,
    /// What about it.
    pub what: String,
}

/// An image that lacks something.
#[derive(Debug, Clone, Serialize)]
pub struct HurtImage {
    /// The machine's name, or what stands for it if that cannot be read.
    pub machine: String,
    /// The image's time.
    pub time: String,
    /// Why nothing of it can be read, if so.
    pub because: Option<String>,
    /// What is missing of its disks.
    pub disks: Vec<HurtDisk>,
}

/// A disk of which something is missing.
#[derive(Debug, Clone, Serialize)]
pub struct HurtDisk {
    /// Its number in the manifest.
    pub disk: usize,
    /// Byte ranges of the disk (start, end) that cannot be read.
    pub ranges: Vec<(u64, u64)>,
}

impl CheckReport {
    /// True if every image is complete and no object is damaged.
    pub fn is_whole(&self) -> bool {
        self.hurt.is_empty() && self.damaged.is_empty()
    }
}

/// Chunks of packs that were read and are not what they should be; none where only the pack's own table is damaged.
type Bad = BTreeMap<Id, HashSet<Id>>;

impl Store {
    /// Checks the store, or some of its images.
    ///
    /// # Errors
    ///
    /// If the store cannot be listed. What is damaged is in the report.
    pub fn check(&self, options: &CheckOptions, monitor: &dyn Monitor) -> Result<CheckReport> {
        let doing = || format!("checking the store in {}", self.backend().describe());
        self.check_all(options, monitor).doing(doing)
    }

    fn check_all(&self, options: &CheckOptions, monitor: &dyn Monitor) -> Result<CheckReport> {
        // Images first: what they need was there before them.
        let images = match &options.images {
            Some(images) => images.clone(),
            None => self.images()?,
        };
        let catalog = Catalog::load(self)?;
        let mut report = CheckReport {
            images: images.len() as u64,
            packs: catalog.packs.len() as u64,
            pack_bytes: catalog.packs.iter().map(|pack| pack.bytes).sum(),
            ..CheckReport::default()
        };
        let mut bad = Bad::new();
        if options.read_percent > 0 {
            let wanted = match &options.images {
                Some(images) => Some(needed(&catalog, images, monitor)?),
                None => None,
            };
            bad = packs::read(&catalog, options, wanted.as_ref(), &mut report, monitor)?;
        }
        let there = there(&catalog, &bad)?;
        let mut walk = Walk::new(&catalog);
        let mut missing: HashSet<Id> = HashSet::new();
        let mut unreadable: Vec<HurtImage> = Vec::new();
        records(&catalog, &images, monitor, &mut |images, read| {
            let mut ends = Vec::new();
            for (image, record) in images.iter().zip(read) {
                match record.and_then(|record| roots(&record)) {
                    Ok(roots) => ends.extend(roots),
                    Err(error) => unreadable.extend(self.unreadable(image, &error)?),
                }
            }
            let mut used = |id: &Id| {
                if !there.contains(id) {
                    missing.insert(*id);
                }
            };
            walk.go(ends, &mut used, monitor)
        })?;
        report.pages = walk.pages() as u64;
        let broken: HashSet<Hash> = walk.broken.iter().map(|(hash, _)| *hash).collect();
        report.hurt = unreadable;
        if !missing.is_empty() || !broken.is_empty() {
            let mut hurt = hurt::Search::new(&catalog, &missing, &broken);
            records(&catalog, &images, monitor, &mut |images, read| {
                for (image, record) in images.iter().zip(read) {
                    if let Ok(record) = record {
                        report.hurt.extend(hurt.image(image, &record)?);
                    }
                }
                Ok(())
            })?;
        }
        self.describe_objects(&catalog, &bad, options, &mut report)?;
        if options.quarantine {
            report.quarantined = quarantine(self, &catalog, bad, &missing)?;
        }
        Ok(report)
    }

    /// An image whose object cannot be read; none if it was removed since it was listed.
    fn unreadable(&self, image: &ImageRef, error: &Error) -> Result<Option<HurtImage>> {
        if self.backend().get(&image.object(), super::MOST_METADATA).is_ok_and(|found| found.is_none()) {
            return Ok(None);
        }
        let because = Some(error.chain());
        let (machine, time) = (image.folder.clone(), image.time.clone());
        Ok(Some(HurtImage { machine, time, because, disks: Vec::new() }))
    }

    /// Objects that are not as they should be.
    fn describe_objects(
        &self,
        catalog: &Catalog,
        bad: &Bad,
        options: &CheckOptions,
        report: &mut CheckReport,
    ) -> Result<()> {
        let finding = |object: String, what: &str| Finding { object, what: what.to_owned() };
        for Oddity { object, what, damage } in &catalog.oddities {
            let list = if *damage { &mut report.damaged } else { &mut report.notes };
            list.push(finding(object.clone(), what));
        }
        for (pack, chunks) in bad {
            let what = match chunks.len() {
                0 => "its table is damaged; its chunks are not".to_owned(),
                count => format!("{count} of its chunks are damaged"),
            };
            report.damaged.push(finding(PackTable::object(pack), &what));
        }
        for pack in catalog.damage.packs() {
            report.notes.push(finding(
                Damage::object(pack),
                "damage that was found before; the next capture that has such chunks sends them again",
            ));
        }
        if options.images.is_some() {
            return Ok(());
        }
        for (pack, index) in &catalog.absent {
            let what = format!("index/{} lists it, and it is not there; no image may need it", hex(index));
            report.notes.push(finding(PackTable::object(pack), &what));
        }
        match Mark::list(self) {
            Ok(marks) => report.notes.extend(marks.iter().map(|mark| {
                let what = format!("a prune of {} has not ended: run prune again", mark.created);
                finding(format!("marks/{}.json", mark.id), &what)
            })),
            Err(error) => report.damaged.push(finding(
                "marks/".into(),
                &format!("{}: nothing can be captured or pruned until it is removed", error.chain()),
            )),
        }
        for lease in LeaseState::list(self)? {
            let who = if lease.prune { "a prune" } else { "a capture" };
            let what = format!("{who} runs, or was killed: {} since {}", lease.holder, lease.taken);
            report.notes.push(finding(format!("leases/{}.json", lease.id), &what));
        }
        for name in self.unreadable_keys()? {
            report
                .damaged
                .push(finding(name, "it cannot be read: what it was made of opens the store no more"));
        }
        Ok(())
    }
}

/// Everything that has an undamaged place.
fn there(catalog: &Catalog, bad: &Bad) -> Result<IdSet> {
    let mut there = IdSet::default();
    catalog.tables(&mut |number, table| {
        let harmed = bad.get(&table.id);
        for (_, entry) in catalog.good(number, table) {
            if !harmed.is_some_and(|chunks| chunks.contains(&entry.id)) {
                there.insert(&entry.id);
            }
        }
        Ok(())
    })?;
    there.settle();
    Ok(there)
}

/// The first image that needs a page which is lost, as an error that names it.
pub(super) fn first_hurt(
    catalog: &Catalog,
    images: &[ImageRef],
    broken: &HashSet<Hash>,
    monitor: &dyn Monitor,
) -> Result<Error> {
    let nothing = HashSet::new();
    let (mut search, mut found) = (hurt::Search::new(catalog, &nothing, broken), None);
    records(catalog, images, monitor, &mut |images, read| {
        for (image, record) in images.iter().zip(read) {
            if let (None, Ok(record)) = (&found, record) {
                found = search.image(image, &record)?;
            }
        }
        Ok(())
    })?;
    let name = found.map_or("an image that was removed since".to_owned(), |hurt| {
        let more = if broken.len() > 1 { " and perhaps others" } else { "" };
        format!("{}@{}{more}", hurt.machine, hurt.time)
    });
    Ok(Error::new(ErrorKind::Mismatch, format!("reading the tree of {name}"))
        .because(format!("{} pages are lost or damaged", broken.len())))
}

/// What some images need.
fn needed(catalog: &Catalog, images: &[ImageRef], monitor: &dyn Monitor) -> Result<IdSet> {
    let (mut needed, mut walk) = (IdSet::default(), Walk::new(catalog));
    records(catalog, images, monitor, &mut |_, read| {
        let ends = read.iter().flatten().map(roots).collect::<Result<Vec<_>>>()?.concat();
        walk.go(ends, &mut |id| needed.insert(id), monitor)
    })?;
    needed.settle();
    Ok(needed)
}

/// Writes down what is damaged. Of packs that are gone, only what an image lacks makes a record worth it.
fn quarantine(store: &Store, catalog: &Catalog, bad: Bad, missing: &HashSet<Id>) -> Result<u64> {
    let mut damage = catalog.damage.clone();
    let mut harmed = bad;
    for (pack, lost) in catalog.packs_cut_short()? {
        harmed.entry(pack).or_default().extend(lost);
    }
    let mut count = harmed.len() as u64;
    for (pack, chunks) in harmed {
        damage.add(store, &pack, Some(chunks))?;
    }
    if !missing.is_empty() {
        for pack in catalog.absent.keys().filter(|pack| !catalog.damage.touches(pack)) {
            damage.add(store, pack, None)?;
            count += 1;
        }
    }
    store.backend().barrier()?;
    Ok(count)
}

impl HurtImage {
    fn of(image: &ImageRef, record: &ImageRecord) -> Self {
        Self {
            machine: record.summary.machine.clone(),
            time: image.time.clone(),
            because: None,
            disks: Vec::new(),
        }
    }
}
