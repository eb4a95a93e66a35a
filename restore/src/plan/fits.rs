// SPDX-License-Identifier: Apache-2.0
//! Whether a smaller target loses anything.

use unmoor_images::layout::{Content, Place};
use unmoor_images::partition::Partition;
use unmoor_images::{BlockSource, Error, RangeSet, Result, State, merkle};

use crate::image::Image;

/// Refuses a target of `end` bytes that would cut off content of which no partition of the new table tells.
pub(super) fn check(image: &Image, end: u64, partitions: &[Partition]) -> Result<()> {
    if end >= image.source.size() || !partitions.is_empty() {
        // The table's rewrite has refused partitions that do not fit.
        return Ok(());
    }
    let data = image.extents.within(end..image.extents.size()).filter(|extent| extent.state == State::Data);
    let content = data.last().map(|last| (last.end(), "content"));
    // Nothing that covers the whole disk works on a shorter one, though its last blocks be free.
    let volume = image.regions.iter().filter_map(|region| {
        let Place::Disk { offset, len, .. } = region.place else { return None };
        match &region.content {
            Content::Filesystem(facts) => {
                Some((offset.saturating_add(facts.size_bytes.min(len)), facts.kind.name()))
            }
            Content::PhysicalVolume { .. } => Some((offset.saturating_add(len), "an LVM physical volume")),
            Content::MdMember { .. } => Some((offset.saturating_add(len), "an md member")),
            Content::Luks { .. } => Some((offset.saturating_add(len), "a LUKS container")),
            Content::BootArea | Content::Extended | Content::Unknown => None,
        }
    });
    match content.into_iter().chain(volume).max_by_key(|(needed, _)| *needed) {
        Some((needed, what)) if needed > end => Err(Error::refused(
            "fitting the image to a smaller target",
            format!(
                "it has {what} up to byte {needed}, and the target ends {} bytes before that; shrink the filesystem first, or take a target of at least {needed} bytes",
                needed - end
            ),
        )),
        _ => Ok(()),
    }
}

/// Warns of content behind the last partition that a smaller target has no room for.
pub(super) fn mention(image: &Image, end: u64, warnings: &mut Vec<String>) -> Result<()> {
    /// Bytes that are read to find out whether what is lost is more than zeros.
    const MOST: u64 = 64 << 20;
    let mut table = RangeSet::new();
    for &(start, len) in &image.table.metadata {
        table.insert(start..start.saturating_add(len));
    }
    let mut beyond = RangeSet::new();
    for extent in image.extents.within(end..image.extents.size()).filter(|extent| extent.state == State::Data)
    {
        beyond.insert(extent.offset..extent.end());
    }
    let beyond = beyond.ranges().to_vec();
    let mut buffer = vec![0; 1 << 20];
    let mut read = 0;
    for gap in table.gaps(image.extents.size()) {
        for range in &beyond {
            let (mut at, stop) = (range.start.max(gap.start), range.end.min(gap.end));
            while at < stop {
                let len = (stop - at).min(buffer.len() as u64);
                let part = buffer.get_mut(..len as usize).unwrap_or_default();
                if read < MOST {
                    image.source.read_at(part, at)?;
                }
                if read >= MOST || !merkle::is_zero(part) {
                    warnings.push(format!(
                        "there is content from byte {at} on, behind the last partition; the target ends before it, and it will be lost"
                    ));
                    return Ok(());
                }
                read += len;
                at += len;
            }
        }
    }
    Ok(())
}
