// SPDX-License-Identifier: Apache-2.0
//! Going on with a restore that was interrupted: what is on the target already, by its hashes.
//!
//! Nothing is kept of the first attempt but the target itself. What it holds is read, and whatever is not what this plan would
//! write is written: it does not matter which image the first attempt wrote, or how far it came.

use std::ops::Range;

use unmoor_images::copy::{self, Report};
use unmoor_images::merkle::Leaves;
use unmoor_images::{BlockSource, Extent, ExtentMap, LEAF, Monitor, RangeSet, Result, State};

use super::grown::Nowhere;
use crate::plan::DiskPlan;
use crate::target::Held;
use crate::view::View;

/// What is left to do.
pub(super) struct Found {
    /// The plan's map with holes where the target is right.
    pub(super) todo: ExtentMap,
    /// Bytes of data that are there.
    pub(super) kept_bytes: u64,
    /// Hashes of what is there.
    there: Leaves,
    /// Leaves to write, in ascending order.
    leaves: Vec<Range<u64>>,
}

/// Compares the target with what the plan would write. What would be held back reads as zeros, and so is written again.
pub(super) fn find(
    disk: &DiskPlan,
    held: &Held,
    view: &View<'_>,
    run: &copy::Options,
    monitor: &dyn Monitor,
) -> Result<Found> {
    let (there, mut todo) = match &disk.image.leaves {
        Some(leaves) => expected(disk, leaves)?,
        // An image without recorded hashes is read once more.
        None => (copy::copy(view, &disk.extents, &Nowhere, run, monitor)?.leaves, RangeSet::new()),
    };
    let compared = copy::verify(held, &disk.extents, &there, run, monitor)?;
    let unreadable = compared.unreadable.into_iter().map(|(range, _)| range);
    for range in compared.differing.into_iter().chain(unreadable) {
        todo.insert(whole_leaves(&range));
    }
    todo.truncate(disk.size);
    let (mut extents, mut leaves, mut at) = (Vec::new(), Vec::new(), 0);
    let hole = |from: u64, to: u64| {
        (from < to).then_some(Extent { offset: from, len: to - from, state: State::Hole })
    };
    for range in todo.ranges() {
        extents.extend(hole(at, range.start));
        extents.extend(disk.extents.within(range.clone()));
        leaves.push(range.start / LEAF..range.end.div_ceil(LEAF));
        at = range.end;
    }
    extents.extend(hole(at, disk.size));
    let todo = ExtentMap::from_extents(extents)?;
    let kept_bytes = disk.extents.bytes(State::Data).saturating_sub(todo.bytes(State::Data));
    Ok(Found { todo, kept_bytes, there, leaves })
}

impl Found {
    /// The report of a copy of all, from that of the copy of the rest.
    pub(super) fn complete(self, rest: &Report, view: &View<'_>, extents: &ExtentMap) -> Result<Report> {
        let mut leaves = Leaves::builder(view.size());
        let mut next = 0;
        for range in self.leaves {
            for (_, count, hash) in self.there.runs_within(next..range.start) {
                leaves.push_run(count, hash)?;
            }
            for (_, count, hash) in rest.leaves.runs_within(range.clone()) {
                leaves.push_run(count, hash)?;
            }
            next = range.end;
        }
        for (_, count, hash) in self.there.runs_within(next..self.there.count()) {
            leaves.push_run(count, hash)?;
        }
        Ok(Report {
            leaves: leaves.finish()?,
            extents: copy::refine(view, extents)?,
            read_bytes: rest.read_bytes,
        })
    }
}

fn whole_leaves(range: &Range<u64>) -> Range<u64> {
    range.start / LEAF * LEAF..range.end.div_ceil(LEAF).saturating_mul(LEAF)
}

/// The hashes of what the plan writes, as far as the image's tell, and the ranges of which they do not: patched leaves, and the
/// ends of pieces that begin or end within one.
fn expected(disk: &DiskPlan, image: &Leaves) -> Result<(Leaves, RangeSet)> {
    let zeros = Leaves::zeros(disk.size);
    let mut leaves = Leaves::builder(disk.size);
    let mut unknown = RangeSet::new();
    let mut next = 0;
    for piece in &disk.pieces {
        let end = piece.to.saturating_add(piece.len);
        let mut whole = piece.to.div_ceil(LEAF)..end / LEAF;
        // A last leaf that is short is one all the same, where it is short in the image as well.
        if end == disk.size && piece.from.saturating_add(piece.len) == image.size() {
            whole.end = end.div_ceil(LEAF);
        }
        if piece.to % LEAF != piece.from % LEAF || whole.is_empty() {
            unknown.insert(whole_leaves(&(piece.to..end)));
            continue;
        }
        for part in [piece.to..whole.start * LEAF, whole.end * LEAF..end] {
            if !part.is_empty() {
                unknown.insert(whole_leaves(&part));
            }
        }
        for (_, count, hash) in zeros.runs_within(next..whole.start) {
            leaves.push_run(count, hash)?;
        }
        let first = piece.from.div_ceil(LEAF);
        for (_, count, hash) in image.runs_within(first..first + (whole.end - whole.start)) {
            leaves.push_run(count, hash)?;
        }
        next = whole.end;
    }
    for (_, count, hash) in zeros.runs_within(next..zeros.count()) {
        leaves.push_run(count, hash)?;
    }
    for patch in &disk.patches {
        unknown.insert(whole_leaves(&(patch.offset..patch.end())));
    }
    Ok((leaves.finish()?, unknown))
}
