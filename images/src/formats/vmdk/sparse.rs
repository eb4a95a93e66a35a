// SPDX-License-Identifier: Apache-2.0
//! A sparse extent as a disk: grain directory, grain tables, grains.

use std::sync::{Mutex, PoisonError};

use libdeflater::Decompressor;

use super::SECTOR;
use super::header::{Header, TABLE_ENTRIES};
use crate::formats::blocks::{self, BlockMap, Pages, Place, Table};
use crate::formats::raw::RawSource;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Extent, Result};

/// Grain tables that are kept: of 16 GiB in grains of 64 KiB.
const TABLES: usize = 512;
/// Bytes of decompressed grains kept for small reads.
const DECODED: u64 = 4 << 20;
/// Bytes of a grain's marker in front of its data.
pub(super) const MARKER: usize = 12;
/// Bytes of a compressed grain that are read before its length is known.
const FIRST: usize = 4096;

/// A sparse extent opened for reading.
pub(super) struct Sparse {
    file: RawSource,
    header: Header,
    directory: Table,
    tables: Pages,
    decoded: Pages,
    decoders: Mutex<Vec<Decompressor>>,
}

impl Sparse {
    pub(super) fn new(file: RawSource, header: Header) -> Result<Self> {
        let grain = header.grain * SECTOR;
        let entries = header.capacity.div_ceil(header.grain * TABLE_ENTRIES);
        let start = header.directory.saturating_mul(SECTOR);
        let directory = Table::new(&file, start, entries * 4, "the grain directory")?;
        Ok(Self {
            file,
            header,
            directory,
            tables: Pages::new(TABLES),
            decoded: Pages::new((DECODED / grain).clamp(1, 64) as usize),
            decoders: Mutex::default(),
        })
    }

    /// Bytes of a grain.
    fn grain(&self) -> u64 {
        self.header.grain * SECTOR
    }

    /// The sector that the tables have for grain `index`; 0 for none, and with it the number of grains that lack likewise.
    fn entry(&self, index: u64) -> Result<(u32, u64)> {
        let (table, within) = (index / TABLE_ENTRIES, index % TABLE_ENTRIES);
        let at = u64::from(self.directory.u32_le(&self.file, table)?) * SECTOR;
        if at == 0 {
            return Ok((0, TABLE_ENTRIES - within));
        }
        let raw = self.tables.get(at, || read_vec(&self.file, at, TABLE_ENTRIES as usize * 4))?;
        let entry = Bytes::new(&raw, "a grain table").u32_le(within as usize * 4)?;
        Ok((entry, 1))
    }

    /// Decompresses the grain whose marker is at `place`; it begins at sector `lba` of the extent. What the stream does not
    /// fill is zeros: the last grain may be short.
    fn decode(&self, place: u64, lba: u64, out: &mut [u8]) -> Result<()> {
        let doing = "reading a compressed grain";
        let present = self.file.size().saturating_sub(place).min(FIRST as u64) as usize;
        let mut raw = read_vec(&self.file, place, present)?;
        let (start, len) = if self.header.markers {
            let marker = Bytes::new(&raw, "a grain's marker");
            let (sector, len) = (marker.u64_le(0)?, marker.u32_le(8)? as usize);
            if sector != lba {
                let reason = format!("its marker says sector {sector}, the tables say {lba}");
                return Err(Error::malformed(doing, reason).at(place));
            }
            (MARKER, len)
        } else {
            (0, self.file.size().saturating_sub(place).min(2 * self.grain()) as usize)
        };
        let bad = |because: &'static str| Error::malformed(doing, because).at(place);
        if len == 0 || len as u64 > 2 * self.grain() {
            return Err(bad("a length that is not possible"));
        }
        if raw.len() < start + len {
            raw = read_vec(&self.file, place, start + len)?;
        }
        let data = raw.get(start..start + len).unwrap_or_default();
        let pool = || self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = pool().pop();
        let mut decoder = pooled.unwrap_or_default();
        let filled = decoder.zlib_decompress(data, out);
        pool().push(decoder);
        let filled = filled.map_err(|_| bad("its compressed bytes are damaged"))?;
        let last = lba + self.header.grain >= self.header.capacity;
        let needed = if last { (self.header.capacity - lba) * SECTOR } else { self.grain() };
        if (filled as u64) < needed {
            return Err(bad("it is too short"));
        }
        out.get_mut(filled..).unwrap_or_default().fill(0);
        Ok(())
    }
}

impl BlockMap for Sparse {
    fn size(&self) -> u64 {
        self.header.capacity * SECTOR
    }

    fn file(&self) -> &dyn BlockSource {
        &self.file
    }

    fn place(&self, at: u64) -> Result<(Place, u64)> {
        let grain = self.grain();
        let (index, within) = (at / grain, at % grain);
        let (entry, count) = self.entry(index)?;
        let len = (count * grain - within).min(BlockMap::size(self).saturating_sub(at));
        let place = u64::from(entry) * SECTOR;
        if entry == 0 || (entry == 1 && self.header.zero_grains) {
            return Ok((Place::Zero, len));
        }
        let end = if self.header.compressed { place + SECTOR } else { place + within + len };
        if end > self.file.size() {
            let reason =
                format!("grain {index} lies behind the file's end: the file is damaged or cut short");
            return Err(Error::malformed("reading a grain table", reason).at(place));
        }
        let place = if self.header.compressed { Place::Packed(place) } else { Place::Plain(place + within) };
        Ok((place, len))
    }

    fn unpack(&self, place: u64, at: u64, out: &mut [u8]) -> Result<()> {
        let grain = self.grain();
        let (lba, within) = (at / grain * self.header.grain, (at % grain) as usize);
        if within == 0 && out.len() as u64 == grain {
            return self.decode(place, lba, out);
        }
        // A hostile image may name the same place for several grains; its marker belongs to one of them.
        let decoded = self.decoded.get(at / grain, || {
            let mut decoded = vec![0; grain as usize];
            self.decode(place, lba, &mut decoded).map(|()| decoded)
        })?;
        let part = decoded.get(within..within.saturating_add(out.len())).unwrap_or_default();
        if part.len() == out.len() {
            out.copy_from_slice(part);
        }
        Ok(())
    }
}

impl BlockSource for Sparse {
    fn size(&self) -> u64 {
        BlockMap::size(self)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        blocks::read(self, buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        blocks::extent(self, offset, len)
    }
}
