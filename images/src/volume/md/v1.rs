// SPDX-License-Identifier: Apache-2.0
//! Superblocks 1.0, 1.1 and 1.2: one structure in three places.

use std::ops::Range;

use crate::parse::{Bytes, c_text, read_vec};
use crate::{BlockSource, Error, Result};

use super::{MAGIC, Member, RAID1, SECTOR, folded, level_name};

/// The superblock with its table of roles.
const LEN: usize = 4096;
const ROLES: usize = 256;

// Bits of `feature_map`.
const BITMAP: u32 = 1;
const RECOVERING: u32 = 2;
const RESHAPING: u32 = 4;
const BAD_BLOCKS: u32 = 8;
const REPLACEMENT: u32 = 16;
const BITMAP_VERSIONED: u32 = 256;
/// These say nothing about where RAID1's content lies; any other bit makes the member special.
const HARMLESS: u32 = BITMAP | RECOVERING | RESHAPING | BAD_BLOCKS | REPLACEMENT;
/// With these alone nothing but superblock and bitmap bears the array's UUID.
pub(super) const RENAMED: u32 = BITMAP | RECOVERING | BAD_BLOCKS | REPLACEMENT;

/// Where a superblock may stand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    NearEnd,
    Start,
    Behind4K,
}

pub(super) const PLACES: [Place; 3] = [Place::Start, Place::Behind4K, Place::NearEnd];

impl Place {
    fn version(self) -> &'static str {
        match self {
            Self::NearEnd => "1.0",
            Self::Start => "1.1",
            Self::Behind4K => "1.2",
        }
    }

    /// First byte, for a member of `size` bytes: 1.0 stands at least 8 KiB before the end, 4 KiB aligned.
    fn at(self, size: u64) -> Option<u64> {
        match self {
            Self::NearEnd => (size / SECTOR).checked_sub(16).map(|sector| (sector & !7) * SECTOR),
            Self::Start => Some(0),
            Self::Behind4K => Some(4096),
        }
    }
}

fn bytes(sectors: u64) -> Result<u64> {
    sectors
        .checked_mul(SECTOR)
        .ok_or_else(|| Error::malformed("reading an md superblock", "a number of sectors is too large"))
}

pub(super) fn read(source: &dyn BlockSource, place: Place) -> Result<Option<Member>> {
    let size = source.size();
    let Some(at) = place.at(size).filter(|at| at + LEN as u64 <= size) else {
        return Ok(None);
    };
    let raw = read_vec(source, at, LEN)?;
    let block = Bytes::new(&raw, "md superblock");
    // A 1.0 superblock of a whole disk is also found where its last partition ends: it states its own
    // address, and the kernel checks it too.
    if block.u32_le(0)? != MAGIC || block.u32_le(4)? != 1 || block.u64_le(144)? != at / SECTOR {
        return Ok(None);
    }
    let broken = |because: &'static str| {
        Error::malformed(format!("reading an md {} superblock", place.version()), because).at(at)
    };
    let roles = block.u32_le(220)? as usize;
    if roles > (LEN - ROLES) / 2 {
        return Err(broken("it has too many devices"));
    }
    if checksum(&block, roles)? != block.u32_le(216)? {
        return Err(broken("checksum mismatch"));
    }

    let level = block.u32_le(72)?.cast_signed();
    let features = block.u32_le(8)?;
    let start = bytes(block.u64_le(128)?)?;
    // What the array uses of the member, and what the member offers.
    let used = bytes(block.u64_le(80)?)?;
    let offered = bytes(block.u64_le(136)?)?;
    let len = if used == 0 { offered } else { used };
    let end = start.checked_add(len).filter(|end| len <= offered && *end <= size);
    let content = start..end.ok_or_else(|| broken("its data lies beyond the member's end"))?;

    let mut own: Vec<Range<u64>> = std::iter::once(at..at + LEN as u64).collect();
    if features & BITMAP != 0 {
        own.push(bitmap(source, at, block.u32_le(96)?.cast_signed(), &content)?);
    }
    // The feature is set once there are bad blocks; the room for the list is set aside from the start.
    if block.u16_le(186)? != 0 {
        let first = beside(at, block.u32_le(188)?.cast_signed());
        let len = u64::from(block.u16_le(186)?) * SECTOR;
        own.push(first..first.saturating_add(len).min(size));
    }

    let number = block.u32_le(160)? as usize;
    let role = if number < roles { block.u16_le(ROLES + number * 2)? } else { u16::MAX };
    let special = if level != RAID1 {
        Some(format!("it is a member of a {} array", level_name(level)))
    } else if features & RESHAPING != 0 {
        Some("its array is being reshaped".into())
    } else if features & !HARMLESS != 0 {
        let other = if features & BITMAP_VERSIONED != 0 { "a cluster bitmap" } else { "features" };
        Some(format!("its array has {other} that unmoor does not know (feature map {features:#x})"))
    } else if u32::from(role) >= block.u32_le(92)? {
        Some("it is a spare or a failed member of its array".into())
    } else if features & RECOVERING != 0 && bytes(block.u64_le(152)?).unwrap_or(0) < len {
        Some("it was being rebuilt: only its first part holds the array's content".into())
    } else {
        None
    };

    let uuid = block.slice(16, 16)?;
    let hex: Vec<String> =
        uuid.chunks(4).map(|part| part.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    let name = c_text(block.slice(32, 32)?);
    Ok(Some(Member {
        metadata: place.version(),
        array_uuid: hex.join(":"),
        name: (!name.is_empty()).then_some(name),
        level,
        devices: block.u32_le(92)?,
        events: block.u64_le(200)?,
        content,
        own,
        special,
    }))
}

/// The address `sectors` before or behind `at`; out of bounds ends at the nearest bound.
fn beside(at: u64, sectors: i32) -> u64 {
    at.saturating_add_signed(i64::from(sectors) * SECTOR as i64)
}

pub(super) fn checksum(block: &Bytes<'_>, roles: usize) -> Result<u32> {
    let len = ROLES + roles * 2;
    let mut sum = 0u64;
    for offset in (0..len / 4 * 4).step_by(4).filter(|offset| *offset != 216) {
        sum += u64::from(block.u32_le(offset)?);
    }
    if len % 4 == 2 {
        sum += u64::from(block.u16_le(len - 2)?);
    }
    Ok(folded(sum))
}

/// Where the write-intent bitmap lies: as long as its own header says, else up to what follows.
fn bitmap(
    source: &dyn BlockSource,
    superblock: u64,
    sectors: i32,
    content: &Range<u64>,
) -> Result<Range<u64>> {
    const BITMAP_MAGIC: u32 = 0x6d74_6962;
    const HEADER: usize = 256;
    let size = source.size();
    let start = beside(superblock, sectors).min(size);
    let bound = if start < content.start {
        content.start
    } else if start < superblock {
        superblock
    } else {
        size
    };
    if bound.saturating_sub(start) < HEADER as u64 {
        return Ok(start..bound);
    }
    let raw = read_vec(source, start, HEADER)?;
    let header = Bytes::new(&raw, "md bitmap");
    let chunk = u64::from(header.u32_le(52)?);
    if header.u32_le(0)? != BITMAP_MAGIC || chunk < SECTOR {
        return Ok(start..bound);
    }
    let bits = header.u64_le(40)?.div_ceil(chunk / SECTOR);
    let len = (bits.div_ceil(8) + HEADER as u64).max(u64::from(header.u32_le(64)?) * SECTOR);
    // md reads and writes it in pages.
    let end = start.saturating_add(len).checked_next_multiple_of(4096).unwrap_or(bound);
    Ok(start..end.min(bound))
}
