// SPDX-License-Identifier: Apache-2.0
//! Pruning: what no image uses any more gives its room back, while captures run, whatever the clocks say.
//!
//! ```text
//!   own lease (one prune at a time) -> images, trees: what is used -> tables: how much of each pack
//!     -> copy what is used of packs that are mostly unused, or many and small -> mark -> wait for every lease that is there then
//!     -> images again: what new ones use is taken off the list -> indexes without them -> sweep -> remove the mark
//! ```
//!
//! Killed anywhere, it leaves nothing worse than chunks that are there twice and a mark that the next prune takes over. What is decided
//! rests on hashes and on the order of writes; FORMAT.md says why that is enough.

mod copies;
mod plan;
mod repack;
mod sweep;
mod wait;

use std::collections::HashSet;

use serde::Serialize;

use super::catalog::Catalog;
use super::ids::IdSet;
use super::leases::Lease;
use super::walk::{Walk, records, roots};
use super::{Id, ImageRef, LeaseState, Mark, Store};
use crate::merkle::Hash;
use crate::{Error, ErrorKind, Monitor, Result, ResultExt};
use plan::{Fate, Plan};

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Images that count as removed, where it is only to be said what would happen.
    pub without: Vec<ImageRef>,
    /// Change nothing.
    pub dry_run: bool,
    /// A pack of which more percent are unused is written anew without that. With 100 small packs are not put together either.
    pub max_unused_percent: u8,
    /// Wait for captures that run. Otherwise what they may rely on is left marked for the next prune.
    pub wait: bool,
    /// Who prunes, for people who look at leases.
    pub holder: String,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            without: Vec::new(),
            dry_run: false,
            max_unused_percent: 50,
            wait: true,
            holder: String::new(),
        }
    }
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PruneReport {
    /// Images that stay.
    pub images: u64,
    /// Chunks and pages that they use.
    pub used_chunks: u64,
    /// Packs that there were.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Packs of which nothing is used.
    pub unused_packs: u64,
    /// Their bytes.
    pub unused_bytes: u64,
    /// Packs that are mostly unused, or damaged in part, and written anew.
    pub repacked_packs: u64,
    /// Their bytes.
    pub repacked_bytes: u64,
    /// Packs that are put together, because there are many small ones.
    pub merged_packs: u64,
    /// Their bytes.
    pub merged_bytes: u64,
    /// What is used of all these, and written to new packs.
    pub copied_bytes: u64,
    /// Unused bytes in packs that stay.
    pub left_unused_bytes: u64,
    /// Packs of captures that have not ended, left alone.
    pub unfinished_packs: u64,
    /// Packs that could not be judged, and stay.
    pub odd_packs: u64,
    /// Packs that were on the list, and are used by images that came meanwhile.
    pub rescued_packs: u64,
    /// Packs that were removed.
    pub removed_packs: u64,
    /// Their bytes, less what was written for them.
    pub freed_bytes: u64,
    /// Index objects before and behind.
    pub indexes: (u64, u64),
    /// Captures whose end the next prune has to wait for.
    pub waiting_for: Vec<LeaseState>,
}

impl Store {
    /// Removes images. Their bytes come back when the store is pruned.
    pub fn remove_images(&self, images: &[ImageRef]) -> Result<()> {
        for image in images {
            self.backend().delete(&image.object()).doing(|| format!("removing {}", image.object()))?;
        }
        self.backend().barrier()
    }

    /// Prunes.
    ///
    /// # Errors
    ///
    /// `Refused` if another prune runs and `wait` is not set; `Mismatch` if an image is damaged so that what it uses cannot be
    /// known. Nothing was removed then.
    pub fn prune(&self, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PruneReport> {
        let doing = || format!("pruning the store in {}", self.backend().describe());
        if options.dry_run {
            let before =
                Before { leases: wait::captures(self)?, marks: Mark::list_all(self)?, ripe: HashSet::new() };
            let (.., plan) = self.judge(options, &before, monitor).doing(doing)?;
            return Ok(plan.report);
        }
        let lease = wait::alone(self, options, monitor).doing(doing)?;
        let pruned = self.prune_alone(options, &lease, monitor).doing(doing);
        // However it ended: what the next prune has to know, the marks say.
        let released = lease.release();
        let report = pruned?;
        released?;
        // The next list shows what each image is worth.
        let images = self.images()?;
        if !self.last_usage().is_some_and(|usage| usage.is_of(&images)) {
            self.keep_usage(&self.count_usage(monitor)?)?;
        }
        Ok(report)
    }

    fn prune_alone(
        &self,
        options: &PruneOptions,
        lease: &Lease,
        monitor: &dyn Monitor,
    ) -> Result<PruneReport> {
        let before = wait::before(self)?;
        let (catalog, used, mut plan) = self.judge(options, &before, monitor)?;
        let moves = repack::run(&catalog, &mut plan, &used, lease, monitor)?;
        let listed: Vec<Id> = plan.going(&catalog).collect();
        let needless = listed.is_empty() && before.marks.is_empty() && catalog.absent.is_empty();
        if needless && catalog.broken_indexes.is_empty() && !sweep::many_small_indexes(&catalog) {
            return Ok(plan.report);
        }
        lease.check()?;
        let mark = Mark::write(self, &listed).doing(|| "marking packs")?;
        // From here on the new mark stands for those that were left.
        for old in &before.marks {
            Mark::remove(self, &old.id)?;
        }
        let waited = wait::for_captures(self, mark, options, lease, monitor)?;
        let mut swept: HashSet<Id> = listed.into_iter().collect();
        if !waited.alive.is_empty() {
            swept.retain(|pack| before.ripe.contains(pack));
        }
        let (fresh, named) = self.rescue(&used, &mut swept, &mut plan, monitor)?;
        plan.report.waiting_for = waited.alive.clone();
        let sweep = sweep::Sweep {
            store: self,
            lease,
            swept: &swept,
            moves,
            named: [&used.packs, &named],
            catalog: fresh,
        };
        sweep.run(&mut plan.report, monitor)?;
        if waited.alive.is_empty() {
            Mark::remove(self, &waited.mark.id)?;
            self.backend().barrier()?;
        }
        for dead in &waited.dead {
            LeaseState::remove(self, dead)?;
        }
        Ok(plan.report)
    }

    /// What is used, and what becomes of each pack.
    fn judge(
        &self,
        options: &PruneOptions,
        before: &Before,
        monitor: &dyn Monitor,
    ) -> Result<(Catalog, Used, Plan)> {
        wait::settle(self, 1);
        let without: HashSet<&ImageRef> = options.without.iter().collect();
        let mut images = self.images()?;
        images.retain(|image| !without.contains(image));
        wait::settle(self, 1);
        let catalog = Catalog::load(self)?;
        for oddity in catalog.oddities.iter().filter(|oddity| oddity.damage) {
            monitor.warn(format!("{}: {}", oddity.object, oddity.what));
        }
        monitor.note(format!(
            "{} images, {} packs: looking at what is used",
            images.len(),
            catalog.packs.len()
        ));
        let used = Used::of(&catalog, images, monitor)?;
        let plan = Plan::make(&catalog, &used, before, options, monitor)?;
        Ok((catalog, used, plan))
    }

    /// Takes packs off the list that images use which came meanwhile. Answers the store as it is now, and the packs
    /// that those images name.
    fn rescue(
        &self,
        used: &Used,
        swept: &mut HashSet<Id>,
        plan: &mut Plan,
        monitor: &dyn Monitor,
    ) -> Result<(Catalog, IdSet)> {
        wait::settle(self, 1);
        let known: HashSet<&ImageRef> = used.images.iter().collect();
        let mut images = self.images()?;
        images.retain(|image| !known.contains(image));
        wait::settle(self, 1);
        let catalog = Catalog::load(self)?;
        if images.is_empty() || swept.is_empty() {
            return Ok((catalog, IdSet::default()));
        }
        let new = Used::of(&catalog, images, monitor)?;
        // Chunks of the listed packs that they use, less what lies elsewhere too.
        let (mut wanted, mut of_pack) = (HashSet::new(), Vec::new());
        let listed =
            |number: u32| catalog.packs.get(number as usize).is_some_and(|pack| swept.contains(&pack.id));
        catalog.tables(&mut |number, table| {
            if listed(number) {
                for (_, entry) in
                    catalog.good(number, table).filter(|(_, entry)| new.chunks.contains(&entry.id))
                {
                    wanted.insert(entry.id);
                    of_pack.push((entry.id, table.id));
                }
            }
            Ok(())
        })?;
        if !wanted.is_empty() {
            catalog.tables(&mut |number, table| {
                if !listed(number) {
                    catalog.good(number, table).for_each(|(_, entry)| {
                        wanted.remove(&entry.id);
                    });
                }
                Ok(())
            })?;
        }
        for (chunk, pack) in of_pack {
            if wanted.contains(&chunk) && swept.remove(&pack) {
                plan.report.rescued_packs += 1;
            }
        }
        Ok((catalog, new.packs))
    }
}

/// What there was when a prune began.
struct Before {
    /// Captures that run, or were killed.
    leases: Vec<LeaseState>,
    /// Marks of prunes that were killed or did not wait.
    marks: Vec<Mark>,
    /// Packs of such marks for which everybody who could rely on them has ended.
    ripe: HashSet<Id>,
}

impl Before {
    /// Packs that somebody has marked.
    fn doubtful(&self) -> HashSet<Id> {
        let packs = self.marks.iter().flat_map(|mark| &mark.packs);
        packs.filter_map(|pack| super::parse_id(pack).ok()).collect()
    }
}

/// What images use.
struct Used {
    images: Vec<ImageRef>,
    /// Chunks and pages, by 64 bits: what is confused with a used one stays, which costs its room.
    chunks: IdSet,
    /// Packs that they name.
    packs: IdSet,
}

impl Used {
    /// # Errors
    ///
    /// `Mismatch` or what reading fails with if an image's object or tree cannot be read.
    fn of(catalog: &Catalog, images: Vec<ImageRef>, monitor: &dyn Monitor) -> Result<Self> {
        let (mut chunks, mut packs, mut walk) = (IdSet::default(), IdSet::default(), Walk::new(catalog));
        let mut gone: HashSet<ImageRef> = HashSet::new();
        records(catalog, &images, monitor, &mut |images, read| {
            let mut ends = Vec::new();
            for (image, record) in images.iter().zip(read) {
                match record.and_then(|record| Ok((roots(&record)?, record.pack_ids()?))) {
                    Ok((roots, named)) => {
                        ends.extend(roots);
                        named.iter().flat_map(|(_, packs)| packs).for_each(|pack| packs.insert(pack));
                    }
                    // Removed since it was listed.
                    Err(_) if catalog.store.is_removed(image) => {
                        gone.insert(image.clone());
                    }
                    Err(error) => return Err(unknown(error)),
                }
            }
            walk.go(ends, &mut |id| chunks.insert(id), monitor)
        })?;
        chunks.settle();
        packs.settle();
        if !walk.broken.is_empty() {
            let broken: HashSet<Hash> = walk.broken.iter().map(|(hash, _)| *hash).collect();
            return Err(unknown(super::check::first_hurt(catalog, &images, &broken, monitor)?));
        }
        let images = images.into_iter().filter(|image| !gone.contains(image)).collect();
        Ok(Self { images, chunks, packs })
    }
}

/// Why nothing is removed.
fn unknown(error: Error) -> Error {
    Error::new(ErrorKind::Mismatch, "finding out what images use")
        .because(
            "an image is damaged, so that what it uses is not known, and nothing was removed. `unmoor images verify` says what is hurt; \
             capture the machine again with the store as it is, or remove the image",
        )
        .source(error)
}

impl Store {
    fn is_removed(&self, image: &ImageRef) -> bool {
        self.backend().tail(&image.object(), 1).is_ok_and(|found| found.is_none())
    }
}

impl Plan {
    /// Packs that are to go.
    fn going<'a>(&'a self, catalog: &'a Catalog) -> impl Iterator<Item = Id> + 'a {
        let fates = catalog.packs.iter().zip(&self.fates);
        fates.filter(|(_, fate)| **fate != Fate::Stays).map(|(pack, _)| pack.id)
    }
}
