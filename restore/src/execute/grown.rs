// SPDX-License-Identifier: Apache-2.0
//! The hashes of a disk whose filesystem was mounted and grown.

use unmoor_images::adapt::Mapped;
use unmoor_images::copy;
use unmoor_images::merkle::Leaves;
use unmoor_images::{BlockSink, Error, Extent, ExtentMap, LEAF, Monitor, RangeSet, Result, State};

use crate::grow;
use crate::target::Held;

/// The map and leaves after a filesystem grew: what it uses now, hashed again.
pub(super) fn rehash(
    held: &Held,
    growth: &grow::Growth,
    extents: &ExtentMap,
    leaves: &Leaves,
    run: &copy::Options,
    monitor: &dyn Monitor,
) -> Result<(ExtentMap, Leaves)> {
    let part = Mapped::new(vec![held], growth.segments.iter().cloned())?;
    let facts = unmoor_images::filesystem::probe(&part)?
        .ok_or_else(|| Error::malformed("looking at the grown filesystem", "it is no longer recognised"))?;
    let mut used = unmoor_images::filesystem::used(&part, &facts)?;
    let mut data = RangeSet::new();
    let mut zeros = RangeSet::new();
    for extent in extents.iter() {
        match extent.state {
            State::Data => data.insert(extent.offset..extent.end()),
            State::Zero => zeros.insert(extent.offset..extent.end()),
            State::Hole => {}
        }
    }
    for range in used.ranges.ranges() {
        for (_, run) in part.runs(range.clone()) {
            data.insert(run);
        }
    }
    data.truncate(extents.size());
    let grown = ExtentMap::from_data(extents.size(), &mut data, State::Hole).zero_holes(&mut zeros);
    // Only leaves that the partition or volume touches can have changed.
    let first = growth.start() / LEAF * LEAF;
    let end = (growth.end().div_ceil(LEAF) * LEAF).min(grown.size());
    let mut only = vec![Extent { offset: 0, len: first, state: State::Hole }];
    only.extend(grown.within(first..end));
    only.push(Extent { offset: end, len: grown.size() - end, state: State::Hole });
    only.retain(|extent| extent.len > 0);
    let only = ExtentMap::from_extents(only)?;
    let report = copy::copy(held, &only, &Nowhere, run, monitor)?;
    Ok((grown, leaves.replaced(first / LEAF..end.div_ceil(LEAF), &report.leaves)?))
}

/// A sink for hashing alone.
pub(super) struct Nowhere;

impl BlockSink for Nowhere {
    fn granule(&self) -> u64 {
        LEAF
    }
    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Ok(())
    }
    fn write_zeros(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
    fn written_bytes(&self) -> u64 {
        0
    }
    fn finish(self: Box<Self>) -> Result<unmoor_images::sink::Finished> {
        Ok(unmoor_images::sink::Finished::default())
    }
}
