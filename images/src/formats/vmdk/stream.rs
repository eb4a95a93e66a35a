// SPDX-License-Identifier: Apache-2.0
//! The bytes of a stream-optimized extent, one behind the other: they may go into a pipe.

use std::collections::BTreeMap;
use std::io::Write;

use super::header::{self, AT_END, NEWLINES, TABLE_ENTRIES};
use super::{MAGIC, SECTOR, marker};
use crate::formats::aligned::AlignedBuffer;
use crate::formats::file::Writer;
use crate::{Error, Result, ResultExt};

/// Sectors of a grain: 64 KiB, what VMware's own streams have.
pub(super) const GRAIN: u64 = 128;
/// Sectors in front of the first grain, as VMware leaves them.
const OVERHEAD: u64 = 128;
/// Bytes that are written to a file at once.
const SEGMENT: usize = 1 << 20;

/// Where the stream goes.
pub(super) enum Output {
    File { writer: Writer, segment: AlignedBuffer, used: usize, offset: u64 },
    Pipe(Box<dyn Write + Send>),
}

impl Output {
    pub(super) fn file(writer: Writer) -> Self {
        Self::File { writer, segment: AlignedBuffer::new(SEGMENT), used: 0, offset: 0 }
    }

    fn append(&mut self, data: &[u8]) -> Result<()> {
        let Self::File { writer, segment, used, offset } = self else {
            let Self::Pipe(pipe) = self else { return Ok(()) };
            return pipe.write_all(data).map_err(|error| Error::io("writing the VMDK stream", error));
        };
        let mut rest = data;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(SEGMENT - *used));
            if let Some(room) = segment.get_mut(*used..*used + now.len()) {
                room.copy_from_slice(now);
            }
            *used += now.len();
            rest = later;
            if *used == SEGMENT {
                writer.write(segment, *offset)?;
                *offset += SEGMENT as u64;
                *used = 0;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        match self {
            Self::File { writer, segment, used, offset } => {
                writer.write(segment.get(..*used).unwrap_or_default(), *offset)?;
                writer.sync()
            }
            Self::Pipe(pipe) => pipe.flush().doing(|| "flushing the VMDK stream"),
        }
    }
}

type GrainTable = [u32; TABLE_ENTRIES as usize];

/// Grains that were compressed together, with their markers and padding.
#[derive(Default)]
pub(super) struct Grains {
    pub(super) bytes: Vec<u8>,
    /// Number of each grain on the disk, and where it begins in `bytes`.
    pub(super) starts: Vec<(u64, usize)>,
}

/// A stream under way.
pub(super) struct Stream {
    output: Output,
    /// Sectors written.
    position: u64,
    capacity: u64,
    /// Tables that are not written yet, by number.
    tables: BTreeMap<u64, Box<GrainTable>>,
    /// First sector of each table; 0 for none.
    directory: Vec<u32>,
}

impl Stream {
    /// Begins a stream for a disk of `capacity` sectors: header and descriptor.
    pub(super) fn begin(output: Output, capacity: u64, descriptor: &str) -> Result<Self> {
        let tables = capacity.div_ceil(GRAIN * TABLE_ENTRIES);
        let directory = vec![0; tables as usize];
        let mut stream = Self { output, position: 0, capacity, tables: BTreeMap::new(), directory };
        stream.append(&stream.header(AT_END))?;
        let mut text = descriptor.as_bytes().to_vec();
        text.resize(((OVERHEAD - 1) * SECTOR) as usize, 0);
        stream.append(&text).map(|()| stream)
    }

    /// Bytes written.
    pub(super) fn len(&self) -> u64 {
        self.position * SECTOR
    }

    /// Whole sectors.
    fn append(&mut self, data: &[u8]) -> Result<()> {
        self.output.append(data)?;
        self.position += data.len() as u64 / SECTOR;
        Ok(())
    }

    /// Takes grains; in front of them go the tables whose address space lies below `done` bytes of the disk.
    pub(super) fn grains(&mut self, grains: &Grains, done: u64) -> Result<()> {
        self.tables_below(done / (GRAIN * SECTOR * TABLE_ENTRIES))?;
        for &(index, start) in &grains.starts {
            let sector = self.sector(start as u64 / SECTOR)?;
            let table = self.tables.entry(index / TABLE_ENTRIES);
            let table = table.or_insert_with(|| Box::new([0; TABLE_ENTRIES as usize]));
            if let Some(entry) = table.get_mut((index % TABLE_ENTRIES) as usize) {
                *entry = sector;
            }
        }
        self.append(&grains.bytes)
    }

    /// The sector `ahead` of the position, if entries can hold it.
    fn sector(&self, ahead: u64) -> Result<u32> {
        u32::try_from(self.position + ahead).map_err(|_| {
            let reason = "it would have more than 2 TiB, which the format cannot address; take qcow2";
            Error::unsupported("writing the VMDK stream", reason)
        })
    }

    fn tables_below(&mut self, number: u64) -> Result<()> {
        while let Some(first) = self.tables.first_entry().filter(|first| *first.key() < number) {
            let (number, table) = first.remove_entry();
            let raw: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            let sector = self.metadata(marker::TABLE, &raw)?;
            if let Some(place) = self.directory.get_mut(number as usize) {
                *place = sector;
            }
        }
        Ok(())
    }

    /// A marker and what it announces, padded to sectors; answers the sector of the latter.
    fn metadata(&mut self, kind: u32, raw: &[u8]) -> Result<u32> {
        let mut padded = marker_sector(kind, raw.len() as u64);
        let sector = self.sector(1)?;
        padded.extend_from_slice(raw);
        padded.resize(padded.len().next_multiple_of(SECTOR as usize), 0);
        self.append(&padded).map(|()| sector)
    }

    /// Writes tables, directory and footer, and flushes; answers the stream's length in bytes.
    pub(super) fn finish(&mut self) -> Result<u64> {
        self.tables_below(u64::MAX)?;
        let raw: Vec<u8> = self.directory.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let directory = self.metadata(marker::DIRECTORY, &raw)?;
        let footer = self.header(directory.into());
        self.metadata(marker::FOOTER, &footer)?;
        self.append(&marker_sector(marker::END, 0))?;
        self.output.finish()?;
        Ok(self.len())
    }

    /// The header, or with the directory's place the footer (specification, "Hosted Sparse Extent Header").
    fn header(&self, directory: u64) -> Vec<u8> {
        let flags = header::flag::NEWLINES | header::flag::COMPRESSED | header::flag::MARKERS;
        let mut raw = MAGIC.to_vec();
        let put32 = |raw: &mut Vec<u8>, value: u32| raw.extend_from_slice(&value.to_le_bytes());
        let put64 = |raw: &mut Vec<u8>, value: u64| raw.extend_from_slice(&value.to_le_bytes());
        put32(&mut raw, 3);
        put32(&mut raw, flags);
        put64(&mut raw, self.capacity);
        put64(&mut raw, GRAIN);
        put64(&mut raw, 1); // the descriptor's first sector
        put64(&mut raw, OVERHEAD - 1);
        put32(&mut raw, TABLE_ENTRIES as u32);
        put64(&mut raw, 0); // no second directory
        put64(&mut raw, directory);
        put64(&mut raw, OVERHEAD);
        raw.push(0); // closed cleanly
        raw.extend_from_slice(NEWLINES);
        raw.extend_from_slice(&1u16.to_le_bytes()); // deflate
        raw.resize(SECTOR as usize, 0);
        raw
    }
}

/// A marker for `len` bytes of metadata: their sectors, 0 where a grain's length stands, the kind.
fn marker_sector(kind: u32, len: u64) -> Vec<u8> {
    let mut raw = len.div_ceil(SECTOR).to_le_bytes().to_vec();
    raw.extend_from_slice(&0u32.to_le_bytes());
    raw.extend_from_slice(&kind.to_le_bytes());
    raw.resize(SECTOR as usize, 0);
    raw
}
