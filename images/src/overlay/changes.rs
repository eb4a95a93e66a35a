// SPDX-License-Identifier: Apache-2.0
//! What overlays change, and what their images' maps become by that.

use std::fs::File;

use super::{About, Overlays};
use crate::adapt::WithSectors;
use crate::formats::qcow2::{Overlay, Qcow2Source};
use crate::layout::{self, DiskLayout, Hibernated};
use crate::manifest::{Conversion, DiskRecord, hex};
use crate::merkle::{self, Hash, Leaves};
use crate::{BlockSource, Error, ErrorKind, ExtentMap, LEAF, Monitor, RangeSet, Result, ResultExt, State};

/// Bytes that are compared at a time.
const STEP: u64 = 1 << 20;
/// A difference is told to this many bytes: a block of most filesystems.
const BLOCK: usize = 4096;

/// A disk as its overlay shows it.
pub struct Changed {
    /// The disk.
    pub source: Qcow2Source,
    /// Ranges that differ from the image.
    pub changed: RangeSet,
    /// It, taken apart.
    pub layout: DiskLayout,
    /// Ranges that were written to, whether or not they differ.
    written: RangeSet,
}

/// Flushes the overlays, and finds out what they change.
pub fn changes(overlays: &Overlays, monitor: &dyn Monitor) -> Result<Vec<Changed>> {
    let mut found = Vec::new();
    for (index, path) in overlays.paths.iter().enumerate() {
        File::open(path).and_then(|file| file.sync_all()).doing(|| format!("flushing {}", path.display()))?;
        let overlay = overlays.open(index)?;
        let changed = differing(&overlay, &*overlays.below(index)?, monitor)?;
        found.push((overlay, changed));
    }
    // The table of a disk counts in the sectors that the disk has: an MBR does not say which.
    let sectors = overlays.targets.iter().map(|target| target.sector_size);
    let sources: Vec<_> = found
        .iter()
        .zip(sectors)
        .map(|((overlay, _), sector_size)| WithSectors::new(&overlay.source, sector_size))
        .collect();
    let sources: Vec<&dyn BlockSource> = sources.iter().map(|source| source as _).collect();
    let options = layout::Options { all: false, hibernated: Hibernated::Keep };
    let layouts = layout::analyze(&sources, &options, monitor).doing(|| "looking at the changed disks")?;
    let each = found.into_iter().zip(layouts);
    Ok(each
        .map(|((Overlay { source, written }, changed), layout)| Changed { source, changed, layout, written })
        .collect())
}

impl Changed {
    /// The image's extents after the change, `before` being those before it. Room behind the image's end is in no use.
    pub fn extents(&self, before: &ExtentMap) -> ExtentMap {
        let before = before.resized(self.layout.extents.size(), State::Hole);
        extents(&before, &self.layout.extents, &self.written, &self.changed)
    }

    /// Counts the leaf at the old end of a disk that had `size` bytes among what is changed, where it is longer or shorter now.
    pub fn mark_end(&mut self, size: u64) {
        let now = self.source.size();
        let end = size.min(now);
        if size != now && !end.is_multiple_of(LEAF) {
            self.changed.insert(end / LEAF * LEAF..end.next_multiple_of(LEAF).min(now));
        }
    }

    /// Brings `record` of the disk to what it is now, and answers its new extents and leaves. `before` are those of the image.
    pub fn record(
        &mut self,
        record: &mut DiskRecord,
        before: (&ExtentMap, &Leaves),
        about: &About,
        monitor: &dyn Monitor,
    ) -> Result<(ExtentMap, Leaves)> {
        let extents = self.extents(before.0);
        let leaves = self.leaves(before.1, monitor)?;
        record.conversions.push(Conversion {
            time: about.time.clone(),
            tool: about.tool.clone(),
            what: about.what.clone(),
            root_before: std::mem::replace(&mut record.root, hex(&leaves.root())),
            changed: leaves
                .differing(before.1)
                .into_iter()
                .map(|leaves| (leaves.start * LEAF, (leaves.end * LEAF).min(extents.size())))
                .collect(),
        });
        record.table = self.layout.table.clone();
        record.regions = self.layout.regions.clone();
        record.data_bytes = extents.bytes(State::Data);
        record.zero_bytes = extents.bytes(State::Zero);
        record.hole_bytes = extents.bytes(State::Hole);
        Ok((extents, leaves))
    }

    /// `before`, the image's leaves, with those that the change touches hashed anew.
    pub fn leaves(&mut self, before: &Leaves, monitor: &dyn Monitor) -> Result<Leaves> {
        let before = &before.resized(self.source.size());
        let mut pairs: Vec<(u64, Hash)> = Vec::new();
        let mut buffer = vec![0; LEAF as usize];
        let mut next = 0;
        for range in self.changed.ranges() {
            for index in (range.start / LEAF).max(next)..range.end.div_ceil(LEAF) {
                stop(monitor)?;
                let len = LEAF.min(before.size().saturating_sub(index * LEAF)) as usize;
                let Some(part) = buffer.get_mut(..len).filter(|part| !part.is_empty()) else { break };
                self.source.read_at(part, index * LEAF)?;
                pairs.push((index, merkle::leaf(part)));
                next = index + 1;
            }
        }
        before.with(&pairs)
    }
}

/// Data stays data and zero stays zero. What changed is data; what is a hole no longer, because somebody wrote to it or a
/// filesystem uses it now, and has not changed, holds the zeros that holes read as.
fn extents(before: &ExtentMap, now: &ExtentMap, written: &RangeSet, changed: &RangeSet) -> ExtentMap {
    let mut data = changed.clone();
    let mut zeros = written.clone();
    for extent in before.iter() {
        match extent.state {
            State::Data => data.insert(extent.offset..extent.end()),
            State::Zero => zeros.insert(extent.offset..extent.end()),
            State::Hole => {}
        }
    }
    for extent in now.iter().filter(|extent| extent.state != State::Hole) {
        zeros.insert(extent.offset..extent.end());
    }
    data.truncate(before.size());
    zeros.truncate(before.size());
    ExtentMap::from_data(before.size(), &mut data, State::Hole).zero_holes(&mut zeros)
}

/// Fails if the user wants to stop.
pub(super) fn stop(monitor: &dyn Monitor) -> Result<()> {
    if monitor.cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "changing the image").because("stopped on request"));
    }
    Ok(())
}

/// Ranges in which the overlay differs from `below`, the image.
fn differing(overlay: &Overlay, below: &dyn BlockSource, monitor: &dyn Monitor) -> Result<RangeSet> {
    let (mut new, mut old) = (vec![0; STEP as usize], vec![0; STEP as usize]);
    let mut found = RangeSet::new();
    let size = below.size();
    for range in overlay.written.clone().ranges() {
        let mut at = range.start;
        while at < range.end.min(size) {
            stop(monitor)?;
            let len = STEP.min(range.end.min(size) - at) as usize;
            let (Some(new), Some(old)) = (new.get_mut(..len), old.get_mut(..len)) else { break };
            overlay.source.read_at(new, at)?;
            below.read_at(old, at)?;
            for (index, (new, old)) in new.chunks(BLOCK).zip(old.chunks(BLOCK)).enumerate() {
                if new != old {
                    let start = at + (index * BLOCK) as u64;
                    found.insert(start..start + new.len() as u64);
                }
            }
            at += len as u64;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_that_was_written_to_or_is_used_now_must_be_written_by_a_restore() {
        let mut used = RangeSet::of(0..100);
        used.insert(900..1000);
        let before =
            ExtentMap::from_data(1000, &mut used, State::Hole).zero_holes(&mut RangeSet::of(100..150));
        let now = ExtentMap::from_data(1000, &mut RangeSet::of(600..650), State::Hole);
        let mut written = RangeSet::of(300..400);
        written.insert(50..120);
        let changed = RangeSet::of(310..320);
        let after = extents(&before, &now, &written, &changed);
        let found: Vec<_> = after.iter().map(|extent| (extent.offset, extent.state)).collect();
        let want = [
            (0, State::Data),
            (100, State::Zero),
            (150, State::Hole),
            (300, State::Zero),
            (310, State::Data),
            (320, State::Zero),
            (400, State::Hole),
            (600, State::Zero),
            (650, State::Hole),
            (900, State::Data),
        ];
        assert_eq!(found, want);
    }
}
