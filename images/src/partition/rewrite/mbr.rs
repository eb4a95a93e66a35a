// SPDX-License-Identifier: Apache-2.0
//! An MBR with its EBRs for another disk.
//!
//! A logical partition's start counts from its EBR; the link to the next EBR counts from the container's start, where
//! the first EBR stands. So a logical partition moves with its EBR, and a container whose first one moves, moves too.

use std::collections::BTreeMap;
use std::ops::Range;

use super::gpt::replace;
use super::place::{Piece, Room, place};
use super::{Options, TableRewrite, human, refused, stale, to_sectors};
use crate::Result;
use crate::parse::Bytes;
use crate::partition::mbr::{self, ENTRIES, Ebr, Entry, Mbr};

/// Start and count are 32 bits wide.
const MOST_SECTORS: u64 = 1 << 32;

/// A source's table on its way to another disk. All addresses are bytes.
struct Move<'a> {
    table: &'a Mbr,
    /// Bytes per sector of the target.
    sector: u64,
    end: u64,
    old: Vec<Piece>,
    new: Vec<Piece>,
    /// Where each EBR of the chain goes.
    ebrs: Vec<u64>,
    /// Where each entry of the MBR goes, if it is in use.
    primaries: [Option<Range<u64>>; 4],
}

pub(super) fn plan(table: &Mbr, source_size: u64, options: &Options) -> Result<TableRewrite> {
    let sector = u64::from(options.sector_size);
    let total = options.size / sector;
    let end = total.min(MOST_SECTORS) * sector;
    let mut notes = Vec::new();
    let old = pieces(table, sector, source_size, &mut notes)?;
    let mut new = old.clone();
    let room = Room { end, tail: 0, obstacles: obstacles(table) };
    place(&mut new, &room, options, &mut notes)?;
    if total > MOST_SECTORS {
        notes.push(format!(
            "an MBR counts to 2^32 sectors: the last {} of the target stay unused",
            human(options.size - end)
        ));
    }

    let mut plan = Move { table, sector, end, old, new, ebrs: Vec::new(), primaries: [const { None }; 4] };
    plan.check_broken()?;
    plan.place_ebrs()?;
    plan.place_primaries()?;
    plan.check_ebrs()?;
    let writes = plan.writes()?;
    plan.describe(&mut notes);
    let keep = plan.old.iter().map(|piece| piece.start..piece.end());
    let clear = stale(table.places(), &writes, keep, options.size);
    Ok(TableRewrite { writes, clear, partitions: Vec::new(), notes })
}

fn pieces(table: &Mbr, sector: u64, source_size: u64, notes: &mut Vec<String>) -> Result<Vec<Piece>> {
    let primaries = (1u32..).zip(&table.entries).filter(|(_, entry)| entry.is_content());
    let primaries = primaries.map(|(number, entry)| (number, u64::from(entry.start), entry, 0));
    let logicals = table.chain.iter().flat_map(|ebr| ebr.logicals.iter().map(move |one| (ebr.lba, one)));
    let logicals = logicals.map(|(ebr, one)| (one.number, one.start, &one.entry, one.start - ebr));
    let mut pieces = Vec::new();
    for (number, start, entry, lead) in primaries.chain(logicals) {
        let (start, len) = (start * table.sector, u64::from(entry.count) * table.sector);
        to_sectors(start, sector, || format!("partition {number} starts"))?;
        to_sectors(start + len, sector, || format!("partition {number} ends"))?;
        if start >= source_size {
            notes.push(format!("partition {number} lies beyond the end of the source and stays so"));
            if table.sector != sector {
                return Err(refused(format!("partition {number} lies beyond the end of the source")));
            }
            continue;
        }
        let fixed = match entry.kind {
            0x82 => Some("it is swap"),
            0xef => Some("it is an EFI system partition"),
            0x12 | 0x27 => Some("it is a recovery partition"),
            _ => None,
        };
        // An EBR needs a sector of its own, which may be larger now.
        let lead = (lead * table.sector).next_multiple_of(sector);
        pieces.push(Piece { number, start, len, lead, fixed });
    }
    Ok(pieces)
}

/// Where containers begin that do not move with a logical partition.
fn obstacles(table: &Mbr) -> Vec<u64> {
    let containers = table.entries.iter().zip(0usize..).filter(|(entry, _)| entry.is_container());
    let fixed = containers.filter(|(_, index)| {
        let first = table.chain.iter().find(|ebr| ebr.container == *index);
        first.is_none_or(|ebr| ebr.logicals.len() != 1)
    });
    fixed.map(|(entry, _)| u64::from(entry.start) * table.sector).collect()
}

impl Move<'_> {
    fn translated(&self) -> bool {
        self.table.sector != self.sector
    }

    /// A partition's place before and after.
    fn piece(&self, number: u32) -> Option<(&Piece, &Piece)> {
        self.old.iter().zip(&self.new).find(|(old, _)| old.number == number)
    }

    fn changed(&self, number: u32) -> bool {
        self.piece(number).is_some_and(|(old, new)| (old.start, old.len) != (new.start, new.len))
    }

    fn ebr_changed(&self, ebr: &Ebr) -> bool {
        self.translated() || ebr.logicals.iter().any(|one| self.changed(one.number))
    }

    /// First byte after the last logical partition of an EBR.
    fn ebr_end(&self, ebr: &Ebr) -> Option<u64> {
        ebr.logicals.iter().filter_map(|one| Some(self.piece(one.number)?.1.end())).max()
    }

    fn old_range(&self, entry: &Entry) -> Range<u64> {
        let start = u64::from(entry.start) * self.table.sector;
        start..start + u64::from(entry.count) * self.table.sector
    }

    fn units(&self, bytes: u64, what: impl Fn() -> String) -> Result<u32> {
        u32::try_from(to_sectors(bytes, self.sector, &what)?)
            .map_err(|_| refused(format!("{} beyond 2^32 sectors, which an MBR cannot express", what())))
    }

    /// What cannot be found cannot be moved.
    fn check_broken(&self) -> Result<()> {
        for &index in &self.table.broken {
            let beyond =
                self.table.entries.get(index).is_some_and(|entry| self.old_range(entry).end > self.end);
            let mut chain = self.table.chain.iter().filter(|ebr| ebr.container == index);
            if beyond || self.translated() || chain.any(|ebr| self.ebr_changed(ebr)) {
                return Err(refused(format!(
                    "the chain of logical partitions in partition {} is broken: it can only be kept as it is",
                    index + 1
                )));
            }
        }
        Ok(())
    }

    fn place_ebrs(&mut self) -> Result<()> {
        for ebr in &self.table.chain {
            let here = ebr.lba * self.table.sector;
            let place = match ebr.logicals.as_slice() {
                [one] => match self.piece(one.number) {
                    Some((old, new)) if old.start != new.start || self.translated() => new.low(),
                    _ => here,
                },
                several => {
                    let moves = |number| self.piece(number).is_some_and(|(old, new)| old.start != new.start);
                    if several.iter().any(|one| moves(one.number)) {
                        return Err(refused(
                            "a logical partition that shares its boot record with another cannot move",
                        )
                        .at(here));
                    }
                    here
                }
            };
            to_sectors(place, self.sector, || "an extended boot record would start".to_owned())?;
            self.ebrs.push(place);
        }
        Ok(())
    }

    fn place_primaries(&mut self) -> Result<()> {
        for (index, entry) in self.table.entries.iter().enumerate().filter(|(_, entry)| entry.count != 0) {
            let old = self.old_range(entry);
            let place = match self.piece(index as u32 + 1) {
                Some((_, new)) => new.start..new.end(),
                None if entry.is_container() => self.container(index, old)?,
                None => old,
            };
            if let Some(slot) = self.primaries.get_mut(index) {
                *slot = Some(place);
            }
        }
        let places: Vec<_> = self.primaries.iter().zip(&self.table.entries).collect();
        for (index, (place, entry)) in places.iter().enumerate() {
            let Some(place) = place else { continue };
            if *place == self.old_range(entry) {
                continue;
            }
            let hit = places.iter().enumerate().find(|(other, (range, _))| {
                *other != index
                    && range.as_ref().is_some_and(|range| place.start < range.end && range.start < place.end)
            });
            if let Some((other, _)) = hit {
                return Err(refused(format!("partitions {} and {} would overlap", index + 1, other + 1)));
            }
        }
        Ok(())
    }

    /// A container begins with its first EBR and reaches at least to the end of its last logical partition.
    fn container(&self, index: usize, old: Range<u64>) -> Result<Range<u64>> {
        let mut chain =
            self.table.chain.iter().zip(&self.ebrs).filter(|(ebr, _)| ebr.container == index).peekable();
        let start = chain.peek().map_or(old.start, |(_, at)| **at);
        let (mut changed, mut end) = (false, start);
        for (ebr, at) in chain {
            if *at < start {
                return Err(refused(format!(
                    "the extended boot records of partition {} would stand before its start",
                    index + 1
                )));
            }
            changed |= self.ebr_changed(ebr);
            end = end.max(at + self.sector).max(self.ebr_end(ebr).unwrap_or(0));
        }
        if !changed && old.end <= self.end && !self.translated() {
            return Ok(old);
        }
        // Free space at the container's end stays where it can.
        let slack = old.end.min(self.end) / self.sector * self.sector;
        let end = if start == old.start || self.translated() { end.max(slack) } else { end };
        if end <= start || end > self.end {
            return Err(refused(format!(
                "the target is too small by {}: the extended partition {} would end at byte {end}",
                human(end.max(start).saturating_sub(self.end)),
                index + 1
            )));
        }
        Ok(start..end)
    }

    /// No EBR may stand on another, on the MBR or in a partition, unless it did so before.
    fn check_ebrs(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for (ebr, &at) in self.table.chain.iter().zip(&self.ebrs) {
            let moved = at != ebr.lba * self.table.sector || self.translated();
            let hit = moved
                && (at < self.sector
                    || self.new.iter().any(|piece| at < piece.end() && piece.start < at + self.sector));
            if hit || seen.insert(at, ()).is_some() {
                return Err(
                    refused("an extended boot record would overlap a partition or another one").at(at)
                );
            }
        }
        Ok(())
    }

    fn writes(&self) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut boot = self.whole_sector(&self.table.raw);
        for (index, (entry, place)) in self.table.entries.iter().zip(&self.primaries).enumerate() {
            let Some(place) = place else { continue };
            if !self.translated() && *place == self.old_range(entry) {
                continue;
            }
            let start = self.units(place.start, || format!("partition {} starts", index + 1))?;
            let count = self.units(place.end - place.start, || format!("partition {} reaches", index + 1))?;
            replace(&mut boot, ENTRIES + 16 * index, entry, (start, count))?;
        }
        let mut writes = vec![(0, boot)];
        for index in 0..self.table.chain.len() {
            writes.extend(self.ebr(index)?);
        }
        Ok(writes)
    }

    /// The first 512 bytes hold the record; what follows it in a larger sector stays if the sectors are the same.
    fn whole_sector(&self, raw: &[u8]) -> Vec<u8> {
        let mut raw = raw.to_vec();
        if self.translated() {
            raw.truncate(mbr::SECTOR);
        }
        raw.resize(self.sector as usize, 0);
        raw
    }

    fn ebr(&self, index: usize) -> Result<Option<(u64, Vec<u8>)>> {
        let (Some(ebr), Some(&at)) = (self.table.chain.get(index), self.ebrs.get(index)) else {
            return Ok(None);
        };
        let mut raw = self.whole_sector(&ebr.raw);
        let entries = mbr::entries(Bytes::new(&ebr.raw, "extended boot record"))?;
        for one in &ebr.logicals {
            let Some((_, new)) = self.piece(one.number).filter(|_| self.ebr_changed(ebr)) else { continue };
            let start = self.units(new.start - at, || format!("partition {} starts", one.number))?;
            let count = self.units(new.len, || format!("partition {} reaches", one.number))?;
            replace(&mut raw, ENTRIES + 16 * one.slot, &one.entry, (start, count))?;
        }
        let next = self.table.chain.get(index + 1).zip(self.ebrs.get(index + 1));
        let next = next.filter(|(next, _)| next.container == ebr.container);
        let base =
            self.primaries.get(ebr.container).and_then(|place| place.as_ref()).map(|place| place.start);
        if let (Some((next, &next_at)), Some(link), Some(base)) = (next, ebr.link, base)
            && let Some(entry) = entries.get(link)
        {
            let start = self.units(next_at.saturating_sub(base), || "a link leads".to_owned())?;
            let count = match self.ebr_end(next) {
                Some(end) if self.ebr_changed(next) => {
                    self.units(end - next_at, || "a link reaches".to_owned())?
                }
                _ if self.translated() => {
                    let bytes = u64::from(entry.count) * self.table.sector;
                    u32::try_from(bytes.div_ceil(self.sector)).unwrap_or(u32::MAX)
                }
                _ => entry.count,
            };
            replace(&mut raw, ENTRIES + 16 * link, entry, (start, count))?;
        }
        Ok(Some((at, raw)))
    }

    fn describe(&self, notes: &mut Vec<String>) {
        for (index, (entry, place)) in self.table.entries.iter().zip(&self.primaries).enumerate() {
            if let Some(place) = place.as_ref().filter(|_| entry.is_container())
                && *place != self.old_range(entry)
            {
                notes.push(format!(
                    "the extended partition {} now reaches from byte {} to {}",
                    index + 1,
                    place.start,
                    place.end
                ));
            }
        }
        if self.translated() {
            notes.push(format!(
                "the table is rewritten from {}-byte to {}-byte sectors",
                self.table.sector, self.sector
            ));
            if self.sector == 4096 {
                notes.push(
                    "boot code for BIOS counts 512-byte sectors: the target cannot boot from this MBR"
                        .to_owned(),
                );
            }
        }
    }
}
