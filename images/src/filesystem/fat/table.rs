// SPDX-License-Identifier: Apache-2.0
//! The file allocation table itself, all copies side by side, read in pieces.

use std::ops::Range;

use super::boot::Boot;
use crate::filesystem::FilesystemKind;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// Bytes of each copy that are read at once: a multiple of the sizes of all entries (1.5, 2 and 4 bytes).
const PIECE: u64 = 768 * 1024;

/// Entry 1, which stands for no cluster but for the volume's state.
pub(super) struct Head {
    second: u32,
}

impl Head {
    /// Entry 0 repeats the boot sector's media byte, all other bits set: without that the sector is an old one
    /// that something else was written behind.
    pub(super) fn read(source: &dyn BlockSource, boot: &Boot) -> Result<Self> {
        let raw = read_vec(source, boot.fat, 8)?;
        let [first, second] =
            [entry(&raw, boot.kind, 0), entry(&raw, boot.kind, 1)].map(|entry| entry.unwrap_or(0));
        let expected = u32::from(boot.media) | (end_mark(boot.kind) & !0xFF);
        if first != expected {
            return Err(Error::malformed(
                "reading the FAT",
                "its first entry does not repeat the media byte",
            )
            .at(boot.fat));
        }
        Ok(Self { second })
    }

    /// Why the volume was not left in order, if it was not.
    pub(super) fn unclean(&self, boot: &Boot) -> Option<&'static str> {
        let (clean, sound) = match boot.kind {
            FilesystemKind::Fat32 => (1 << 27, 1 << 26),
            FilesystemKind::Fat16 => (1 << 15, 1 << 14),
            _ => (0, 0),
        };
        if self.second & clean != clean || boot.state & 1 != 0 {
            Some("the volume is marked as in use: it was not unmounted")
        } else if self.second & sound != sound || boot.state & 2 != 0 {
            Some("the volume is marked for a scan: read or write errors were seen")
        } else {
            None
        }
    }
}

/// What the scan met besides used clusters.
pub(super) struct Found {
    /// Clusters marked bad in every copy that does not call them free.
    pub(super) bad: u64,
    pub(super) copies_differ: bool,
}

/// Calls `used` with runs of cluster numbers that at least one copy calls used, ascending.
///
/// A link to a cluster that does not exist is an error: then this is no table, or one that nothing can be built on.
pub(super) fn scan(source: &dyn BlockSource, boot: &Boot, mut used: impl FnMut(Range<u64>)) -> Result<Found> {
    let mut found = Found { bad: 0, copies_differ: false };
    let entries = boot.clusters + 2;
    let end = entry_start(boot.kind, entries).div_ceil(2).min(boot.fat_size);
    let per_piece = PIECE * 2 / entry_start(boot.kind, 1);
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for (at, first) in (0..end).step_by(PIECE as usize).zip((0..).step_by(per_piece as usize)) {
        pieces.clear();
        for copy in 0..boot.fats {
            let piece =
                read_vec(source, boot.fat + copy * boot.fat_size + at, (end - at).min(PIECE) as usize)?;
            if !pieces.contains(&piece) {
                found.copies_differ |= !pieces.is_empty();
                pieces.push(piece);
            }
        }
        scan_piece(
            boot,
            &pieces,
            first.max(2)..(first + per_piece).min(entries),
            first,
            &mut found,
            &mut used,
        )?;
    }
    Ok(found)
}

fn scan_piece(
    boot: &Boot,
    pieces: &[Vec<u8>],
    clusters: Range<u64>,
    first: u64,
    found: &mut Found,
    used: &mut impl FnMut(Range<u64>),
) -> Result<()> {
    let (bad, last) = (end_mark(boot.kind) - 8, boot.clusters + 1);
    let mut run: Option<u64> = None;
    let mut cluster = clusters.start;
    while cluster < clusters.end {
        let free = free_ahead(boot.kind, pieces, cluster - first);
        if free > 0 {
            if let Some(start) = run.take() {
                used(start..cluster);
            }
            cluster += free;
            continue;
        }
        let (mut is_used, mut is_bad) = (false, false);
        for piece in pieces {
            let value = entry(piece, boot.kind, cluster - first)?;
            match value {
                0 => {}
                _ if value == bad => is_bad = true,
                // From 0xF0 below the end marks values are reserved; 1 was used by some systems while allocating.
                _ if u64::from(value) <= last || value >= bad - 7 => is_used = true,
                _ => {
                    return Err(Error::malformed(
                        "reading the FAT",
                        format!("the entry of cluster {cluster} names cluster {value}, which does not exist"),
                    )
                    .at(boot.fat));
                }
            }
        }
        found.bad += u64::from(is_bad && !is_used);
        match (is_used, run) {
            (true, None) => run = Some(cluster),
            (false, Some(start)) => {
                used(start..cluster);
                run = None;
            }
            _ => {}
        }
        cluster += 1;
    }
    if let Some(start) = run {
        used(start..clusters.end);
    }
    Ok(())
}

/// How many entries from `index` on are free in all pieces, found eight bytes at a time; 0 also where it is quicker
/// to look at the entry. Never more than the pieces hold.
fn free_ahead(kind: FilesystemKind, pieces: &[Vec<u8>], index: u64) -> u64 {
    let size = match kind {
        FilesystemKind::Fat32 => 4,
        FilesystemKind::Fat16 => 2,
        _ => return 0,
    };
    let start = index as usize * size;
    // Word by word through all pieces at once, so that no piece is searched twice.
    let is_zero =
        |at: usize| pieces.iter().all(|piece| piece.get(at..at + 8).is_some_and(|word| word == [0; 8]));
    let end = (start..).step_by(8).find(|at| !is_zero(*at)).unwrap_or(start);
    ((end - start) / size) as u64
}

/// Where an entry begins, in units of half a byte.
fn entry_start(kind: FilesystemKind, index: u64) -> u64 {
    index
        * match kind {
            FilesystemKind::Fat32 => 8,
            FilesystemKind::Fat16 => 4,
            _ => 3,
        }
}

/// The entry `index` of a piece of the table that begins with entry 0, or (FAT12) with an even one.
pub fn entry(piece: &[u8], kind: FilesystemKind, index: u64) -> Result<u32> {
    let raw = Bytes::new(piece, "file allocation table");
    let half_bytes = entry_start(kind, index);
    let at = (half_bytes / 2) as usize;
    Ok(match kind {
        // The upper four bits are reserved and not part of the value.
        FilesystemKind::Fat32 => raw.u32_le(at)? & 0x0FFF_FFFF,
        FilesystemKind::Fat16 => raw.u16_le(at)?.into(),
        _ if half_bytes.is_multiple_of(2) => u32::from(raw.u16_le(at)?) & 0xFFF,
        _ => u32::from(raw.u16_le(at)?) >> 4,
    })
}

/// The highest value of an entry: the end of a chain. Eight below it is the mark of a bad cluster.
pub fn end_mark(kind: FilesystemKind) -> u32 {
    match kind {
        FilesystemKind::Fat32 => 0x0FFF_FFFF,
        FilesystemKind::Fat16 => 0xFFFF,
        _ => 0xFFF,
    }
}
