// SPDX-License-Identifier: Apache-2.0
//! Superblock 0.90: 4 KiB in the last whole 64 KiB but one of the member.

use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

use super::{MAGIC, Member, RAID1, folded, level_name};

const LEN: usize = 4096;
/// Set aside at the member's end; superblock and bitmap lie in it.
const RESERVED: u64 = 0x1_0000;
/// Written by a reshape in progress.
const MINOR_RESHAPE: u32 = 91;

/// Where the superblock of a member of `size` bytes lies.
pub(super) fn place(size: u64) -> Option<u64> {
    (size & !(RESERVED - 1)).checked_sub(RESERVED)
}

pub(super) fn read(source: &dyn BlockSource) -> Result<Option<Member>> {
    let Some(at) = place(source.size()) else {
        return Ok(None);
    };
    let raw = read_vec(source, at, LEN)?;
    let block = Bytes::new(&raw, "md superblock");
    let word = |index: usize| block.u32_le(index * 4);
    if word(0)?.swap_bytes() == MAGIC {
        return Err(Error::unsupported("reading an md 0.90 superblock", "it is big-endian").at(at));
    }
    if word(0)? != MAGIC || word(1)? != 0 || !matches!(word(2)?, 90 | MINOR_RESHAPE) {
        return Ok(None);
    }
    // One word after the other with the checksum's own (38) as zero.
    let mut sum = 0u64;
    for index in (0..LEN / 4).filter(|index| *index != 38) {
        sum += u64::from(word(index)?);
    }
    if folded(sum) != word(38)? {
        return Err(Error::malformed("reading an md 0.90 superblock", "checksum mismatch").at(at));
    }
    let len = u64::from(word(8)?) * 1024;
    if len > at {
        // The superblock of a whole disk, seen from its last partition.
        return Ok(None);
    }
    let level = word(7)?.cast_signed();
    let role = word(992 + 3)?;
    let special = if level != RAID1 {
        Some(format!("it is a member of a {} array", level_name(level)))
    } else if word(2)? == MINOR_RESHAPE {
        Some("its array is being reshaped".into())
    } else if role >= word(10)? {
        Some("it is a spare of its array".into())
    } else if len == 0 {
        Some("its superblock gives it no size".into())
    } else {
        None
    };
    Ok(Some(Member {
        metadata: "0.90",
        array_uuid: format!("{:08x}:{:08x}:{:08x}:{:08x}", word(5)?, word(13)?, word(14)?, word(15)?),
        name: None,
        level,
        devices: word(10)?,
        events: u64::from(word(39)?) | u64::from(word(40)?) << 32,
        content: 0..len,
        own: std::iter::once(at..source.size()).collect(),
        special,
    }))
}
