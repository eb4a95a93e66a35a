// SPDX-License-Identifier: Apache-2.0
//! What is used of packs that are mostly unused, copied into new ones. Stored bytes are copied as they are, since neither compression nor
//! seal depends on the pack, and only once they were unpacked and hashed.

use std::collections::BTreeSet;
use std::ops::Range;

use super::plan::Plan;
use crate::store::catalog::Catalog;
use crate::store::check::is_right;
use crate::store::index::{IndexObject, MOST_ENTRIES};
use crate::store::leases::Lease;
use crate::store::near::{Reach, together};
use crate::store::pack::{Entry, PackTable};
use crate::store::walk::cancelled;
use crate::store::{Id, PACK};
use crate::{Monitor, Result, ResultExt};

/// What is read of a pack at a time.
const REACH: Reach = Reach { gap: 256 << 10, most: 4 << 20 };

/// Packs that are copied, and where to.
pub(super) type Moves = Vec<(Id, Vec<Id>)>;

/// Copies, durably. A pack of which a used chunk cannot be read stays.
pub(super) fn run(
    catalog: &Catalog,
    plan: &mut Plan,
    used: &super::Used,
    lease: &Lease,
    monitor: &dyn Monitor,
) -> Result<Moves> {
    let mut copier = Copier {
        catalog,
        pack: Vec::new(),
        entries: Vec::new(),
        from: BTreeSet::new(),
        tables: Vec::new(),
        moves: Vec::new(),
    };
    let moving =
        |plan: &Plan, number: u32| plan.fates.get(number as usize).is_some_and(|fate| fate.is_copied());
    let packs = plan.report.repacked_packs + plan.report.merged_packs;
    if packs == 0 {
        return Ok(copier.moves);
    }
    monitor.note(format!("copying {} MiB of {packs} packs", plan.report.copied_bytes >> 20));
    catalog.tables(&mut |number, table| {
        if !moving(plan, number) {
            return Ok(());
        }
        if monitor.cancelled() {
            return Err(cancelled());
        }
        lease.renew()?;
        let chunks: Vec<(u64, Entry)> = catalog
            .good(number, table)
            .filter(|(_, entry)| plan.is_used(used, number, entry))
            .map(|(at, entry)| (at, *entry))
            .collect();
        match copier.copy(table, &chunks)? {
            true => {}
            false => {
                monitor.warn(format!(
                    "{} stays: a chunk that is used cannot be read, see `unmoor images verify --read-data`",
                    PackTable::object(&table.id)
                ));
                plan.stays(number, catalog);
            }
        }
        Ok(())
    })?;
    copier.close()?;
    copier.finish(plan)
}

struct Copier<'a> {
    catalog: &'a Catalog,
    pack: Vec<u8>,
    entries: Vec<Entry>,
    /// Packs of which something is in the open pack.
    from: BTreeSet<Id>,
    tables: Vec<PackTable>,
    moves: Moves,
}

impl Copier<'_> {
    /// False if a chunk is damaged; what was copied before it is then there twice.
    fn copy(&mut self, table: &PackTable, chunks: &[(u64, Entry)]) -> Result<bool> {
        let store = &self.catalog.store;
        let object = PackTable::object(&table.id);
        let mut plain = Vec::new();
        let span = |(at, entry): &(u64, Entry)| (0, *at..at + u64::from(entry.stored));
        for (members, Range { start, end }) in together(chunks, REACH, span) {
            let mut bytes = vec![0; (end - start) as usize];
            if store.backend().read(&object, &mut bytes, start).is_err() {
                return Ok(false);
            }
            for (at, entry) in chunks.get(members).unwrap_or_default() {
                let from = (at - start) as usize;
                let stored = bytes.get(from..from + entry.stored as usize).unwrap_or_default();
                if !is_right(store, entry, stored, &mut plain) {
                    return Ok(false);
                }
                if self.pack.is_empty() {
                    self.pack.extend_from_slice(&PackTable::header(store.seal().is_sealed())?);
                }
                self.pack.extend_from_slice(stored);
                self.entries.push(*entry);
                self.from.insert(table.id);
                if self.pack.len() >= PACK {
                    self.close()?;
                }
            }
        }
        Ok(true)
    }

    fn close(&mut self) -> Result<()> {
        if self.pack.is_empty() {
            return Ok(());
        }
        let store = &self.catalog.store;
        let table = PackTable::close(std::mem::take(&mut self.entries), store.seal(), &mut self.pack)?;
        let object = PackTable::object(&table.id);
        store.backend().put(&object, &self.pack).doing(|| format!("storing {object}"))?;
        self.pack.clear();
        for from in std::mem::take(&mut self.from) {
            match self.moves.iter_mut().rev().find(|(old, _)| *old == from) {
                Some((_, to)) => to.push(table.id),
                None => self.moves.push((from, vec![table.id])),
            }
        }
        self.tables.push(table);
        Ok(())
    }

    /// Makes what was copied known, so that captures which begin now find it.
    fn finish(self, plan: &mut Plan) -> Result<Moves> {
        let store = &self.catalog.store;
        store.backend().barrier()?;
        write_indexes(store, &self.tables)?;
        store.backend().barrier()?;
        let written = self.tables.iter().map(|table| table.pack_bytes(store.seal())).sum::<u64>();
        plan.report.copied_bytes = written;
        let before = plan.report.unused_bytes + plan.report.repacked_bytes + plan.report.merged_bytes;
        plan.report.freed_bytes = before.saturating_sub(written);
        Ok(self.moves)
    }
}

/// Index objects for packs, each of a bounded size. Answers their ids.
pub(super) fn write_indexes(store: &crate::store::Store, tables: &[PackTable]) -> Result<Vec<Id>> {
    let (mut rest, mut written) = (tables, Vec::new());
    while !rest.is_empty() {
        let mut entries = 0;
        let fits = |table: &&PackTable| {
            entries += table.entries.len();
            entries <= MOST_ENTRIES
        };
        let count = rest.iter().take_while(fits).count().clamp(1, rest.len());
        let (now, later) = rest.split_at(count);
        let (id, bytes) = IndexObject::encode(now, store.seal())?;
        let object = IndexObject::object(&id);
        store.backend().put(&object, &bytes).doing(|| format!("storing {object}"))?;
        written.push(id);
        rest = later;
    }
    Ok(written)
}
