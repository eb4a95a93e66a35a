// SPDX-License-Identifier: Apache-2.0
//! A VDI image as a disk.

use super::header::Header;
use crate::formats::blocks::{self, BlockMap, Place, Table};
use crate::formats::raw::RawSource;
use crate::{BlockSource, Error, Extent, Result};

/// Map entries from this one on have no block: 0xffffffff was never written, 0xfffffffe was discarded.
const NO_BLOCK: u32 = 0xffff_fffe;

/// A VDI image opened for reading.
pub struct VdiSource {
    file: RawSource,
    header: Header,
    map: Table,
}

impl VdiSource {
    /// Takes the image in `file`.
    ///
    /// # Errors
    ///
    /// `Refused` for differencing images.
    pub fn new(file: RawSource) -> Result<Self> {
        let header = Header::read(&file)?;
        let used = header.size.div_ceil(header.block);
        let map = Table::new(&file, header.map_offset, used * 4, "the block map")?;
        Ok(Self { file, header, map })
    }
}

impl BlockMap for VdiSource {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn file(&self) -> &dyn BlockSource {
        &self.file
    }

    fn place(&self, at: u64) -> Result<(Place, u64)> {
        let (index, within) = (at / self.header.block, at % self.header.block);
        let len = (self.header.block - within).min(self.header.size.saturating_sub(at));
        let entry = self.map.u32_le(&self.file, index)?;
        if entry >= NO_BLOCK {
            return Ok((Place::Zero, len));
        }
        let step = self.header.block + self.header.extra;
        let place = u64::from(entry) * step + self.header.data_offset + self.header.extra + within;
        if place.saturating_add(len) > self.file.size() {
            let reason = format!("block {index} lies behind the file's end: the file is cut short");
            return Err(Error::malformed("reading the block map", reason).at(place));
        }
        Ok((Place::Plain(place), len))
    }
}

impl BlockSource for VdiSource {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        blocks::read(self, buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        blocks::extent(self, offset, len)
    }
}
