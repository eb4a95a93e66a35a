// SPDX-License-Identifier: Apache-2.0
//! Packs read through: every chunk unpacked and hashed, and the pack's own table compared with the index's.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Bad, CheckOptions, CheckReport};
use crate::monitor::{Event, Phase};
use crate::store::catalog::{Catalog, id_of};
use crate::store::encode::decode;
use crate::store::ids::{IdSet, short};
use crate::store::near::{Reach, together};
use crate::store::pack::{Entry, PackTable};
use crate::store::pool::parallel;
use crate::store::walk::cancelled;
use crate::store::{Id, Store};
use crate::{Monitor, Result};

/// Packs whose tables are in memory.
const TOGETHER: usize = 16;
/// What is read of a pack at a time. All of it is wanted, so that nothing is skipped.
const REACH: Reach = Reach { gap: u64::MAX, most: 4 << 20 };

/// Reads packs; of `wanted` chunks only, where that is given. Answers what is damaged.
pub(super) fn read(
    catalog: &Catalog,
    options: &CheckOptions,
    wanted: Option<&IdSet>,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<Bad> {
    let percent = u64::from(options.read_percent.min(100));
    // Which packs of a part are read is another part each time, so that all come round.
    let mut salt = [0; 8];
    super::super::keys::random(&mut salt)?;
    let chosen = |id: &Id| percent == 100 || (short(id) ^ u64::from_le_bytes(salt)) % 100 < percent;
    let total = catalog.packs.iter().filter(|pack| chosen(&pack.id)).map(|pack| pack.bytes).sum();
    let name = catalog.store.backend().describe();
    monitor.event(Event::Started { disk: 0, phase: Phase::Verify, total_bytes: total, name });
    let run = Run { catalog, wanted, done: AtomicU64::new(0), bad: Mutex::default(), monitor };
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(2, usize::from),
        count => count,
    };
    let mut batch: Vec<(u32, PackTable)> = Vec::new();
    let mut known = HashSet::new();
    let flush = |batch: &mut Vec<(u32, PackTable)>| -> Result<()> {
        parallel(batch, threads, |(number, table)| run.pack(*number, table))?;
        batch.clear();
        Ok(())
    };
    catalog.tables(&mut |number, table| {
        known.insert(number);
        let needed = |wanted: &IdSet| table.entries.iter().any(|entry| wanted.contains(&entry.id));
        if chosen(&table.id) && wanted.is_none_or(needed) {
            batch.push((number, table.clone()));
        }
        if batch.len() >= TOGETHER { flush(&mut batch) } else { Ok(()) }
    })?;
    flush(&mut batch)?;
    monitor.event(Event::Finished { disk: 0 });
    report.read_bytes = run.done.load(Ordering::Relaxed);
    Ok(run.bad.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Run<'a> {
    catalog: &'a Catalog,
    wanted: Option<&'a IdSet>,
    done: AtomicU64,
    bad: Mutex<Bad>,
    monitor: &'a dyn Monitor,
}

impl Run<'_> {
    fn pack(&self, number: u32, table: &PackTable) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(cancelled());
        }
        let store = &self.catalog.store;
        let mut bad: HashSet<Id> = HashSet::new();
        let chunks: Vec<(u64, &Entry)> = self
            .catalog
            .good(number, table)
            .filter(|(_, entry)| self.wanted.is_none_or(|wanted| wanted.contains(&entry.id)))
            .collect();
        let object = PackTable::object(&table.id);
        let span = |(at, entry): &(u64, &Entry)| (number, *at..at + u64::from(entry.stored));
        for (members, range) in together(&chunks, REACH, span) {
            let now = chunks.get(members).unwrap_or_default();
            bad.extend(run_of_chunks(store, &object, &range, now));
            let bytes = now.iter().map(|(_, entry)| u64::from(entry.stored)).sum();
            let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.monitor.event(Event::Advanced { disk: 0, done_bytes: done, written_bytes: 0 });
        }
        // An index may hide that the pack's own table is damaged, which the next prune or a lost index would bring to light.
        let own = PackTable::read(store.backend(), store.seal(), &table.id);
        let whole = matches!(&own, Ok(Some(own)) if own.entries == table.entries);
        let gone = matches!(&own, Ok(None));
        if (!bad.is_empty() || !whole) && !gone {
            // With its table lost the chunks are still found by the index: those that are right stay so.
            let mut all = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(table.id, bad);
        }
        Ok(())
    }
}

/// Those of some chunks of a pack, which lie one behind the other, that are damaged.
fn run_of_chunks(store: &Store, object: &str, range: &Range<u64>, chunks: &[(u64, &Entry)]) -> Vec<Id> {
    let start = range.start;
    let mut bytes = vec![0; (range.end - start) as usize];
    let read = store.backend().read(object, &mut bytes, start).is_ok();
    let mut plain = Vec::new();
    let damaged = chunks.iter().filter(|(at, entry)| {
        let from = (at - start) as usize;
        let stored = bytes.get(from..from + entry.stored as usize).unwrap_or_default();
        if read && is_right(store, entry, stored, &mut plain) {
            return false;
        }
        // Once more, alone: a network may have done it, or one bad sector among many good ones.
        let mut again = vec![0; entry.stored as usize];
        let read = store.backend().read(object, &mut again, *at).is_ok();
        !(read && is_right(store, entry, &again, &mut plain))
    });
    damaged.map(|(_, entry)| entry.id).collect()
}

/// True if stored bytes are the chunk that their entry names.
pub(in crate::store) fn is_right(store: &Store, entry: &Entry, stored: &[u8], plain: &mut Vec<u8>) -> bool {
    plain.resize(entry.raw as usize, 0);
    decode(store.seal(), entry, stored, plain).is_ok() && id_of(store, entry.content, plain) == entry.id
}
