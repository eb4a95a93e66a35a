// SPDX-License-Identifier: Apache-2.0
//! A source's table for another disk: larger, smaller, with other sectors, partitions moved or resized.
//!
//! ```text
//!   source's table --+--> place: where each partition goes --> gpt | mbr: patch the source's own bytes --> writes
//!   Options ---------+                                                             read() of the writes --> partitions
//! ```
//!
//! [`to_gpt`] adds partitions, and makes a GPT of an MBR for that.
//!
//! Nothing is written here. The bytes of the source are patched, not made anew: boot code, disk signature, GUIDs,
//! attributes, numbers, unused entries and reserved bytes stay, and a plan without change equals the source.

mod extend;
mod gpt;
mod mbr;
mod place;

use std::ops::Range;

pub use extend::{BIOS_BOOT, ESP, Extension, NewPartition, gpt_ends, to_gpt};

use super::{Partition, TableKind, detect};
use crate::source::check_range;
use crate::{BlockSource, Error, RangeSet, Result};

const MIB: u64 = 1 << 20;

/// A new place for one partition, in bytes; what is absent stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The partition.
    pub number: u32,
    /// New first byte.
    pub start: Option<u64>,
    /// New length in bytes.
    pub len: Option<u64>,
}

/// What the target is and what shall change.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Size of the target in bytes.
    pub size: u64,
    /// Logical sector size of the target in bytes: 512 or 4096.
    pub sector_size: u32,
    /// Grows the last partition (the one before `move_to_end`, if that is given) up to the last whole MiB. Nothing
    /// that loses by growing is grown (swap, recovery, ESP, BIOS boot); a note says so.
    pub grow_last: bool,
    /// The last partitions, the very last one first, go to the end of the target: swap, an ESP. A logical one takes its EBR
    /// along, and its extended partition follows.
    pub move_to_end: Vec<u32>,
    /// Explicit places, applied before the two above. They are not rounded.
    pub placements: Vec<Placement>,
}

/// What to write so that the target has the table, and what it will then say.
#[derive(Debug, Clone, Default)]
pub struct TableRewrite {
    /// Whole target sectors by byte address: the first sector first, GPT backup last. Disjoint.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// Ranges (first byte, length) of the target that hold the source's table and would, copied, be a stale one: zeros are
    /// due there. They touch neither `writes` nor a partition of the source, but may lie within a grown one: clear
    /// before growing its filesystem.
    pub clear: Vec<(u64, u64)>,
    /// The partitions as [`super::read`] will find them on the target.
    pub partitions: Vec<Partition>,
    /// What changes and what does not work on the target, for people.
    pub notes: Vec<String>,
}

/// The numbers of those at the end of `partitions` (in order of address, as [`super::read`] gives them) that are in the way of the one
/// before them and do not grow themselves, by their type: swap, an ESP. Candidates for [`Options::move_to_end`], the last one
/// first; whether swap is in them is for the caller to probe.
pub fn trailing(partitions: &[Partition]) -> Vec<u32> {
    let content = partitions.iter().rev().filter(|partition| partition.role != super::Role::Extended);
    let movable = |partition: &&Partition| {
        partition.role == super::Role::Esp
            || matches!(partition.type_id.as_str(), "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" | "0x82")
    };
    content.take_while(movable).map(|partition| partition.number).collect()
}

/// Plans the table of `source` for another disk. A source without a table gives an empty plan.
///
/// # Errors
///
/// `Refused` where the partitions do not fit (it says by how many bytes), are not aligned to the target's sectors
/// or would overlap; `Usage` for options that name no partition or no possible disk.
pub fn plan(source: &dyn BlockSource, options: &Options) -> Result<TableRewrite> {
    if !matches!(options.sector_size, 512 | 4096) {
        return Err(usage(format!("{}-byte sectors are neither 512 nor 4096 bytes", options.sector_size)));
    }
    let (mut rewrite, kind) = match detect::detect(source)? {
        detect::Found::Gpt(table) => (gpt::plan(&table, source.size(), options)?, TableKind::Gpt),
        detect::Found::Mbr(table) => (mbr::plan(&table, source.size(), options)?, TableKind::Mbr),
        detect::Found::Nothing(_) => return Ok(TableRewrite::default()),
    };
    let target = Planned { writes: &rewrite.writes, size: options.size, sector_size: options.sector_size };
    let table = super::read(&target)?;
    if table.kind != kind {
        return Err(Error::malformed(DOING, "the planned table does not read back as one"));
    }
    rewrite.partitions = table.partitions;
    Ok(rewrite)
}

const DOING: &str = "fitting the partition table";

fn refused(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::refused(DOING, because)
}

fn usage(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(crate::ErrorKind::Usage, DOING).because(because)
}

/// Bytes for people, exact where it matters.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit} ({bytes} bytes)") }
}

/// Overwrites a field of a table's sector.
pub(super) fn put(sector: &mut [u8], at: usize, field: &[u8]) -> Result<()> {
    let place = at.checked_add(field.len()).and_then(|end| sector.get_mut(at..end));
    place.ok_or_else(|| Error::malformed(DOING, "a field lies outside its sector"))?.copy_from_slice(field);
    Ok(())
}

/// A byte address in target sectors; refuses what is no whole sector. `what` is the subject: "partition 2 starts".
fn to_sectors(byte: u64, sector: u64, what: impl Fn() -> String) -> Result<u64> {
    if byte.is_multiple_of(sector) {
        return Ok(byte / sector);
    }
    Err(refused(format!("{} at byte {byte}, which is no multiple of the {sector}-byte sector", what())))
}

/// `old` minus `writes` and minus `keep`, within the target.
fn stale(
    old: impl IntoIterator<Item = (u64, u64)>,
    writes: &[(u64, Vec<u8>)],
    keep: impl IntoIterator<Item = Range<u64>>,
    size: u64,
) -> Vec<(u64, u64)> {
    let mut taken = RangeSet::new();
    for (at, data) in writes {
        taken.insert(*at..at.saturating_add(data.len() as u64));
    }
    for range in keep {
        taken.insert(range);
    }
    let mut stale = RangeSet::new();
    for (start, len) in old {
        let end = start.saturating_add(len).min(size);
        for gap in taken.gaps(end) {
            stale.insert(gap.start.max(start)..gap.end);
        }
    }
    stale.ranges().iter().map(|range| (range.start, range.end - range.start)).collect()
}

/// The target as the plan leaves it, zeros elsewhere.
struct Planned<'a> {
    writes: &'a [(u64, Vec<u8>)],
    size: u64,
    sector_size: u32,
}

impl BlockSource for Planned<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        buf.fill(0);
        let end = offset + buf.len() as u64;
        for (at, data) in self.writes {
            let (from, to) = ((*at).max(offset), (*at + data.len() as u64).min(end));
            if from >= to {
                continue;
            }
            let into = buf.get_mut((from - offset) as usize..(to - offset) as usize);
            let piece = data.get((from - at) as usize..(to - at) as usize);
            if let (Some(into), Some(piece)) = (into, piece) {
                into.copy_from_slice(piece);
            }
        }
        Ok(())
    }
}
