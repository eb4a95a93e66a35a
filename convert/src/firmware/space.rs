// SPDX-License-Identifier: Apache-2.0
//! Room for a new partition: a gap, the free end of a disk, or what swap gives up.

use std::ops::Range;

use unmoor_images::adapt::Window;
use unmoor_images::filesystem::{Condition, FilesystemKind, swap};
use unmoor_images::layout::{DiskLayout, Place, Region};
use unmoor_images::partition::rewrite::gpt_ends;
use unmoor_images::partition::{Partition, Role, TableKind};
use unmoor_images::{BlockSource, Error, Result};

const MIB: u64 = 1 << 20;
/// Swap stays swap with this much at least.
const LEAST_SWAP: u64 = 16 * MIB;

/// What is to be found.
pub(super) struct Need {
    /// For people: "an EFI system partition".
    pub(super) what: &'static str,
    /// Bytes that do, and bytes beyond which more is no use.
    pub(super) least: u64,
    pub(super) most: u64,
    /// Multiples at which it begins.
    pub(super) align: u64,
    /// Bytes of the disk that it must not go beyond.
    pub(super) limit: u64,
    /// The lowest place that does is the best, not the largest.
    pub(super) lowest: bool,
}

/// Partitions that become shorter, and the room that there is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) ranges: Vec<Range<u64>>,
    /// Number and new length in bytes.
    pub(super) shorten: Vec<(u32, u64)>,
    /// New headers of swap areas: first byte of the disk, bytes.
    pub(super) writes: Vec<(u64, Vec<u8>)>,
    /// For people.
    pub(super) notes: Vec<String>,
}

/// A disk whose partitions can be asked to make room.
pub(super) struct Disk<'a> {
    pub(super) source: &'a dyn BlockSource,
    pub(super) layout: &'a DiskLayout,
}

impl Disk<'_> {
    fn content(&self) -> Vec<&Partition> {
        let mut all: Vec<_> = self
            .layout
            .table
            .partitions
            .iter()
            .filter(|partition| partition.role != Role::Extended)
            .collect();
        all.sort_by_key(|partition| partition.start);
        all
    }

    /// First byte, and first byte after what partitions of a GPT may use.
    fn usable(&self) -> Range<u64> {
        let (head, tail) = gpt_ends(self.source.sector_size());
        let sector = u64::from(self.source.sector_size().max(512));
        let size = self.source.size() / sector * sector;
        // A GPT whose first usable sector lies higher keeps something there; with a BIOS boot partition in sight nothing is assumed.
        head..size.saturating_sub(tail)
    }

    /// Finds room for each of `needs`, in order.
    ///
    /// # Errors
    ///
    /// `Refused`, with the bytes that are missing and what would help.
    pub(super) fn find(&self, needs: &[Need]) -> Result<Space> {
        let mut space = Space::default();
        if self.layout.table.kind == TableKind::Mbr {
            self.free_ends(&mut space)?;
        }
        for need in needs {
            let range = match self.gap(need, &space) {
                Some(range) => range,
                None => self.take_from_swap(need, &mut space)?,
            };
            space.ranges.push(range);
        }
        Ok(space)
    }

    fn end(&self, partition: &Partition, space: &Space) -> u64 {
        let shorter = space.shorten.iter().find(|(number, _)| *number == partition.number);
        partition.start.saturating_add(shorter.map_or(partition.len, |(_, len)| *len))
    }

    /// The best gap that does.
    fn gap(&self, need: &Need, space: &Space) -> Option<Range<u64>> {
        let usable = self.usable();
        let mut taken: Vec<Range<u64>> =
            self.content().iter().map(|partition| partition.start..self.end(partition, space)).collect();
        taken.extend(space.ranges.iter().cloned());
        taken.sort_by_key(|range| range.start);
        let (mut from, mut gaps) = (usable.start, Vec::new());
        for range in taken {
            gaps.push(from..range.start);
            from = from.max(range.end);
        }
        gaps.push(from..usable.end);
        let fit = |gap: Range<u64>| {
            let start = gap.start.next_multiple_of(need.align);
            let end =
                (gap.end.min(need.limit).min(start.saturating_add(need.most))) / need.align * need.align;
            (end.checked_sub(start)? >= need.least).then_some(start..end)
        };
        let badness =
            |range: &Range<u64>| if need.lowest { 0 } else { need.most - (range.end - range.start) };
        gaps.into_iter().filter_map(fit).min_by_key(|range| (badness(range), range.start))
    }

    /// Both ends of the disk must be free for the GPT.
    fn free_ends(&self, space: &mut Space) -> Result<()> {
        let usable = self.usable();
        let content = self.content();
        if let Some(first) = content.first().filter(|first| first.start < usable.start) {
            return Err(refused(format!(
                "partition {} begins {} bytes before the end of what a GPT takes at the start of the disk, and partitions are not moved",
                first.number,
                usable.start - first.start
            )));
        }
        for partition in content {
            let end = partition.start.saturating_add(partition.len);
            if end <= usable.end {
                continue;
            }
            let len = usable.end.saturating_sub(partition.start);
            match self.shorten(partition, len, space) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(error),
                None => {
                    return Err(refused(format!(
                        "a GPT needs the last {} bytes of the disk, and partition {} takes {} of them: make the disk larger by that \
                         much (rounded up to 1 MiB: qemu-img resize IMAGE +1M; or restore to a larger one), or shrink what is in the partition",
                        self.source.size().saturating_sub(usable.end),
                        partition.number,
                        end - usable.end
                    )));
                }
            }
        }
        Ok(())
    }

    /// Cuts swap, or what lies behind a filesystem's own end; `None` where neither is possible.
    fn shorten(&self, partition: &Partition, len: u64, space: &mut Space) -> Option<Result<()>> {
        let facts = self.region(partition.number)?.filesystem()?;
        if facts.kind == FilesystemKind::Swap {
            let header = Window::new(self.source, partition.start, partition.len)
                .and_then(|area| swap::resized(&area, len));
            return Some(header.map(|header| {
                space.shorten.push((partition.number, len));
                space.writes.push((partition.start, header));
                space.notes.push(format!(
                    "swap in partition {} is re-made {} bytes smaller, with the same UUID and label",
                    partition.number,
                    partition.len - len
                ));
            }));
        }
        // An ext filesystem has nothing behind its end; XFS and btrfs neither.
        (facts.size_bytes <= len && matches!(facts.condition, Condition::Clean)).then(|| {
            space.shorten.push((partition.number, len));
            space.notes.push(format!(
                "partition {} ends {} bytes earlier, where its {} ends",
                partition.number,
                partition.len - len,
                facts.kind.name()
            ));
            Ok(())
        })
    }

    fn region(&self, number: u32) -> Option<&Region> {
        self.layout.all_regions().find(|region| match region.place {
            Place::Disk { partition, .. } => partition == Some(number),
            _ => false,
        })
    }

    /// The end of the largest swap partition.
    fn take_from_swap(&self, need: &Need, space: &mut Space) -> Result<Range<u64>> {
        let is_swap = |partition: &&Partition| {
            let facts = self.region(partition.number).and_then(Region::filesystem);
            facts.is_some_and(|facts| facts.kind == FilesystemKind::Swap)
        };
        let candidates: Vec<_> = self.content().into_iter().filter(is_swap).collect();
        let mut largest = 0;
        let mut reason = None;
        let mut by_size = candidates;
        by_size.sort_by_key(|partition| std::cmp::Reverse(partition.len));
        for partition in by_size {
            let end = self.end(partition, space).min(need.limit) / need.align * need.align;
            let room = end.saturating_sub(partition.start).saturating_sub(LEAST_SWAP);
            largest = largest.max(room);
            // No more than a quarter of it, unless less would not do.
            let size = (partition.len / 4).clamp(need.least, need.most).next_multiple_of(need.align);
            let Some(start) = end.checked_sub(size).map(|start| start / need.align * need.align) else {
                continue;
            };
            if room < need.least || start < partition.start.saturating_add(LEAST_SWAP) {
                continue;
            }
            space.shorten.retain(|(number, _)| *number != partition.number);
            space.writes.retain(|(at, _)| *at != partition.start);
            match self.shorten(partition, start - partition.start, space) {
                Some(Ok(())) => return Ok(start..end),
                Some(Err(error)) => reason = Some(error),
                None => {}
            }
        }
        let gap = self.largest_gap(need, space);
        let missing = need.least.saturating_sub(gap.max(largest));
        let refusal = refused(format!(
            "there is no room for {}: {} bytes are needed, the largest gap has {gap}, and swap can give up {largest}; {missing} bytes \
             are missing: make the disk larger by {} MiB (qemu-img resize, or restore to a larger one)",
            need.what,
            need.least,
            need.least.div_ceil(MIB) + 1
        ));
        Err(match reason {
            Some(error) => refusal.source(error),
            None => refusal,
        })
    }

    fn largest_gap(&self, need: &Need, space: &Space) -> u64 {
        let any = Need { least: 1, lowest: false, ..*need };
        self.gap(&any, space).map_or(0, |range| range.end - range.start)
    }
}

fn refused(because: String) -> Error {
    Error::refused("making room on the disk", because)
}
