// SPDX-License-Identifier: Apache-2.0
//! Linux md arrays: the superblock of a member, and where the array's content lies on it.
//!
//! ```text
//!   0.90  |content .................................|    super (64 KiB aligned, 64-128 KiB before the end)
//!   1.0   |content .............................| bitmap, bad blocks | super (8-12 KiB before the end)
//!   1.1   super | bitmap, bad blocks |  content .....................|
//!   1.2   4 KiB | super | bitmap ... |  content .....................|
//! ```
//!
//! Structures: Linux `include/uapi/linux/raid/md_p.h`.

mod uuid;
mod v0;
mod v1;

use std::ops::Range;

pub use uuid::change;

use crate::{BlockSource, Result};

/// A member of an array, as its superblock states it. Addresses are bytes of the member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// "0.90", "1.0", "1.1" or "1.2".
    pub metadata: &'static str,
    /// As `mdadm --detail` prints it.
    pub array_uuid: String,
    /// As the array is named, with its host where that is recorded; 1.x only.
    pub name: Option<String>,
    /// RAID level; -1 is linear.
    pub level: i32,
    /// How many members the array has when none is missing.
    pub devices: u32,
    /// Which change of the array's state this member has seen.
    pub events: u64,
    /// The array's content, where the member holds all of it in order.
    pub content: Range<u64>,
    /// Superblock, bitmap, list of bad blocks.
    pub own: Vec<Range<u64>>,
    /// Why `content` cannot be read like a partition: another level, a reshape, a spare ...
    pub special: Option<String>,
}

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;
const RAID1: i32 = 1;

/// Looks for a superblock in all four places.
///
/// A magic with a wrong checksum is an error: the kernel would not assemble it, but what lies there was an
/// array once, and nothing tells how old it is.
pub fn probe(source: &dyn BlockSource) -> Result<Option<Member>> {
    let mut found = Vec::new();
    for place in v1::PLACES {
        found.extend(v1::read(source, place)?);
    }
    found.extend(v0::read(source)?);
    let several = found.len() > 1;
    let mut found = found.into_iter();
    let mut first = found.next();
    if let (Some(member), true) = (&mut first, several) {
        member.special =
            Some("it carries several md superblocks; `mdadm --zero-superblock` removes an old one".into());
        member.own.extend(found.flat_map(|other| other.own));
    }
    Ok(first)
}

/// The sum of little-endian 32-bit words, its carry folded in once.
fn folded(sum: u64) -> u32 {
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// What a level is called.
fn level_name(level: i32) -> String {
    match level {
        -1 => "linear".into(),
        -4 => "multipath".into(),
        -5 => "faulty".into(),
        -100 => "container".into(),
        level => format!("RAID{level}"),
    }
}
