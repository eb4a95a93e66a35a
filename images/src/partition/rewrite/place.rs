// SPDX-License-Identifier: Apache-2.0
//! Where each partition goes on the target, the same for every kind of table.

use super::{MIB, Options, human, refused, usage};
use crate::Result;

/// A partition to be placed. Bytes.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) len: u64,
    /// Bytes in front that move along: from a logical partition's EBR to its start.
    pub(super) lead: u64,
    /// Why it is not grown, if so.
    pub(super) fixed: Option<&'static str>,
}

impl Piece {
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Where what moves with it begins.
    pub(super) fn low(&self) -> u64 {
        self.start.saturating_sub(self.lead)
    }
}

/// The room for partitions.
pub(super) struct Room {
    /// First byte after it.
    pub(super) end: u64,
    /// Bytes that the table needs behind the last partition.
    pub(super) tail: u64,
    /// Addresses at which something else than a piece begins: an extended partition that has no logical one.
    pub(super) obstacles: Vec<u64>,
}

/// Applies the options. `pieces` are all partitions with content; those that change get their new place.
pub(super) fn place(
    pieces: &mut [Piece],
    room: &Room,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<()> {
    let before = pieces.to_vec();
    for wanted in &options.placements {
        let piece = find(pieces, wanted.number)?;
        let start = wanted.start.unwrap_or(piece.start);
        let len = wanted.len.unwrap_or(piece.len);
        let sector = u64::from(options.sector_size);
        if len == 0 || !start.is_multiple_of(sector) || !len.is_multiple_of(sector) {
            return Err(usage(format!(
                "partition {} cannot begin at byte {start} with {len} bytes: both must be multiples of {sector}",
                wanted.number
            )));
        }
        (piece.start, piece.len) = (start, len);
    }
    let mut limit = room.end;
    let mut moved = Vec::new();
    for &number in &options.move_to_end {
        let last = last_of(pieces, &moved).map(|piece| piece.number);
        let piece = find(pieces, number)?;
        if last != Some(number) {
            return Err(refused(format!(
                "partition {number} is not the last one and cannot move to the end"
            )));
        }
        let start = limit.saturating_sub(piece.len) / MIB * MIB;
        if start > piece.start || piece.end() > limit {
            piece.start = start;
        }
        moved.push(number);
        limit = piece.low();
    }
    if options.grow_last {
        grow(pieces, room, limit, &moved, notes);
    }
    check(pieces, &before, room)?;
    for (new, old) in pieces.iter().zip(&before) {
        if new.start != old.start {
            notes.push(format!("partition {} moves from byte {} to {}", new.number, old.start, new.start));
        }
        if new.len != old.len {
            let verb = if new.len > old.len { "grows" } else { "shrinks" };
            notes.push(format!(
                "partition {} {verb} from {} to {}",
                new.number,
                human(old.len),
                human(new.len)
            ));
        }
    }
    Ok(())
}

fn find(pieces: &mut [Piece], number: u32) -> Result<&mut Piece> {
    pieces
        .iter_mut()
        .find(|piece| piece.number == number)
        .ok_or_else(|| usage(format!("there is no partition {number} with content of its own")))
}

fn last_of<'p>(pieces: &'p mut [Piece], except: &[u32]) -> Option<&'p mut Piece> {
    pieces.iter_mut().filter(|piece| !except.contains(&piece.number)).max_by_key(|piece| piece.start)
}

fn grow(pieces: &mut [Piece], room: &Room, limit: u64, moved: &[u32], notes: &mut Vec<String>) {
    let Some(last) = last_of(pieces, moved) else { return };
    let limit = room.obstacles.iter().copied().filter(|&at| at > last.start).fold(limit, u64::min);
    let end = limit / MIB * MIB;
    if end <= last.end() {
        return;
    }
    match last.fixed {
        Some(reason) => notes.push(format!(
            "partition {} is not grown: {reason}; {} behind it stay free",
            last.number,
            human(end - last.end())
        )),
        None => last.len = end - last.start,
    }
}

/// Everything must fit, and what changed must not run into anything.
fn check(pieces: &[Piece], before: &[Piece], room: &Room) -> Result<()> {
    if let Some(piece) = pieces.iter().filter(|piece| piece.end() > room.end).max_by_key(|piece| piece.end())
    {
        return Err(refused(format!(
            "the target is too small by {}: partition {} ends at byte {}, so that a disk of at least {} is needed",
            human(piece.end() - room.end),
            piece.number,
            piece.end(),
            human(piece.end().saturating_add(room.tail))
        )));
    }
    for (new, old) in pieces.iter().zip(before) {
        if (new.start, new.len) == (old.start, old.len) {
            continue;
        }
        let hit = pieces
            .iter()
            .find(|other| other.number != new.number && new.low() < other.end() && other.low() < new.end());
        if let Some(other) = hit {
            return Err(refused(format!(
                "partition {} from byte {} to {} would overlap partition {}",
                new.number,
                new.start,
                new.end(),
                other.number
            )));
        }
    }
    Ok(())
}
