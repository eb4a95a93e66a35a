// SPDX-License-Identifier: Apache-2.0
//! Dynamic disks: header, block allocation table, and the bitmap in front of each block.

use std::sync::Arc;

use super::footer::{Footer, has_checksum};
use crate::formats::blocks::{BlockMap, Pages, Place, Table};
use crate::formats::raw::RawSource;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading the VHD's dynamic header";
/// Bytes of the header.
const LEN: usize = 1024;
/// A block that is not in the file.
const NO_BLOCK: u32 = u32::MAX;
/// Bitmaps that are kept.
const BITMAPS: usize = 64;

/// A dynamic disk.
pub(super) struct Dynamic {
    file: RawSource,
    size: u64,
    block: u64,
    /// Bytes of a block's bitmap: whole sectors.
    bitmap: u64,
    table: Table,
    /// By block; empty if every sector is in the file.
    bitmaps: Pages,
}

impl Dynamic {
    pub(super) fn new(file: RawSource, footer: &Footer) -> Result<Self> {
        let raw = read_vec(&file, footer.header, LEN)?;
        let bytes = Bytes::new(&raw, "the VHD's dynamic header");
        let malformed = |because: &'static str| Error::malformed(DOING, because).at(footer.header);
        if bytes.slice(0, 8)? != b"cxsparse" {
            return Err(malformed("no signature"));
        }
        if !has_checksum(&raw, 36) {
            return Err(malformed("checksum mismatch"));
        }
        let (entries, block) = (u64::from(bytes.u32_be(28)?), u64::from(bytes.u32_be(32)?));
        if !block.is_power_of_two() || !(16 << 10..=256 << 20).contains(&block) {
            return Err(malformed("the block size is not a power of two of 16 KiB to 256 MiB"));
        }
        let used = footer.size.div_ceil(block);
        if used > entries {
            return Err(malformed("the disk is larger than its block allocation table"));
        }
        let table = Table::new(&file, bytes.u64_be(16)?, used * 4, "the block allocation table")?;
        let bitmap = (block / 512).div_ceil(8).next_multiple_of(512);
        Ok(Self { file, size: footer.size, block, bitmap, table, bitmaps: Pages::new(BITMAPS) })
    }

    /// The bitmap of the block that begins at `place` of the file, one bit a sector.
    fn bitmap(&self, place: u64) -> Result<Arc<[u8]>> {
        self.bitmaps.get(place, || {
            // What the padding to whole sectors says does not matter.
            let mut raw = read_vec(&self.file, place, self.bitmap as usize)?;
            raw.truncate((self.block / 512 / 8) as usize);
            // All sectors are there nearly always.
            if raw.iter().all(|byte| *byte == 0xff) {
                raw.clear();
            }
            Ok(raw)
        })
    }
}

impl BlockMap for Dynamic {
    fn size(&self) -> u64 {
        self.size
    }

    fn file(&self) -> &dyn BlockSource {
        &self.file
    }

    /// A sector whose bit is not set was never written and reads as zeros (specification, "Block Allocation Table and Data
    /// Blocks"); VirtualBox and Xen read it so, QEMU ignores the bits and sets all of them.
    fn place(&self, at: u64) -> Result<(Place, u64)> {
        let (index, within) = (at / self.block, at % self.block);
        let len = (self.block - within).min(self.size.saturating_sub(at));
        let entry = self.table.u32_be(&self.file, index)?;
        if entry == NO_BLOCK {
            return Ok((Place::Zero, len));
        }
        let start = u64::from(entry) * 512;
        let place = start + self.bitmap + within;
        if start < super::footer::LEN || place + len > self.file.size() {
            let reason = format!("block {index} cannot lie there: the file is damaged or cut short");
            return Err(Error::malformed("reading the block allocation table", reason).at(start));
        }
        let bits = self.bitmap(start)?;
        if bits.is_empty() {
            return Ok((Place::Plain(place), len));
        }
        let (set, sectors) = run(&bits, within / 512);
        let len = len.min(sectors * 512 - within % 512);
        Ok((if set { Place::Plain(place) } else { Place::Zero }, len))
    }
}

/// The bit of `sector` (most significant first) and how many sectors from it on have the same.
fn run(bits: &[u8], sector: u64) -> (bool, u64) {
    let bit =
        |sector: u64| bits.get((sector / 8) as usize).is_some_and(|byte| byte << (sector % 8) & 0x80 != 0);
    let set = bit(sector);
    let (same, end) = (if set { 0xff } else { 0 }, bits.len() as u64 * 8);
    let mut next = sector + 1;
    while next < end {
        if next.is_multiple_of(8) && bits.get((next / 8) as usize) == Some(&same) {
            next += 8;
        } else if bit(next) == set {
            next += 1;
        } else {
            break;
        }
    }
    (set, next - sector)
}
