// SPDX-License-Identifier: Apache-2.0
//! What differs between two images of a machine: files, where a filesystem can be read, else ranges of its disks.
//!
//! ```text
//!   leaves of both disks --> ranges whose hashes differ --+--> in a filesystem: both trees side by side (tree.rs)
//!                                                        +--> elsewhere: the 4 KiB blocks that differ (ranges.rs)
//! ```
//!
//! Metadata is read of both images; content alone where it lies in leaves that differ, or where a file has moved. Leaves that are
//! equal are read once: the second image is shown through the first one (`Shared`).

mod ranges;
#[cfg(test)]
mod tests;
mod tree;

use std::ops::Range;

pub use tree::{Change, FileChange, What};

use crate::adapt::Mapped;
use crate::filesystem::FilesystemKind;
use crate::filesystem::files::{self, Limited};
use crate::layout::{self, DiskLayout, Region};
use crate::merkle::Leaves;
use crate::{BlockSource, Error, ErrorKind, Extent, LEAF, Monitor, RangeSet, Result, State};
use ranges::Names;
use tree::Walk;

/// One image: its disks, what is on them, and their hashes.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// The disks.
    pub disks: &'a [&'a dyn BlockSource],
    /// One element a disk.
    pub layouts: &'a [DiskLayout],
    /// One element a disk.
    pub leaves: &'a [&'a Leaves],
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The files of this filesystem were compared; their differences follow.
    Filesystem {
        /// Such as "partition 2" or "vg/root".
        place: String,
        /// ext4, xfs, ...
        kind: FilesystemKind,
        /// Its label.
        label: Option<String>,
    },
    /// A file of the filesystem that was named last.
    File(FileChange),
    /// Bytes of the place, by their address on a disk, differ.
    Extents {
        /// Such as "partition 3", "the partition table and what lies between partitions".
        place: String,
        /// What is there: "swap", "ntfs".
        content: String,
        /// Number of the disk.
        disk: usize,
        /// In blocks of 4 KiB.
        ranges: Vec<Range<u64>>,
    },
    /// A partition, volume or disk that only the second image has.
    Appeared(String),
    /// One that only the first image has.
    Gone(String),
}

/// Reads of one filesystem end after so many times the disks' size: structures that lead in a circle end too.
const READS: u64 = 64;

/// Compares two images; `each` hears of every difference in order.
pub fn diff(
    before: &Image<'_>,
    after: &Image<'_>,
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    let count = before.disks.len().min(after.disks.len());
    for disk in count..before.disks.len() {
        each(Difference::Gone(format!("disk {disk}")))?;
    }
    for disk in count..after.disks.len() {
        each(Difference::Appeared(format!("disk {disk}")))?;
    }
    let mut differing: Vec<RangeSet> =
        before.leaves.iter().zip(after.leaves).map(|(one, two)| differing_bytes(one, two)).collect();
    let shared: Vec<Shared<'_>> = (before.disks.iter().zip(after.disks).zip(&mut differing))
        .map(|((one, two), ranges)| Shared::new(*one, *two, ranges.ranges().to_vec()))
        .collect();
    let mut disks: Vec<&dyn BlockSource> = shared.iter().map(|disk| disk as &dyn BlockSource).collect();
    disks.extend(after.disks.iter().skip(count));
    let after = &Image { disks: &disks, ..*after };

    let (old, new) = (filesystems(before), filesystems(after));
    let mut taken = vec![false; new.len()];
    let mut read: Vec<RangeSet> = (0..count).map(|_| RangeSet::new()).collect();
    for one in &old {
        let same = |two: &Found<'_>| two.disk == one.disk && two.region.place == one.region.place;
        let moved = |two: &Found<'_>| uuid(two.region).is_some() && uuid(two.region) == uuid(one.region);
        let free = |(index, _): &(usize, &Found<'_>)| !taken.get(*index).copied().unwrap_or(true);
        let found = new.iter().enumerate().filter(free).find(|(_, two)| same(two));
        let found = found.or_else(|| new.iter().enumerate().filter(free).find(|(_, two)| moved(two)));
        let Some((index, two)) = found else {
            each(Difference::Gone(name(one)))?;
            continue;
        };
        taken.get_mut(index).into_iter().for_each(|taken| *taken = true);
        let pair = Pair { before, after, one, two };
        if let Some(covered) = pair.compare(&mut differing, monitor, each)? {
            covered.into_iter().for_each(|(disk, range)| {
                read.get_mut(disk).into_iter().for_each(|set| set.insert(range.clone()));
            });
        }
    }
    for (two, _) in new.iter().zip(&taken).filter(|(_, taken)| !**taken) {
        each(Difference::Appeared(name(two)))?;
    }
    for (disk, (ranges, read)) in differing.iter_mut().zip(&mut read).enumerate() {
        let (Some(one), Some(two), Some(layout)) =
            (before.disks.get(disk), after.disks.get(disk), after.layouts.get(disk))
        else {
            continue;
        };
        let names = Names::of(layout);
        ranges::report((*one, *two), disk, &ranges::without(ranges, read), &names, monitor, each)?;
    }
    Ok(())
}

/// Bytes in leaves that differ. What only one of the disks has differs.
fn differing_bytes(one: &Leaves, two: &Leaves) -> RangeSet {
    let mut found = RangeSet::new();
    let size = one.size().max(two.size());
    for range in one.differing(two).into_iter().chain(two.differing(one)) {
        found.insert(range.start * LEAF..(range.end * LEAF).min(size));
    }
    found
}

/// A filesystem in an image.
struct Found<'a> {
    disk: usize,
    region: &'a Region,
}

fn filesystems<'a>(image: &Image<'a>) -> Vec<Found<'a>> {
    let layouts = image.layouts.iter().enumerate();
    layouts
        .flat_map(|(disk, layout)| layout.all_regions().map(move |region| Found { disk, region }))
        .filter(|found| found.region.filesystem().is_some_and(|facts| facts.kind != FilesystemKind::Swap))
        .collect()
}

fn uuid(region: &Region) -> Option<(FilesystemKind, &str)> {
    region.filesystem().and_then(|facts| Some((facts.kind, facts.uuid.as_deref()?)))
}

fn name(found: &Found<'_>) -> String {
    layout::place_name(found.disk, &found.region.place)
}

/// A filesystem in both images.
struct Pair<'a, 'b> {
    before: &'b Image<'a>,
    after: &'b Image<'b>,
    one: &'b Found<'a>,
    two: &'b Found<'b>,
}

/// Ranges of disks.
type Covered = Vec<(usize, Range<u64>)>;

impl Pair<'_, '_> {
    /// Compares the files. Answers which bytes of the disks that explains, or nothing where files cannot be read: then the bytes
    /// are reported as such.
    fn compare(
        &self,
        differing: &mut [RangeSet],
        monitor: &dyn Monitor,
        each: &mut dyn FnMut(Difference) -> Result<()>,
    ) -> Result<Option<Covered>> {
        let Some(facts) = self.two.region.filesystem() else { return Ok(None) };
        let name = name(self.two);
        let sources =
            self.open(self.before, self.one).and_then(|one| Ok((one, self.open(self.after, self.two)?)));
        let (one, two) = match sources {
            Ok(sources) => sources,
            Err(error) => return unread(&name, error, monitor),
        };
        let mut covered: Covered = two.runs(0..two.size()).collect();
        let same_place = one.segments() == two.segments() && one.size() == two.size();
        if same_place {
            covered.extend(one.runs(0..one.size()));
        }
        let mut changed = same_place.then(|| within(&two, differing)).flatten();
        if changed.as_mut().is_some_and(|ranges| ranges.ranges().is_empty()) {
            return Ok(Some(covered));
        }
        let budget = one.size().max(two.size()).saturating_mul(READS).saturating_add(1 << 30);
        let (one, two) = (Limited::new(&one, budget), Limited::new(&two, budget));
        let kinds = (self.one.region.filesystem().map_or(facts.kind, |facts| facts.kind), facts.kind);
        let opened = files::open(&one, kinds.0).and_then(|first| Ok((first, files::open(&two, kinds.1)?)));
        let (first, second) = match opened {
            Ok(opened) => opened,
            Err(error) => return unread(&name, error, monitor),
        };
        each(Difference::Filesystem { place: name.clone(), kind: facts.kind, label: facts.label.clone() })?;
        for note in [first.note(), second.note()].into_iter().flatten() {
            monitor.note(format!("{name}: {note}"));
        }
        Walk::new(first, second, changed, monitor, each).run()?;
        Ok(Some(covered))
    }

    fn open<'a>(&self, image: &Image<'a>, found: &Found<'_>) -> Result<Mapped<'a>> {
        layout::open(image.disks, image.layouts, found.disk, &found.region.place)
    }
}

/// A filesystem whose files cannot be read is compared as bytes.
fn unread(name: &str, error: Error, monitor: &dyn Monitor) -> Result<Option<Covered>> {
    match error.kind() {
        ErrorKind::Unsupported | ErrorKind::Malformed | ErrorKind::Mismatch => {
            monitor
                .note(format!("{name}: compared as bytes, for its files cannot be read: {}", error.chain()));
            Ok(None)
        }
        _ => Err(error),
    }
}

/// Which bytes of a device lie in ranges that differ. `None` for stripes, which are too many to be turned round.
fn within(device: &Mapped<'_>, differing: &mut [RangeSet]) -> Option<RangeSet> {
    let mut found = RangeSet::new();
    for (at, segment) in device.segments() {
        let [leg] = segment.legs.as_slice() else { return None };
        let (from, to) = (leg.start, leg.start.saturating_add(segment.len));
        let ranges = differing.get_mut(leg.source)?.ranges();
        let first = ranges.partition_point(|range| range.end <= from);
        for range in ranges.get(first..)?.iter().take_while(|range| range.start < to) {
            found.insert(range.start.max(from) - from + at..range.end.min(to) - from + at);
        }
    }
    Some(found)
}

/// The second image's disk: what is equal is read from the first one, which has it in memory already.
struct Shared<'a> {
    one: &'a dyn BlockSource,
    two: &'a dyn BlockSource,
    /// Where they differ.
    ranges: Vec<Range<u64>>,
}

impl<'a> Shared<'a> {
    fn new(one: &'a dyn BlockSource, two: &'a dyn BlockSource, ranges: Vec<Range<u64>>) -> Self {
        Self { one, two, ranges }
    }
}

impl BlockSource for Shared<'_> {
    fn size(&self) -> u64 {
        self.two.size()
    }

    fn sector_size(&self) -> u32 {
        self.two.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let next = self.ranges.partition_point(|range| range.end <= offset);
        let touched = self.ranges.get(next).is_some_and(|range| range.start < end);
        if touched || end > self.one.size() {
            return self.two.read_at(buf, offset);
        }
        self.one.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.two.extent_at(offset, len)
    }
}

/// Zeros that both containers know need no reading.
fn both_zero(one: &dyn BlockSource, two: &dyn BlockSource, at: u64, len: u64) -> Result<bool> {
    let zero = |source: &dyn BlockSource| -> Result<bool> {
        let known = source.extent_at(at, len)?;
        Ok(known.state == State::Zero && known.len >= len)
    };
    Ok(zero(one)? && zero(two)?)
}
