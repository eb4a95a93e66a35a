// SPDX-License-Identifier: Apache-2.0
//! The metadata items: sizes, and whether there is a parent.

use std::ops::Range;

use super::{MOST_SIZE, guid, id};
use crate::parse::{Bytes, read_vec, uuid_text};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading the VHDX metadata";
/// Bytes of the table; items lie behind it.
pub(super) const TABLE: usize = 64 << 10;
/// Entries at most (section 2.6.1.1).
const MOST: usize = 2047;
/// Bytes of an item that is read here.
const ITEM: usize = 16;
/// Flag of an item that a reader must know.
const REQUIRED: u32 = 1 << 2;
/// Flag of the file parameters.
const HAS_PARENT: u32 = 1 << 1;

/// What the items say, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Of the disk, in bytes.
    pub(super) size: u64,
    /// Bytes of a payload block.
    pub(super) block: u64,
    /// Bytes of a logical sector: 512 or 4096.
    pub(super) sector: u32,
}

impl Metadata {
    pub(super) fn read(file: &dyn BlockSource, region: &Range<u64>) -> Result<Self> {
        let raw = read_vec(file, region.start, TABLE)?;
        let table = Bytes::new(&raw, "the VHDX metadata table");
        if table.slice(0, 8)? != b"metadata" {
            return Err(malformed("no signature").at(region.start));
        }
        let count = usize::from(table.u16_le(10)?);
        if count > MOST {
            return Err(malformed("too many entries").at(region.start));
        }
        let mut found = Self { size: 0, block: 0, sector: 0 };
        let (mut has_size, mut parent) = (false, false);
        for index in 0..count {
            let entry = table.sub(32 + index * 32, 32)?;
            let kind = guid(entry.slice(0, 16)?);
            let item = || item(file, region, entry.u32_le(16)?, entry.u32_le(20)?);
            match kind {
                id::FILE_PARAMETERS => {
                    let item = item()?;
                    let bytes = Bytes::new(&item, "the VHDX file parameters");
                    found.block = bytes.u32_le(0)?.into();
                    parent |= bytes.u32_le(4)? & HAS_PARENT != 0;
                }
                id::DISK_SIZE => {
                    found.size = Bytes::new(&item()?, "the VHDX disk size").u64_le(0)?;
                    has_size = true;
                }
                id::LOGICAL_SECTOR => {
                    found.sector = Bytes::new(&item()?, "the VHDX sector size").u32_le(0)?;
                }
                id::PARENT_LOCATOR => parent = true,
                id::PHYSICAL_SECTOR | id::PAGE83 => {}
                other if entry.u32_le(24)? & REQUIRED != 0 => {
                    let name = uuid_text(&other.to_be_bytes());
                    return Err(Error::unsupported(DOING, format!("a required item {name}")));
                }
                _ => {}
            }
        }
        if parent {
            return Err(Error::refused(
                "opening the VHDX image",
                "it holds only what differs from a parent image; merge the two first (Merge-VHD on Windows)",
            ));
        }
        if !has_size {
            return Err(malformed("the disk's size is missing"));
        }
        found.check().map(|()| found)
    }

    fn check(&self) -> Result<()> {
        if !self.block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&self.block) {
            return Err(malformed("the block size is not a power of two of 1 to 256 MiB"));
        }
        if self.sector != 512 && self.sector != 4096 {
            return Err(malformed("the logical sectors have neither 512 nor 4096 bytes"));
        }
        if self.size > MOST_SIZE || !self.size.is_multiple_of(self.sector.into()) {
            return Err(malformed("the disk's size is not a number of sectors of at most 64 TiB"));
        }
        Ok(())
    }
}

/// The first bytes of an item.
fn item(file: &dyn BlockSource, region: &Range<u64>, offset: u32, len: u32) -> Result<Vec<u8>> {
    let start = region.start.saturating_add(offset.into());
    if (offset as usize) < TABLE || start.saturating_add(len.into()) > region.end {
        return Err(malformed("an item outside of its region").at(start));
    }
    read_vec(file, start, (len as usize).min(ITEM))
}

fn malformed(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}
