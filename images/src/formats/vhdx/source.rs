// SPDX-License-Identifier: Apache-2.0
//! A VHDX image as a disk.

use super::header::Header;
use super::metadata::Metadata;
use super::region::Regions;
use super::replayed::Replayed;
use super::{MIB, chunk_ratio, state};
use crate::formats::blocks::{self, BlockMap, Place, Table};
use crate::formats::raw::RawSource;
use crate::{BlockSource, Error, Extent, Result};

/// A VHDX image opened for reading.
pub struct VhdxSource {
    file: Replayed,
    metadata: Metadata,
    ratio: u64,
    bat: Table,
}

impl VhdxSource {
    /// Takes the image in `file`; returns it with its warnings. A log that is not empty is replayed in memory.
    ///
    /// # Errors
    ///
    /// `Refused` for differencing images.
    pub fn new(file: RawSource) -> Result<(Self, Vec<String>)> {
        let header = Header::read(&file)?;
        let (file, warnings) = Replayed::new(file, &header)?;
        let regions = Regions::read(&file)?;
        let metadata = Metadata::read(&file, &regions.metadata)?;
        let ratio = chunk_ratio(metadata.sector.into(), metadata.block);
        let blocks = metadata.size.div_ceil(metadata.block);
        // No bitmap entry follows the last chunk's blocks.
        let entries = blocks + blocks.saturating_sub(1) / ratio;
        if entries * 8 > regions.bat.end - regions.bat.start {
            let reason = "it is too short for the disk";
            return Err(Error::malformed("reading the BAT", reason).at(regions.bat.start));
        }
        let bat = Table::new(&file, regions.bat.start, entries * 8, "the BAT")?;
        Ok((Self { file, metadata, ratio, bat }, warnings))
    }
}

impl BlockMap for VhdxSource {
    fn size(&self) -> u64 {
        self.metadata.size
    }

    fn file(&self) -> &dyn BlockSource {
        &self.file
    }

    fn place(&self, at: u64) -> Result<(Place, u64)> {
        let block = self.metadata.block;
        let (index, within) = (at / block, at % block);
        let len = (block - within).min(self.metadata.size.saturating_sub(at));
        let entry = self.bat.u64_le(&self.file, index + index / self.ratio)?;
        match entry & state::BITS {
            // What a guest has never written, or given up, may be anything: zeros is what Hyper-V and QEMU show.
            state::NOT_PRESENT | state::UNDEFINED | state::ZERO | state::UNMAPPED => Ok((Place::Zero, len)),
            state::FULLY_PRESENT => {
                let start = entry & state::OFFSET;
                let place = start.saturating_add(within);
                if start < MIB || place.saturating_add(len) > self.file.size() {
                    let reason = format!("block {index} cannot lie there: the file is damaged or cut short");
                    return Err(Error::malformed("reading the BAT", reason).at(start));
                }
                Ok((Place::Plain(place), len))
            }
            other => {
                let reason = format!(
                    "block {index} has the state {other}, which only an image with a parent may have"
                );
                Err(Error::malformed("reading the BAT", reason))
            }
        }
    }
}

impl BlockSource for VhdxSource {
    fn size(&self) -> u64 {
        self.metadata.size
    }

    fn sector_size(&self) -> u32 {
        self.metadata.sector
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        blocks::read(self, buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        blocks::extent(self, offset, len)
    }
}
