// SPDX-License-Identifier: Apache-2.0
//! Which files have bytes in some ranges of an image's disks: what damage means to people.
//!
//! ```text
//!   ranges of disks --> filesystems that they touch --+--> nothing uses them, or the kind has no reader: said as such
//!                                                     +--> every file's runs held against them (walk.rs)
//! ```
//!
//! The ranges may be unreadable themselves: a directory or an inode in one is told as such, and the walk goes on. Only a filesystem's
//! whole tree tells whose a byte is, so that the walk is bounded by reads, files and time, and says where it ended.

#[cfg(test)]
mod tests;
mod walk;

use std::ops::Range;
use std::time::Instant;

use serde::Serialize;

use crate::adapt::Mapped;
use crate::filesystem::FilesystemKind;
use crate::filesystem::files::{self, Limited};
use crate::layout::{self, DiskLayout, Region};
use crate::{BlockSource, Error, ErrorKind, ExtentMap, Monitor, RangeSet, Result, State};

/// An image's disks.
#[derive(Clone, Copy)]
pub struct Disks<'a> {
    /// Their content.
    pub sources: &'a [&'a dyn BlockSource],
    /// One element a disk.
    pub layouts: &'a [DiskLayout],
}

/// How much is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files of one filesystem that are named; more are counted.
    pub files: usize,
    /// When to stop.
    pub until: Option<Instant>,
}

/// One filesystem of which something lies in the ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// Such as "partition 2" or "vg/root".
    pub place: String,
    /// ext4, xfs, ...
    pub kind: FilesystemKind,
    /// Its label.
    pub label: Option<String>,
    /// Bytes of it that lie in the ranges.
    pub bytes: u64,
    /// Of them, in the content of files and directories that were found.
    pub file_bytes: u64,
    /// Of them, used by nothing. What remains is the filesystem's own.
    pub free_bytes: u64,
    /// Files and directories, in the tree's order; the first ones.
    pub files: Vec<AffectedFile>,
    /// How many more there are.
    pub more: u64,
    /// Why there may be others, if so.
    pub incomplete: Option<String>,
}

/// A file or directory that lies in the ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AffectedFile {
    /// From the filesystem's root, with a slash in front; bytes that are no text are replaced.
    pub path: String,
    /// Bytes of its content that lie in the ranges.
    pub bytes: u64,
    /// What of it cannot be read and is not its content: its inode, the names in it.
    pub unreadable: Option<String>,
}

/// Reads of one filesystem end after so many times its size: structures that lead in a circle end too.
const READS: u64 = 16;

/// Finds what lies in `ranges`, one set a disk.
///
/// # Errors
///
/// `Cancelled` only: what cannot be read is a part of the answer.
pub fn affected(
    disks: &Disks<'_>,
    ranges: &mut [RangeSet],
    limits: &Limits,
    monitor: &dyn Monitor,
) -> Result<Vec<Affected>> {
    let ranges: Vec<&[Range<u64>]> = ranges.iter_mut().map(RangeSet::ranges).collect();
    let mut found = Vec::new();
    for (disk, layout) in disks.layouts.iter().enumerate() {
        for region in layout.all_regions() {
            found.extend(in_region(disks, (disk, region), &ranges, limits, monitor)?);
        }
    }
    Ok(found)
}

fn in_region(
    disks: &Disks<'_>,
    (disk, region): (usize, &Region),
    ranges: &[&[Range<u64>]],
    limits: &Limits,
    monitor: &dyn Monitor,
) -> Result<Option<Affected>> {
    let Some(facts) = region.filesystem() else { return Ok(None) };
    // A volume that cannot be put together, such as for a lost metadata area, is no filesystem that could be looked into.
    let Ok(device) = layout::open(disks.sources, disks.layouts, disk, &region.place) else { return Ok(None) };
    let device = Within { device: &device, ranges };
    let mut touched = device.touched(0..device.device.size());
    let bytes: u64 = touched.iter_mut().map(RangeSet::bytes).sum();
    if bytes == 0 {
        return Ok(None);
    }
    let free_bytes =
        disks.layouts.iter().zip(&mut touched).map(|(layout, set)| free(&layout.extents, set)).sum();
    let mut answer = Affected {
        place: layout::place_name(disk, &region.place),
        kind: facts.kind,
        label: facts.label.clone(),
        bytes,
        file_bytes: 0,
        free_bytes,
        files: Vec::new(),
        more: 0,
        incomplete: None,
    };
    // What swap holds has no names.
    if free_bytes < bytes && facts.kind != FilesystemKind::Swap {
        let source = device.device;
        let source = Limited::new(source, source.size().saturating_mul(READS).saturating_add(1 << 30));
        match files::open(&source, facts.kind) {
            Ok(volume) => walk::Walk::new(volume, &device, &source, limits, monitor).run(&mut answer)?,
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => answer.incomplete = Some(error.chain()),
        }
    }
    Ok(Some(answer))
}

/// Bytes of a set that are holes.
fn free(extents: &ExtentMap, set: &mut RangeSet) -> u64 {
    let holes = |range: &Range<u64>| -> u64 {
        extents.within(range.clone()).filter(|extent| extent.state == State::Hole).map(|hole| hole.len).sum()
    };
    set.ranges().iter().map(holes).sum()
}

/// A filesystem's device, and the ranges of the disks below it.
struct Within<'a, 'b> {
    device: &'a Mapped<'b>,
    ranges: &'a [&'a [Range<u64>]],
}

impl Within<'_, '_> {
    /// What of a range of the device lies in the ranges, as bytes of the disks.
    fn touched(&self, range: Range<u64>) -> Vec<RangeSet> {
        let mut sets: Vec<RangeSet> = self.ranges.iter().map(|_| RangeSet::new()).collect();
        self.each(range, &mut |disk, part| {
            sets.get_mut(disk).into_iter().for_each(|set| set.insert(part.clone()));
        });
        sets
    }

    fn each(&self, range: Range<u64>, found: &mut dyn FnMut(usize, Range<u64>)) {
        for (disk, run) in self.device.runs(range) {
            let ranges = self.ranges.get(disk).copied().unwrap_or_default();
            let first = ranges.partition_point(|range| range.end <= run.start);
            let ranges = ranges.iter().skip(first).take_while(|range| range.start < run.end);
            ranges.for_each(|range| found(disk, range.start.max(run.start)..range.end.min(run.end)));
        }
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "looking for the files").because("stopped on request")
}
