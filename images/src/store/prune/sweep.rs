// SPDX-License-Identifier: Apache-2.0
//! The removal itself: first the indexes that name what goes, then the packs, so that nothing is ever taken for there that is not.

use std::collections::HashSet;

use super::PruneReport;
use super::repack::{Moves, write_indexes};
use crate::store::catalog::Catalog;
use crate::store::damage::Damage;
use crate::store::ids::{Bits, IdSet};
use crate::store::index::{IndexObject, MOST_ENTRIES};
use crate::store::leases::Lease;
use crate::store::moved::Moved;
use crate::store::pack::PackTable;
use crate::store::pool::{IN_FLIGHT, parallel};
use crate::store::{Id, Store};
use crate::{Monitor, Result, ResultExt};

/// An index object of fewer entries is small; so many of them are put together.
const SMALL: usize = MOST_ENTRIES / 8;
const MANY: usize = 16;

/// True if captures would have to read many small objects.
pub(super) fn many_small_indexes(catalog: &Catalog) -> bool {
    catalog.indexes.iter().filter(|(_, entries)| *entries < SMALL).count() > MANY
}

pub(super) struct Sweep<'a> {
    pub(super) store: &'a Store,
    pub(super) lease: &'a Lease,
    /// Packs that go.
    pub(super) swept: &'a HashSet<Id>,
    pub(super) moves: Moves,
    /// Packs that images name.
    pub(super) named: [&'a IdSet; 2],
    /// The store as it is.
    pub(super) catalog: Catalog,
}

impl Sweep<'_> {
    pub(super) fn run(self, report: &mut PruneReport, monitor: &dyn Monitor) -> Result<()> {
        self.lease.check()?;
        self.indexes(report).doing(|| "putting indexes together")?;
        let mut moved = Moved::load(self.store)?;
        for (from, to) in &self.moves {
            if self.swept.contains(from) {
                moved.insert(*from, to.clone());
            }
        }
        moved.replace(self.store, &|pack| self.named.iter().any(|named| named.contains(pack)))?;
        // Nobody who looks from here on finds the packs in an index; only then they go.
        self.store.backend().barrier()?;
        let there = self.catalog.packs.iter().filter(|pack| self.swept.contains(&pack.id));
        let going: Vec<(Id, u64)> = there.map(|pack| (pack.id, pack.bytes)).collect();
        monitor.note(format!("removing {} packs", going.len()));
        for batch in going.chunks(IN_FLIGHT) {
            // A prune that slept may have been taken for dead, and another one be at work.
            self.lease.check()?;
            parallel(batch, IN_FLIGHT, |(id, _)| self.store.backend().delete(&PackTable::object(id)))?;
        }
        report.removed_packs = going.len() as u64;
        let removed: u64 = going.iter().map(|(_, bytes)| bytes).sum();
        report.freed_bytes = removed.saturating_sub(report.copied_bytes);
        for pack in self.catalog.damage.packs() {
            let gone = self.swept.contains(pack) || self.catalog.number(pack).is_none();
            if gone {
                Damage::remove(self.store, pack)?;
            }
        }
        self.store.backend().barrier()
    }

    /// Writes indexes for what stays, and removes those that name what goes.
    fn indexes(&self, report: &mut PruneReport) -> Result<()> {
        let catalog = &self.catalog;
        let put_together = many_small_indexes(catalog);
        let (mut old, mut stay) = (Vec::new(), Vec::new());
        for (id, entries) in &catalog.indexes {
            let Some(index) = IndexObject::read(self.store.backend(), self.store.seal(), id)? else {
                continue;
            };
            let gone = |pack: &PackTable| self.swept.contains(&pack.id) || catalog.number(&pack.id).is_none();
            if index.packs.iter().any(gone) || (put_together && *entries < SMALL) {
                old.push(*id);
            } else {
                stay.push(index.id);
            }
        }
        if old.is_empty() && catalog.broken_indexes.is_empty() {
            report.indexes.1 = stay.len() as u64;
            return Ok(());
        }
        // Packs that no index would list any more, and those of captures that were killed: the next ones find them so.
        let mut listed = Bits::new(catalog.packs.len());
        for id in &stay {
            if let Some(index) = IndexObject::read(self.store.backend(), self.store.seal(), id)? {
                for number in index.packs.iter().filter_map(|pack| catalog.number(&pack.id)) {
                    listed.set(number as usize);
                }
            }
        }
        let (mut tables, mut entries, mut written) = (Vec::new(), 0, Vec::new());
        catalog.tables(&mut |number, table| {
            if listed.get(number as usize) || self.swept.contains(&table.id) {
                return Ok(());
            }
            if entries + table.entries.len() > MOST_ENTRIES {
                written.extend(write_indexes(self.store, &std::mem::take(&mut tables))?);
                entries = 0;
            }
            entries += table.entries.len();
            tables.push(table.clone());
            Ok(())
        })?;
        written.extend(write_indexes(self.store, &tables)?);
        self.store.backend().barrier()?;
        report.indexes.1 = (stay.len() + written.len()) as u64;
        let old = old.iter().filter(|id| !written.contains(id)).map(IndexObject::object);
        for object in old.chain(catalog.broken_indexes.iter().cloned()) {
            self.store.backend().delete(&object)?;
        }
        Ok(())
    }
}
