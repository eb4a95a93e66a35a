// SPDX-License-Identifier: Apache-2.0
//! What becomes of each pack.

use std::collections::HashSet;

use super::copies::Copies;
use super::{Before, PruneOptions, PruneReport, Used};
use crate::store::PACK;
use crate::store::catalog::Catalog;
use crate::store::ids::{Bits, short};
use crate::store::pack::Entry;
use crate::{Monitor, Result};

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays as it is.
    Stays,
    /// Nothing of it is used.
    Goes,
    /// What is used of it is written to another pack; then it goes.
    Moves,
    /// The same, not for what is unused of it, but because there are many small ones.
    Merges,
}

impl Fate {
    /// True if what is used of it is written to another pack.
    pub(super) fn is_copied(self) -> bool {
        matches!(self, Self::Moves | Self::Merges)
    }
}

/// A pack of fewer bytes is small. Captures of machines that change little leave one each, and every one costs a listing's line, a request
/// of those who read it, and the seek.
const SMALL: u64 = PACK as u64 / 4;
/// So many small packs are put together. Fewer stay: what was put together once, but did not fill a pack, would be copied each time.
const MANY: usize = 16;

/// How much of a pack is used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    /// Bytes of the pack.
    pub(super) bytes: u64,
    /// Of them, of chunks that are used.
    pub(super) used_bytes: u64,
    pub(super) used_chunks: u32,
    /// True once its table was read.
    judged: bool,
    /// True if it has the only copy of a used chunk, known to be damaged. What is known may be wrong: it is not for prune to remove it.
    held: bool,
}

impl Count {
    pub(super) fn unused_percent(&self) -> u64 {
        self.bytes.saturating_sub(self.used_bytes).saturating_mul(100) / self.bytes.max(1)
    }
}

/// The plan.
pub(super) struct Plan {
    /// One for each pack of the catalog.
    pub(super) fates: Vec<Fate>,
    copies: Copies,
    pub(super) report: PruneReport,
}

impl Plan {
    pub(super) fn make(
        catalog: &Catalog,
        used: &Used,
        before: &Before,
        options: &PruneOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let doubtful = before.doubtful();
        // Once to see what is there twice, then again with one copy of each counting.
        let (counts, doubles) = count(catalog, used, &Copies::default())?;
        let copies = Copies::find(catalog, &doubles, &doubtful, &counts, !options.dry_run, monitor)?;
        let counts = if doubles.is_empty() { counts } else { count(catalog, used, &copies)?.0 };
        let mut report = PruneReport {
            images: used.images.len() as u64,
            used_chunks: used.chunks.len() as u64,
            packs: catalog.packs.len() as u64,
            pack_bytes: catalog.packs.iter().map(|pack| pack.bytes).sum(),
            indexes: (catalog.indexes.len() as u64, catalog.indexes.len() as u64),
            ..PruneReport::default()
        };
        let mut fates = Vec::with_capacity(counts.len());
        for (pack, count) in catalog.packs.iter().zip(&counts) {
            let harmed = catalog.damage.touches(&pack.id);
            let fate = if count.held || (!count.judged && !harmed) {
                report.odd_packs += 1;
                Fate::Stays
            } else if !pack.indexed && count.used_chunks == 0 && !before.leases.is_empty() {
                report.unfinished_packs += 1;
                Fate::Stays
            } else if count.used_chunks == 0 {
                report.unused_packs += 1;
                report.unused_bytes += pack.bytes;
                Fate::Goes
            } else if harmed || count.unused_percent() > u64::from(options.max_unused_percent) {
                report.repacked_packs += 1;
                report.repacked_bytes += pack.bytes;
                report.copied_bytes += count.used_bytes;
                Fate::Moves
            } else {
                report.left_unused_bytes += pack.bytes.saturating_sub(count.used_bytes);
                Fate::Stays
            };
            fates.push(fate);
        }
        merge(catalog, &counts, &mut fates, options, &mut report);
        report.freed_bytes = (report.unused_bytes + report.repacked_bytes + report.merged_bytes)
            .saturating_sub(report.copied_bytes);
        Ok(Self { fates, copies, report })
    }

    /// A pack that was to move stays after all.
    pub(super) fn stays(&mut self, number: u32, catalog: &Catalog) {
        let bytes = catalog.packs.get(number as usize).map_or(0, |pack| pack.bytes);
        if let Some(fate) = self.fates.get_mut(number as usize) {
            let (packs, of) = match std::mem::replace(fate, Fate::Stays) {
                Fate::Merges => (&mut self.report.merged_packs, &mut self.report.merged_bytes),
                _ => (&mut self.report.repacked_packs, &mut self.report.repacked_bytes),
            };
            *packs = packs.saturating_sub(1);
            *of = of.saturating_sub(bytes);
            self.report.odd_packs += 1;
        }
    }

    /// True if this chunk of a pack is used, and this copy of it stays.
    pub(super) fn is_used(&self, used: &Used, number: u32, entry: &Entry) -> bool {
        used.chunks.contains(&entry.id) && self.copies.is_used(&entry.id, number)
    }
}

/// Puts small packs that would stay together, if they are many. Those that no index lists may be of captures that have not ended.
fn merge(
    catalog: &Catalog,
    counts: &[Count],
    fates: &mut [Fate],
    options: &PruneOptions,
    report: &mut PruneReport,
) {
    // Who wants nothing copied for unused bytes wants nothing copied for order's sake.
    if options.max_unused_percent >= 100 {
        return;
    }
    let packs = || catalog.packs.iter().zip(counts).enumerate();
    let small = packs().filter(|(number, (pack, count))| {
        let stays = fates.get(*number) == Some(&Fate::Stays);
        stays && pack.indexed && pack.bytes < SMALL && count.judged && !count.held && count.used_chunks > 0
    });
    let small: Vec<usize> = small.map(|(number, _)| number).collect();
    if small.len() < MANY {
        return;
    }
    for number in small {
        let (Some(count), Some(fate)) = (counts.get(number), fates.get_mut(number)) else { continue };
        *fate = Fate::Merges;
        report.merged_packs += 1;
        report.merged_bytes += count.bytes;
        report.copied_bytes += count.used_bytes;
        report.left_unused_bytes =
            report.left_unused_bytes.saturating_sub(count.bytes.saturating_sub(count.used_bytes));
    }
}

/// How much of each pack is used, and which used chunks were met more than once.
fn count(catalog: &Catalog, used: &Used, copies: &Copies) -> Result<(Vec<Count>, HashSet<u64>)> {
    let mut counts = vec![Count::default(); catalog.packs.len()];
    let (mut met, mut doubles) = (Bits::new(used.chunks.len()), HashSet::new());
    let mut bad: Vec<(u32, usize)> = Vec::new();
    for (count, pack) in counts.iter_mut().zip(&catalog.packs) {
        count.bytes = pack.bytes;
    }
    catalog.tables(&mut |number, table| {
        let Some(count) = counts.get_mut(number as usize) else { return Ok(()) };
        count.judged = catalog.fits(number, table);
        if catalog.damage.touches(&table.id) {
            let known = table.entries.iter().filter(|entry| catalog.damage.has(&table.id, &entry.id));
            bad.extend(known.filter_map(|entry| Some((number, used.chunks.position(&entry.id)?))));
        }
        for (_, entry) in catalog.good(number, table) {
            let Some(position) = used.chunks.position(&entry.id) else { continue };
            if met.set(position) {
                doubles.insert(short(&entry.id));
            }
            if copies.is_used(&entry.id, number) {
                count.used_bytes += u64::from(entry.stored);
                count.used_chunks += 1;
            }
        }
        Ok(())
    })?;
    for (number, _) in bad.iter().filter(|(_, position)| !met.get(*position)) {
        if let Some(count) = counts.get_mut(*number as usize) {
            count.held = true;
        }
    }
    Ok((counts, doubles))
}
