// SPDX-License-Identifier: Apache-2.0
//! Bytes that differ and belong to no file: which blocks, and where.

use std::ops::Range;

use super::{Difference, both_zero};
use crate::layout::{Content, DiskLayout, Place, place_name};
use crate::{BlockSource, Error, ErrorKind, Monitor, RangeSet, Result};

const BLOCK: usize = 4096;
const PIECE: u64 = 1 << 20;
/// Ranges of one place that are told apart.
const MOST: usize = 100_000;

/// The parts of `ranges` that `read` does not cover.
pub(super) fn without(ranges: &mut RangeSet, read: &mut RangeSet) -> Vec<Range<u64>> {
    let end = ranges.ranges().last().map_or(0, |last| last.end);
    let gaps = read.gaps(end);
    let mut left = Vec::new();
    let mut next = 0;
    for range in ranges.ranges() {
        while gaps.get(next).is_some_and(|gap| gap.end <= range.start) {
            next += 1;
        }
        let touching = gaps.get(next..).unwrap_or_default().iter().take_while(|gap| gap.start < range.end);
        left.extend(touching.map(|gap| gap.start.max(range.start)..gap.end.min(range.end)));
    }
    left
}

/// What lies where on a disk, for people.
pub(super) struct Names {
    /// Ascending: range, its place, what is there.
    places: Vec<(Range<u64>, String, String)>,
}

const BETWEEN: &str = "the partition table and what lies between partitions";

impl Names {
    pub(super) fn of(layout: &DiskLayout) -> Self {
        let mut places = Vec::new();
        for region in &layout.regions {
            let Place::Disk { offset, len, partition } = region.place else { continue };
            if partition.is_none()
                && !matches!(region.content, Content::Filesystem(_) | Content::PhysicalVolume { .. })
            {
                continue;
            }
            let name = place_name(0, &region.place);
            places.push((offset..offset.saturating_add(len), name, content(&region.content)));
        }
        places.sort_by_key(|(range, _, _)| range.start);
        Self { places }
    }

    /// Splits a range where its name changes.
    fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, String, String)> {
        let mut at = range.start;
        let mut parts = Vec::new();
        while at < range.end {
            let inside = self.places.iter().find(|(place, _, _)| place.contains(&at));
            let (end, name, content) = match inside {
                Some((place, name, content)) => (place.end, name.clone(), content.clone()),
                None => {
                    let next =
                        self.places.iter().map(|(place, _, _)| place.start).filter(|start| *start > at);
                    (next.min().unwrap_or(u64::MAX), BETWEEN.to_owned(), String::new())
                }
            };
            let end = end.min(range.end);
            parts.push((at..end, name, content));
            at = end;
        }
        parts
    }
}

fn content(content: &Content) -> String {
    match content {
        Content::Filesystem(facts) => facts.kind.name().to_owned(),
        Content::PhysicalVolume { vg: Some(vg), .. } => format!("a physical volume of {vg}"),
        Content::PhysicalVolume { .. } => "a physical volume".to_owned(),
        Content::MdMember { .. } => "a member of an md array".to_owned(),
        Content::Luks { .. } => "LUKS".to_owned(),
        Content::BootArea => "a boot loader".to_owned(),
        Content::Extended => "an extended partition".to_owned(),
        Content::Unknown => String::new(),
    }
}

/// Compares the bytes of `ranges` and tells which blocks differ.
pub(super) fn report(
    disks: (&dyn BlockSource, &dyn BlockSource),
    disk: usize,
    ranges: &[Range<u64>],
    names: &Names,
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    let mut now: Option<(String, String, Vec<Range<u64>>)> = None;
    let mut flush = |found: Option<(String, String, Vec<Range<u64>>)>| -> Result<()> {
        match found {
            Some((place, content, ranges)) if !ranges.is_empty() => {
                let on = if disk == 0 { String::new() } else { format!(" of disk {disk}") };
                let place = if place.contains("disk") { place } else { place + &on };
                each(Difference::Extents { place, content, disk, ranges })
            }
            _ => Ok(()),
        }
    };
    for range in ranges {
        for (part, name, content) in names.split(range.clone()) {
            if now.as_ref().is_none_or(|(have, _, _)| *have != name) {
                flush(now.take())?;
                now = Some((name, content, Vec::new()));
            }
            let Some((_, _, found)) = &mut now else { continue };
            compare(disks, part, found, monitor)?;
        }
    }
    flush(now)
}

/// Adds the blocks of `range` that differ.
fn compare(
    (one, two): (&dyn BlockSource, &dyn BlockSource),
    range: Range<u64>,
    found: &mut Vec<Range<u64>>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut add = |start: u64, end: u64| match found.last_mut() {
        Some(last) if last.end == start => last.end = end,
        _ => found.push(start..end),
    };
    let common = one.size().min(two.size());
    let (mut ours, mut theirs) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    let mut at = range.start;
    while at < range.end.min(common) {
        if monitor.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "comparing images").because("stopped on request"));
        }
        // Blocks begin at multiples of their size, whatever the range does.
        let end = ((at / PIECE + 1) * PIECE).min(range.end).min(common);
        let len = (end - at) as usize;
        if !both_zero(one, two, at, end - at)? {
            let (Some(ours), Some(theirs)) = (ours.get_mut(..len), theirs.get_mut(..len)) else { break };
            one.read_at(ours, at)?;
            two.read_at(theirs, at)?;
            let mut from = 0;
            while from < len {
                let to = (from + BLOCK - (at as usize + from) % BLOCK).min(len);
                if ours.get(from..to) != theirs.get(from..to) {
                    add(at + from as u64, at + to as u64);
                }
                from = to;
            }
        }
        at = end;
    }
    if range.end > common && at < range.end {
        add(at.max(common), range.end);
    }
    if found.len() > MOST {
        // Coarser, never less.
        let mut coarse = RangeSet::with_limit(MOST / 2);
        found.iter().for_each(|range| coarse.insert(range.clone()));
        *found = coarse.ranges().to_vec();
    }
    Ok(())
}
