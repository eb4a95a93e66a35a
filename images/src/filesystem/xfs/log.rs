// SPDX-License-Identifier: Apache-2.0
//! Is there anything in the log to replay?
//!
//! The log is a ring of 512-byte blocks. The first word of each is the number of the turn of the ring in which it
//! was written (the cycle), so that the newest record ends where the cycle drops by one:
//!
//! ```text
//!   |7|7|7|7|7|7|7|7|6|6|6|6|6|    record: header (magic, cycle, ...) then its data
//!             ^rec. ^ head
//! ```
//!
//! Unmounting writes, after all else, a record with one operation, "unmount". If the newest record is that one
//! and nothing follows it, there is nothing to replay (kernel `xlog_find_tail`, `xlog_check_unmount_rec`).
//! Whatever else is found, or found out of order, is dirty: that answer costs time but never data.

use super::superblock::{Superblock, checksum};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// A log block in bytes, whatever the filesystem's sector is.
const BLOCK: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// Blocks of eight buffers of 256 KiB, the most that can be in flight, and so written out of order, at once.
const IN_FLIGHT: u64 = 8 * (256 << 10) / BLOCK;
/// One record: 256 KiB of data, and a header block for each 32 KiB of it.
const LONGEST_RECORD: u64 = (256 << 10) / BLOCK + 8;
const OP_UNMOUNT: u8 = 0x20;
/// Fields of a record's header (`struct xlog_rec_header`).
const RECORD_CHECKSUM: usize = 32;
const RECORD_UUID: usize = 304;

/// What the log says.
#[derive(Debug)]
pub(super) enum LogState {
    Clean,
    /// What was found.
    Dirty(String),
}

fn dirty(what: impl Into<String>) -> Result<LogState> {
    Ok(LogState::Dirty(what.into()))
}

/// Reads some 4 MiB of the internal log, however large that is.
pub(super) fn state(source: &dyn BlockSource, superblock: &Superblock) -> Result<LogState> {
    let log = Log::of(source, superblock)?;
    let head = match log.head()? {
        Head::Unused => return log.all_zero(),
        Head::At(head) => head,
        Head::Unclear(what) => return dirty(what),
    };
    log.newest_record(head, &superblock.uuid)
}

/// What to write so that the newest records of a clean log are those of a filesystem with the UUID `new`.
///
/// # Errors
///
/// `Malformed` where a record's checksum is neither right nor absent.
pub(super) fn relabelled(
    source: &dyn BlockSource,
    superblock: &Superblock,
    new: &[u8; 16],
) -> Result<Vec<(u64, Vec<u8>)>> {
    let log = Log::of(source, superblock)?;
    let Head::At(head) = log.head()? else { return Ok(Vec::new()) };
    let mut writes = Vec::new();
    // The ring, backwards from its head: what the kernel looks at when it looks for the newest record.
    let mut next = head;
    for _ in 0..IN_FLIGHT.min(log.blocks) {
        next = if next == 0 { log.blocks - 1 } else { next - 1 };
        let raw = log.read(next, 1)?;
        let header = Bytes::new(&raw, "a log record's header");
        if header.u32_be(0)? == MAGIC && header.slice(RECORD_UUID, 16)? == superblock.uuid {
            writes.push((log.start + next * BLOCK, log.relabelled_header(next, new)?));
        }
    }
    Ok(writes)
}

/// Where the newest record ends.
enum Head {
    /// Nothing was ever logged.
    Unused,
    /// The block behind it.
    At(u64),
    /// What was found instead.
    Unclear(String),
}

struct Log<'a> {
    source: &'a dyn BlockSource,
    start: u64,
    /// Of 512 bytes.
    blocks: u64,
}

impl<'a> Log<'a> {
    fn of(source: &'a dyn BlockSource, superblock: &Superblock) -> Result<Self> {
        let (group, block, blocks) = superblock.log()?;
        let start = superblock.byte_of(group, block);
        let len = u64::from(blocks) * u64::from(superblock.block_size);
        if start.checked_add(len).is_none_or(|end| end > source.size()) {
            return Err(Error::malformed("reading the XFS log", "it lies beyond the partition").at(start));
        }
        Ok(Log { source, start, blocks: len / BLOCK })
    }

    fn head(&self) -> Result<Head> {
        let first = self.cycle(0)?;
        if first == 0 {
            // Cleared by mkfs or by a repair. A log in use never has cycle 0 at its start.
            return Ok(Head::Unused);
        }
        let last = self.cycle(self.blocks - 1)?;
        let head = if last == first {
            self.blocks
        } else if last == first - 1 {
            self.first_block_not_of(first)?
        } else {
            return Ok(Head::Unclear(format!("it starts in cycle {first} and ends in cycle {last}")));
        };
        let newest = self.cycles(head.saturating_sub(IN_FLIGHT), head)?;
        let oldest = self.cycles(head, self.blocks.min(head + IN_FLIGHT))?;
        // What follows is older; `xfs_admin -U` leaves zeros there instead of the cycle before.
        if newest.iter().any(|&cycle| cycle != first) || oldest.contains(&first) {
            return Ok(Head::Unclear("its newest blocks are incomplete".into()));
        }
        Ok(Head::At(head))
    }

    /// The header block at `block` with the UUID `new`, and its checksum, where it has one.
    fn relabelled_header(&self, block: u64, new: &[u8; 16]) -> Result<Vec<u8>> {
        let mut raw = self.read(block, 1)?;
        let header = Bytes::new(&raw, "a log record's header");
        let (len, stored) = (header.u32_be(12)?, header.u32_le(RECORD_CHECKSUM)?);
        // The blocks behind it, round the ring: further headers, then what it logs.
        let headers = match header.u32_be(8)? {
            2 => u64::from(header.u32_be(320)?).div_ceil(32 << 10).max(1),
            _ => 1,
        };
        let blocks = headers + u64::from(len).div_ceil(BLOCK);
        if blocks > LONGEST_RECORD.min(self.blocks) {
            return Err(Error::malformed("reading the XFS log", "a record is longer than any").at(self.start));
        }
        let mut all = Vec::new();
        for offset in 0..blocks {
            all.extend(self.read((block + offset) % self.blocks, 1)?);
        }
        // The length of the kernel's structure, which is padded on 64-bit machines only.
        let size = [328, 324]
            .into_iter()
            .find(|size| record_checksum(&all, *size, headers, len).is_ok_and(|sum| sum == stored));
        crate::identity::put(&mut raw, RECORD_UUID, new);
        crate::identity::put(&mut all, RECORD_UUID, new);
        match size {
            Some(size) => {
                let sum = record_checksum(&all, size, headers, len)?;
                crate::identity::put(&mut raw, RECORD_CHECKSUM, &sum.to_le_bytes());
            }
            // mkfs.xfs and xfs_admin write none, which the kernel takes for right.
            None if stored == 0 => {}
            None => {
                return Err(Error::malformed("reading the XFS log", "a record's checksum is wrong")
                    .at(self.start + block * BLOCK));
            }
        }
        Ok(raw)
    }

    fn read(&self, block: u64, blocks: u64) -> Result<Vec<u8>> {
        read_vec(self.source, self.start + block * BLOCK, (blocks * BLOCK) as usize)
    }

    fn cycles(&self, from: u64, to: u64) -> Result<Vec<u32>> {
        let data = self.read(from, to - from)?;
        data.chunks_exact(BLOCK as usize).map(|block| cycle_of(Bytes::new(block, "a log block"))).collect()
    }

    fn cycle(&self, block: u64) -> Result<u32> {
        cycle_of(Bytes::new(&self.read(block, 1)?, "a log block"))
    }

    /// By bisection: block 0 is of `cycle`, the last one is not.
    fn first_block_not_of(&self, cycle: u32) -> Result<u64> {
        let (mut of, mut not) = (0, self.blocks - 1);
        while not - of > 1 {
            let middle = of + (not - of) / 2;
            if self.cycle(middle)? == cycle { of = middle } else { not = middle }
        }
        Ok(not)
    }

    fn all_zero(&self) -> Result<LogState> {
        // The kernel takes cycle 0 at the start for a log that was never used. Its end must agree, and the
        // rest is probed where the first records would be.
        let from = self.blocks.saturating_sub(IN_FLIGHT);
        let starts = self.cycles(0, self.blocks.min(IN_FLIGHT))?;
        let ends = self.cycles(from, self.blocks)?;
        match starts.iter().chain(&ends).all(|&cycle| cycle == 0) {
            true => Ok(LogState::Clean),
            false => dirty("its start is zeroed, the rest is not"),
        }
    }

    /// Clean if the record that ends at `head` is an unmount record.
    fn newest_record(&self, head: u64, uuid: &[u8; 16]) -> Result<LogState> {
        // The ring, unrolled: the record may have begun at the log's end.
        let back = LONGEST_RECORD.min(self.blocks);
        let wrapped = back.saturating_sub(head);
        let mut data = self.read(self.blocks - wrapped, wrapped)?;
        data.extend(self.read(head - (back - wrapped), back - wrapped)?);

        let raw = Bytes::new(&data, "the end of the log");
        let mut record = None;
        for index in (0..back).rev() {
            if raw.u32_be((index * BLOCK) as usize)? == MAGIC {
                record = Some(index);
                break;
            }
        }
        let Some(at) = record else { return dirty("no record ends at its head") };
        let header = raw.sub((at * BLOCK) as usize, BLOCK as usize)?;
        let version = header.u32_be(8)?;
        if !matches!(version, 1 | 2) || header.slice(304, 16)? != uuid {
            return dirty("its newest record is not this filesystem's");
        }
        // A version 2 record of more than 32 KiB has a header block for each 32 KiB.
        let header_blocks = match version {
            2 => u64::from(header.u32_be(320)?).div_ceil(32 << 10).max(1),
            _ => 1,
        };
        let data_blocks = u64::from(header.u32_be(12)?).div_ceil(BLOCK);
        if at + header_blocks + data_blocks != back || header.u32_be(40)? != 1 || data_blocks == 0 {
            return dirty("it was not unmounted");
        }
        let operation = raw.sub(((at + header_blocks) * BLOCK) as usize, 12)?;
        match operation.u8(9)? & OP_UNMOUNT {
            0 => dirty("it was not unmounted"),
            _ => Ok(LogState::Clean),
        }
    }
}

/// The checksum of a record (kernel `xlog_cksum`): its header with the field as zero, what of each further header is used, and
/// what it logs.
fn record_checksum(all: &[u8], size: usize, headers: u64, len: u32) -> Result<u32> {
    /// Of a further header: a cycle, and the first words of 64 blocks.
    const FURTHER: usize = 260;
    let raw = Bytes::new(all, "a log record");
    let mut sum = checksum(raw.slice(0, size)?, RECORD_CHECKSUM)?;
    let used = u64::from(len).div_ceil(32 << 10).min(headers);
    for index in 1..used {
        sum = crc32c::crc32c_append(sum, raw.slice((index * BLOCK) as usize, FURTHER)?);
    }
    Ok(crc32c::crc32c_append(sum, raw.slice((headers * BLOCK) as usize, len as usize)?))
}

fn cycle_of(block: Bytes<'_>) -> Result<u32> {
    match block.u32_be(0)? {
        MAGIC => block.u32_be(4),
        cycle => Ok(cycle),
    }
}
