// SPDX-License-Identifier: Apache-2.0
//! Writing a dynamic VHDX image from several threads.
//!
//! ```text
//!   header section (last) | log, empty | metadata | BAT | blocks in the order of their first write
//!   0                       1 MiB        2 MiB      3 MiB
//! ```

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{MIB, MOST_SIZE, checksum, chunk_ratio, guid_raw, header, id, metadata, region, state};
use crate::formats::CreateOptions;
use crate::formats::file::{Writer, random};
use crate::sink::Finished;
use crate::source::check_range;
use crate::{BlockSink, Error, ErrorKind, Result, ResultExt};

/// Bytes of the granule: a page, so that no two threads write to the same one.
const GRANULE: u64 = 4096;
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const BAT: u64 = 3 * MIB;
/// Blocks of a disk at most, each of which costs eight bytes of memory.
const MOST_BLOCKS: u64 = 1 << 22;
/// Blocks of a disk whose block size was left to us at most.
const USUAL_BLOCKS: u64 = 1 << 20;
/// Bytes by which the file is made longer ahead of writing: direct writes within a file's length need not
/// wait for each other.
const GROWTH: u64 = 256 << 20;

/// Sizes, in bytes.
#[derive(Debug, Clone, Copy)]
struct Layout {
    size: u64,
    block: u64,
    sector: u64,
    /// BAT entries, bitmaps' included.
    entries: u64,
}

impl Layout {
    fn new(options: &CreateOptions) -> Result<Self> {
        let usage = |because: String| Error::new(ErrorKind::Usage, "creating a VHDX image").because(because);
        let sector = u64::from(options.sector_size);
        if sector != 512 && sector != 4096 {
            return Err(usage(format!("sectors of {sector} bytes: it has 512 or 4096")));
        }
        let size = options.size.checked_next_multiple_of(sector).filter(|size| *size <= MOST_SIZE);
        let size =
            size.ok_or_else(|| usage(format!("a disk of {} bytes: it has 64 TiB at most", options.size)))?;
        // 1 MiB is what Microsoft advises for Linux guests: ext4 spreads its metadata, and each touched block is stored whole
        // by what copies the file without its holes.
        let usual = size.div_ceil(USUAL_BLOCKS).next_power_of_two().max(MIB);
        let block = options.cluster_size.map_or(usual, u64::from);
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            return Err(usage("the block size is not a power of two of 1 to 256 MiB".into()));
        }
        let blocks = size.div_ceil(block);
        if blocks > MOST_BLOCKS {
            return Err(usage(format!("blocks of {block} bytes are too small for it; take larger ones")));
        }
        let entries = blocks + blocks.saturating_sub(1) / chunk_ratio(sector, block);
        Ok(Self { size, block, sector, entries })
    }

    fn bat_len(&self) -> u64 {
        (self.entries * 8).next_multiple_of(MIB).max(MIB)
    }
}

/// What is where so far.
struct Blocks {
    /// The BAT entry of each payload block.
    entries: Vec<u64>,
    /// Where the next block goes.
    end: u64,
    /// The file's length.
    len: u64,
}

/// A VHDX image under construction. Its header section is written last: an unfinished file is no VHDX.
///
/// A block is given its place when data first comes to it; what is not written of it is a hole of the file. A block with
/// zeros and holes only has the state "zero", one with holes only "not present".
pub struct VhdxSink {
    writer: Writer,
    layout: Layout,
    blocks: Mutex<Blocks>,
}

impl VhdxSink {
    /// Creates `path`, which must not exist. `options.cluster_size` is the block size: 1 to 256 MiB.
    pub fn create(path: &Path, options: &CreateOptions) -> Result<Self> {
        let layout = Layout::new(options)?;
        let writer = Writer::create(path)?;
        let count = layout.size.div_ceil(layout.block) as usize;
        let end = BAT + layout.bat_len();
        let blocks = Blocks { entries: vec![state::NOT_PRESENT; count], end, len: end };
        writer.set_len(end)?;
        Ok(Self { writer, layout, blocks: Mutex::new(blocks) })
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where block `index` lies, which it does from now on.
    fn place(&self, index: u64) -> Result<u64> {
        let mut blocks = self.blocks();
        let (end, len) = (blocks.end, blocks.len);
        let bad = || Error::new(ErrorKind::Usage, "writing the image").because("behind the disk's end");
        let entry = blocks.entries.get_mut(index as usize).ok_or_else(bad)?;
        if *entry & state::BITS == state::FULLY_PRESENT {
            return Ok(*entry & state::OFFSET);
        }
        *entry = end | state::FULLY_PRESENT;
        blocks.end = end + self.layout.block;
        if blocks.end > len {
            blocks.len = blocks.end.max(len + GROWTH);
            self.writer.set_len(blocks.len)?;
        }
        Ok(end)
    }

    /// The BAT as it stands in the file.
    fn bat(&self, blocks: &Blocks) -> Vec<u8> {
        let ratio = chunk_ratio(self.layout.sector, self.layout.block) as usize;
        let mut raw = Vec::with_capacity(self.layout.bat_len() as usize);
        for chunk in blocks.entries.chunks(ratio) {
            chunk.iter().for_each(|entry| raw.extend_from_slice(&entry.to_le_bytes()));
            // No child uses the bitmap.
            raw.extend_from_slice(&[0; 8]);
        }
        raw.resize(self.layout.bat_len() as usize, 0);
        raw
    }

    fn metadata(&self) -> Result<Vec<u8>> {
        let mut items = Vec::new();
        let mut table = Vec::with_capacity(metadata::TABLE);
        table.extend_from_slice(b"metadata\0\0");
        table.extend_from_slice(&5u16.to_le_bytes());
        table.resize(32, 0);
        // Flags: 2 of the virtual disk, 4 required.
        let mut put = |id: u128, flags: u32, item: &[u8]| {
            table.extend_from_slice(&guid_raw(id));
            table.extend_from_slice(&((metadata::TABLE + items.len()) as u32).to_le_bytes());
            table.extend_from_slice(&(item.len() as u32).to_le_bytes());
            table.extend_from_slice(&flags.to_le_bytes());
            table.extend_from_slice(&[0; 4]);
            items.extend_from_slice(item);
        };
        // Neither fixed nor with a parent.
        put(id::FILE_PARAMETERS, 4, &self.layout.block.to_le_bytes());
        put(id::DISK_SIZE, 6, &self.layout.size.to_le_bytes());
        put(id::PAGE83, 6, &random::<16>()?);
        put(id::LOGICAL_SECTOR, 6, &(self.layout.sector as u32).to_le_bytes());
        put(id::PHYSICAL_SECTOR, 6, &4096u32.to_le_bytes());
        table.resize(metadata::TABLE, 0);
        table.extend_from_slice(&items);
        Ok(table)
    }

    fn regions(&self) -> Vec<u8> {
        let mut raw = b"regi\0\0\0\0".to_vec();
        raw.extend_from_slice(&2u64.to_le_bytes());
        for (id, start, len) in [(id::BAT, BAT, self.layout.bat_len()), (id::METADATA, METADATA, MIB)] {
            raw.extend_from_slice(&guid_raw(id));
            raw.extend_from_slice(&start.to_le_bytes());
            raw.extend_from_slice(&(len as u32).to_le_bytes());
            raw.extend_from_slice(&1u32.to_le_bytes());
        }
        raw.resize(region::LEN, 0);
        seal(&mut raw);
        raw
    }
}

/// A header of version 1 with an empty log.
fn header(sequence: u64, file_write: [u8; 16], data_write: [u8; 16]) -> Vec<u8> {
    let mut raw = b"head\0\0\0\0".to_vec();
    raw.extend_from_slice(&sequence.to_le_bytes());
    raw.extend_from_slice(&file_write);
    raw.extend_from_slice(&data_write);
    raw.extend_from_slice(&[0; 16]);
    raw.extend_from_slice(&0u16.to_le_bytes());
    raw.extend_from_slice(&1u16.to_le_bytes());
    raw.extend_from_slice(&(MIB as u32).to_le_bytes());
    raw.extend_from_slice(&LOG.to_le_bytes());
    raw.resize(header::LEN, 0);
    seal(&mut raw);
    raw
}

/// Puts the checksum at byte 4, where there are zeros.
fn seal(raw: &mut [u8]) {
    let sum = checksum(raw, 4).to_le_bytes();
    if let Some(place) = raw.get_mut(4..8) {
        place.copy_from_slice(&sum);
    }
}

/// The first 64 KiB, with who made it.
fn file_type() -> Vec<u8> {
    let mut raw = header::SIGNATURE.to_vec();
    let creator = concat!("unmoor ", env!("CARGO_PKG_VERSION"));
    raw.extend(creator.encode_utf16().flat_map(u16::to_le_bytes));
    raw.resize(64 << 10, 0);
    raw
}

impl BlockSink for VhdxSink {
    fn granule(&self) -> u64 {
        GRANULE
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.layout.size, offset, data.len()).doing(|| "writing the image")?;
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (index, within) = (at / self.layout.block, at % self.layout.block);
            let start = self.place(index)? + within;
            let mut len = (self.layout.block - within).min(rest.len() as u64);
            // Blocks that follow each other in the file are one write.
            while len < rest.len() as u64 && self.place((at + len) / self.layout.block)? == start + len {
                len = (len + self.layout.block).min(rest.len() as u64);
            }
            let (now, later) = rest.split_at(len as usize);
            self.writer.write(now, start)?;
            at += len;
            rest = later;
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.layout.size);
        let range = (offset / self.layout.block) as usize..end.div_ceil(self.layout.block) as usize;
        let mut blocks = self.blocks();
        for entry in blocks.entries.get_mut(range).unwrap_or_default() {
            if *entry == state::NOT_PRESENT {
                *entry = state::ZERO;
            }
        }
        Ok(())
    }

    fn written_bytes(&self) -> u64 {
        self.writer.written()
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let blocks = self.blocks();
        self.writer.write(&self.metadata()?, METADATA)?;
        self.writer.write(&self.bat(&blocks), BAT)?;
        self.writer.set_len(blocks.end)?;
        let regions = self.regions();
        for at in region::PLACES {
            self.writer.write(&regions, at)?;
        }
        let (file_write, data_write) = (random()?, random()?);
        for (sequence, at) in (1..).zip(header::PLACES) {
            self.writer.write(&header(sequence, file_write, data_write), at)?;
        }
        // Whatever the first bytes promise is on stable storage before they are.
        self.writer.sync()?;
        self.writer.write(&file_type(), 0)?;
        self.writer.sync()?;
        Ok(Finished { stored_bytes: blocks.end })
    }
}
