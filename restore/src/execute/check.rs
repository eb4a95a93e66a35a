// SPDX-License-Identifier: Apache-2.0
//! What was read and written, held against the hashes.

use unmoor_images::copy::{self, Comparison};
use unmoor_images::merkle::Leaves;
use unmoor_images::{Error, ErrorKind, Extent, ExtentMap, LEAF, Monitor, RangeSet, Result, State};

use crate::plan::DiskPlan;

/// Holds what was read from the image against the manifest's hashes.
///
/// Where the view shows the image unchanged at its own address, the hashes of the copy are compared; the few
/// leaves that were patched or moved are read again.
pub(super) fn image(
    disk: &DiskPlan,
    copied: &Leaves,
    run: &copy::Options,
    monitor: &dyn Monitor,
) -> Result<()> {
    let Some(expected) = &disk.image.leaves else { return Ok(()) };
    let mut same = RangeSet::new();
    for piece in disk.pieces.iter().filter(|piece| piece.to == piece.from) {
        same.insert(piece.to..piece.to + piece.len);
    }
    let mut touched = RangeSet::new();
    for patch in &disk.patches {
        touched.insert(patch.offset / LEAF * LEAF..patch.end().div_ceil(LEAF) * LEAF);
    }
    let mut again = Vec::new();
    let mut comparison = Comparison::default();
    let mut at = 0;
    for leaves in expected.differing(copied) {
        for leaf in leaves {
            let range = leaf * LEAF..((leaf + 1) * LEAF).min(expected.size());
            let unchanged = same.covers(range.clone())
                && !overlaps(&mut touched, &range)
                && (range.end - range.start == LEAF || expected.size() == copied.size());
            if unchanged {
                comparison.differing.push(range);
            } else {
                if at < range.start {
                    again.push(Extent { offset: at, len: range.start - at, state: State::Hole });
                }
                again.extend(disk.image.extents.within(range.clone()));
                at = range.end;
            }
        }
    }
    refuse_differences("reading the image", &comparison)?;
    if at == 0 {
        return Ok(());
    }
    if at < expected.size() {
        again.push(Extent { offset: at, len: expected.size() - at, state: State::Hole });
    }
    let map = ExtentMap::from_extents(again)?;
    let quiet = copy::Options { threads: 1, ..run.clone() };
    let comparison = copy::verify(&*disk.image.source, &map, expected, &quiet, &Quiet(monitor))?;
    refuse_differences("reading the image", &comparison)
}

fn overlaps(set: &mut RangeSet, range: &std::ops::Range<u64>) -> bool {
    let ranges = set.ranges();
    let index = ranges.partition_point(|have| have.end <= range.start);
    ranges.get(index).is_some_and(|have| have.start < range.end)
}

/// Passes on cancelling only: a second look at a few leaves is no phase of its own.
pub(super) struct Quiet<'a>(pub(super) &'a dyn Monitor);

impl Monitor for Quiet<'_> {
    fn event(&self, _event: unmoor_images::monitor::Event) {}
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

pub(super) fn refuse_differences(doing: &'static str, comparison: &Comparison) -> Result<()> {
    if let Some((range, why)) = comparison.unreadable.first() {
        return Err(Error::new(ErrorKind::Io, doing).at(range.start).because(why.clone()));
    }
    let Some(first) = comparison.differing.first() else { return Ok(()) };
    let because = format!(
        "its hash differs from the recorded one, as in {} place(s) in all",
        comparison.differing.len()
    );
    Err(Error::new(ErrorKind::Mismatch, doing).at(first.start).because(because))
}
