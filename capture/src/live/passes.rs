// SPDX-License-Identifier: Apache-2.0
//! Copying what was written since it was copied last.

use std::time::{Duration, Instant};

use unmoor_images::adapt::Patched;
use unmoor_images::copy::{self, copy, restricted, whole_units};
use unmoor_images::filesystem::FilesystemKind;
use unmoor_images::layout::{self, DiskLayout, Moment, Place};
use unmoor_images::merkle::{Hash, zero_leaf};
use unmoor_images::monitor::Phase;
use unmoor_images::{
    BlockSink, BlockSource, Extent, ExtentMap, LEAF, Monitor, RangeSet, Result, ResultExt, State,
};

use super::limited::{Limited, Rate};
use crate::disk::{Disk, ReadAhead};
use crate::request::{Request, Target};
use crate::track::Tracker;

/// Bytes of tables and allocation structures that are remembered between passes, over all disks.
const REMEMBERED: u64 = 96 << 20;
/// Copies this large say how fast copying is.
const TELLING: u64 = 16 << 20;
/// Before anything is known of the speed, in bytes a second.
const SLOW: f64 = 50e6;

/// What earlier captures of the same disks into the same store have copied.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// One element a disk; empty if nothing is known.
    pub(super) copies: Vec<copy::Report>,
    /// Changed since, and not copied.
    pub(super) stale: Vec<RangeSet>,
    /// Bytes a second.
    pub(super) rate: Option<f64>,
}

impl Known {
    /// Marks as not copied what the receiver does not have any more. Answers how many bytes that are.
    pub(super) fn check(&mut self, relies: &dyn Fn(&Hash) -> bool) -> u64 {
        let mut lost = 0;
        for (copy, stale) in self.copies.iter().zip(&mut self.stale) {
            let size = copy.extents.size();
            for (first, count, hash) in copy.leaves.runs() {
                let range = first * LEAF..(first + count).saturating_mul(LEAF).min(size);
                let zero = hash == zero_leaf((range.end - range.start).min(LEAF));
                if !zero && !relies(&hash) {
                    lost += range.end - range.start;
                    stale.insert(range);
                }
            }
        }
        lost
    }
}

/// What was copied so far.
pub(super) struct Passes<'s, 'a> {
    request: &'s Request,
    disks: &'s [Disk<'a>],
    sinks: &'s [Box<dyn BlockSink + 's>],
    tracker: Option<&'s Tracker>,
    /// The disks once more, with what the last analysis has read of them.
    remembered: Vec<ReadAhead<&'s Disk<'a>>>,
    copies: Vec<copy::Report>,
    layouts: Vec<DiskLayout>,
    /// Changed, and not copied since.
    stale: Vec<RangeSet>,
    /// Bytes a second.
    rate: f64,
    /// Of copying before the freeze.
    limit: Option<Rate>,
    done: u32,
}

impl<'s, 'a> Passes<'s, 'a> {
    pub(super) fn new(
        request: &'s Request,
        disks: &'s [Disk<'a>],
        sinks: &'s [Box<dyn BlockSink + 's>],
        tracker: Option<&'s Tracker>,
        mut known: Known,
        limit: Option<u64>,
    ) -> Self {
        if known.copies.len() != disks.len() {
            known.copies = disks.iter().map(|disk| copy::Report::nothing(disk.size())).collect();
            known.stale = disks.iter().map(|_| RangeSet::new()).collect();
        }
        known.copies.iter_mut().for_each(|copy| copy.read_bytes = 0);
        let share = REMEMBERED / (disks.len() as u64).max(1);
        Self {
            request,
            disks,
            sinks,
            tracker,
            remembered: disks.iter().map(|disk| ReadAhead::with_bytes(disk, share)).collect(),
            copies: known.copies,
            layouts: Vec::new(),
            stale: known.stale,
            rate: known.rate.unwrap_or(SLOW),
            limit: limit.map(Rate::new),
            done: 0,
        }
    }

    /// What the next capture may build upon, after one that failed or whose copies somebody else has.
    pub(super) fn into_known(self) -> Known {
        Known { copies: self.copies, stale: self.stale, rate: Some(self.rate) }
    }

    /// How many passes there were.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    /// What was written and not copied since, in bytes; all that is used, where that is not followed.
    pub(super) fn pending_bytes(&mut self) -> u64 {
        let Some(tracker) = self.tracker else {
            return self.layouts.iter().map(|layout| layout.extents.bytes(State::Data)).sum();
        };
        let stale: u64 = self.stale.iter_mut().map(RangeSet::bytes).sum();
        stale + (0..self.disks.len()).map(|disk| tracker.pending_bytes(disk)).sum::<u64>()
    }

    /// How long copying `bytes` takes.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate)
    }

    /// Nothing that was copied can be relied upon.
    pub(super) fn distrust(&mut self) {
        for (stale, disk) in self.stale.iter_mut().zip(self.disks) {
            stale.insert(0..disk.size());
        }
    }

    /// Copies what is used and was written to, or was never copied. Answers how many bytes that were; none, and nothing is copied, if
    /// it would take longer than `limit`.
    pub(super) fn run(
        &mut self,
        moment: Moment,
        limit: Option<Duration>,
        monitor: &dyn Monitor,
    ) -> Result<Option<u64>> {
        self.collect();
        let sources: Vec<&dyn BlockSource> =
            self.remembered.iter().map(|disk| disk as &dyn BlockSource).collect();
        let layouts = layout::analyze_mounted(&sources, &self.request.layout, moment, monitor)
            .doing(|| "analyzing disks in use")?;
        let mut parts = Vec::new();
        let mut total = 0;
        for (index, layout) in layouts.iter().enumerate() {
            let (part, bytes) = self.parts(index, layout);
            total += bytes;
            parts.push(part);
        }
        if limit.is_some_and(|limit| self.time_for(total) > limit) {
            return Ok(None);
        }
        let began = Instant::now();
        let mut copied = 0;
        for (index, (layout, part)) in layouts.iter().zip(&mut parts).enumerate() {
            copied += self.copy(index, layout, part.ranges(), (moment, monitor))?;
        }
        let spent = began.elapsed().as_secs_f64();
        // What is held back says nothing of the freeze, where nothing is.
        let free = self.limit.is_none() || moment == Moment::Frozen;
        if free && copied >= TELLING && spent > 0.0 {
            self.rate = copied as f64 / spent;
        }
        self.stale.iter_mut().for_each(|stale| *stale = RangeSet::new());
        self.layouts = layouts;
        self.done += 1;
        Ok(Some(copied))
    }

    /// Copies what was written under the freeze, until nothing is; answers how many bytes were, in filesystems that should not change.
    pub(super) fn follow_strangers(&mut self, monitor: &dyn Monitor) -> Result<u64> {
        if self.tracker.is_none() {
            return Ok(0);
        }
        let mut strange = 0;
        for _ in 0..3 {
            self.collect();
            let found: u64 = (0..self.disks.len()).map(|disk| self.strange_bytes(disk)).sum();
            strange += found;
            if found == 0 {
                break;
            }
            let layouts = std::mem::take(&mut self.layouts);
            for (index, layout) in layouts.iter().enumerate() {
                let (mut part, _) = self.parts(index, layout);
                self.copy(index, layout, part.ranges(), (Moment::Frozen, monitor))?;
            }
            self.layouts = layouts;
            self.stale.iter_mut().for_each(|stale| *stale = RangeSet::new());
        }
        Ok(strange)
    }

    /// The copies, put together, and what the disks held.
    pub(super) fn finish(&mut self) -> Result<(Vec<copy::Report>, Vec<DiskLayout>)> {
        let mut copies = std::mem::take(&mut self.copies);
        let layouts = std::mem::take(&mut self.layouts);
        for ((copy, layout), sink) in copies.iter_mut().zip(&layouts).zip(self.sinks) {
            for gap in copy.forget_unused(&layout.extents, LEAF.max(sink.granule()))? {
                sink.write_zeros(gap.start, gap.end - gap.start)?;
            }
        }
        Ok((copies, layouts))
    }

    /// Asks what was written, and forgets what was read of it.
    fn collect(&mut self) {
        for (index, disk) in self.disks.iter().enumerate() {
            let mut changed = match self.tracker {
                Some(tracker) => tracker.take(index).into_ranges(disk.size()),
                None => RangeSet::of(0..disk.size()),
            };
            disk.forget(&mut changed);
            if let Some(remembered) = self.remembered.get(index) {
                remembered.forget(&mut changed);
            }
            if let Some(stale) = self.stale.get_mut(index) {
                stale.insert_all(&mut changed, 0);
            }
        }
    }

    /// Which whole leaves of disk number `index` are to be copied, and how many bytes of data they have.
    fn parts(&mut self, index: usize, layout: &DiskLayout) -> (RangeSet, u64) {
        let (Some(stale), Some(copy), Some(sink)) =
            (self.stale.get_mut(index), self.copies.get(index), self.sinks.get(index))
        else {
            return (RangeSet::new(), 0);
        };
        let (unit, size) = (LEAF.max(sink.granule()), layout.extents.size());
        let changed = stale.ranges().iter().flat_map(|range| used(&layout.extents, range.clone()));
        let mut parts = whole_units(changed, unit, size);
        let lacking = copy.lacking(&layout.extents);
        let extent = |range: std::ops::Range<u64>| Extent {
            offset: range.start,
            len: range.end - range.start,
            state: State::Data,
        };
        parts.insert_all(&mut whole_units(lacking.map(extent), unit, size), 0);
        let bytes = parts
            .ranges()
            .iter()
            .flat_map(|range| layout.extents.within(range.clone()))
            .filter(|extent| extent.state == State::Data)
            .map(|extent| extent.len)
            .sum();
        (parts, bytes)
    }

    fn copy(
        &mut self,
        index: usize,
        layout: &DiskLayout,
        parts: &[std::ops::Range<u64>],
        (moment, monitor): (Moment, &dyn Monitor),
    ) -> Result<u64> {
        let (Some(disk), Some(sink), Some(whole)) =
            (self.disks.get(index), self.sinks.get(index), self.copies.get_mut(index))
        else {
            return Ok(0);
        };
        if parts.is_empty() {
            return Ok(0);
        }
        let doing = || format!("capturing {} to {}", disk.path().display(), self.request.target);
        let options = copy::Options {
            threads: self.request.threads,
            disk: index,
            phase: Phase::Capture,
            name: disk.path().display().to_string(),
        };
        let patched = Patched::new(disk, &layout.patches);
        let limit = self.limit.as_ref().filter(|_| moment == Moment::Mounted);
        let source = Limited::new(&patched, limit);
        let mut map = restricted(&layout.extents, parts)?;
        if !matches!(self.request.target, Target::Store { .. } | Target::Server { .. }) {
            // What an earlier pass has written and nobody uses any more would stay in the image, where its map says that there is nothing.
            let written = parts.iter().flat_map(|part| used(&whole.extents, part.clone()));
            let mut written = whole_units(written, 1, map.size());
            map = map.zero_holes(&mut written);
        }
        let part = copy(&source, &map, &**sink, &options, monitor).doing(doing)?;
        whole.absorb(&part, parts)?;
        Ok(part.read_bytes)
    }

    /// Bytes that were written outside swap and filesystems that cannot be frozen, and are used.
    fn strange_bytes(&mut self, index: usize) -> u64 {
        let (Some(stale), Some(layout)) = (self.stale.get_mut(index), self.layouts.get(index)) else {
            return 0;
        };
        let mut expected = RangeSet::new();
        for region in layout.all_regions() {
            let kind = region.filesystem().map(|facts| facts.kind);
            let restless = matches!(
                kind,
                Some(
                    FilesystemKind::Swap
                        | FilesystemKind::Fat12
                        | FilesystemKind::Fat16
                        | FilesystemKind::Fat32
                )
            );
            if let (true, Place::Disk { offset, len, .. }) = (restless, &region.place) {
                expected.insert(*offset..offset.saturating_add(*len));
            }
        }
        let mut bytes = 0;
        for range in stale.ranges() {
            for extent in used(&layout.extents, range.clone()) {
                if !expected.covers(extent.offset..extent.end()) {
                    bytes += extent.len;
                }
            }
        }
        bytes
    }
}

/// What is used within `range`.
fn used(map: &ExtentMap, range: std::ops::Range<u64>) -> impl Iterator<Item = Extent> + '_ {
    map.within(range).filter(|extent| extent.state != State::Hole)
}

/// "12.3 MiB".
pub(super) fn show_bytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    }
}
