// SPDX-License-Identifier: Apache-2.0
//! The region table, of which there are two copies.

use std::ops::Range;

use super::{MIB, checksum, guid, id};
use crate::parse::{Bytes, read_vec, uuid_text};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading the VHDX region table";
/// Where the copies lie.
pub(super) const PLACES: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a copy.
pub(super) const LEN: usize = 64 << 10;
/// Entries at most (section 2.2.3.1).
const MOST: usize = 2047;

/// Where the two regions lie that are known, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Regions {
    pub(super) bat: Range<u64>,
    pub(super) metadata: Range<u64>,
}

impl Regions {
    /// The first copy that is whole.
    pub(super) fn read(file: &dyn BlockSource) -> Result<Self> {
        let [first, second] = PLACES.map(|at| read_vec(file, at, LEN).and_then(|raw| Self::parse(&raw, at)));
        match (first, second) {
            (Ok(regions), _) | (Err(_), Ok(regions)) => Ok(regions),
            (Err(error), Err(_)) => Err(error),
        }
    }

    fn parse(raw: &[u8], at: u64) -> Result<Self> {
        let bytes = Bytes::new(raw, "the VHDX region table");
        if bytes.slice(0, 4)? != b"regi" {
            return Err(malformed("no signature").at(at));
        }
        if bytes.u32_le(4)? != checksum(raw, 4) {
            return Err(malformed("checksum mismatch").at(at));
        }
        let count = bytes.u32_le(8)? as usize;
        if count > MOST {
            return Err(malformed("too many entries").at(at));
        }
        let (mut bat, mut metadata) = (None, None);
        let mut all: Vec<Range<u64>> = Vec::new();
        for index in 0..count {
            let entry = bytes.sub(16 + index * 32, 32)?;
            let (start, len) = (entry.u64_le(16)?, u64::from(entry.u32_le(24)?));
            let end = start.checked_add(len).ok_or_else(|| malformed("a region without an end").at(at))?;
            if !start.is_multiple_of(MIB) || !len.is_multiple_of(MIB) || start < MIB || len == 0 {
                return Err(malformed("a region that does not lie on whole MiB").at(start));
            }
            all.push(start..end);
            let known = match guid(entry.slice(0, 16)?) {
                id::BAT => &mut bat,
                id::METADATA => &mut metadata,
                other if entry.u32_le(28)? & 1 != 0 => {
                    let name = uuid_text(&other.to_be_bytes());
                    return Err(Error::unsupported(DOING, format!("a required region {name}")).at(start));
                }
                _ => continue,
            };
            if known.replace(start..end).is_some() {
                return Err(malformed("two regions of one kind").at(start));
            }
        }
        all.sort_unstable_by_key(|range| range.start);
        if all.windows(2).any(|pair| matches!(pair, [a, b] if a.end > b.start)) {
            return Err(malformed("regions lie over each other").at(at));
        }
        match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok(Self { bat, metadata }),
            _ => Err(malformed("the region of metadata or the BAT is missing").at(at)),
        }
    }
}

fn malformed(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}
