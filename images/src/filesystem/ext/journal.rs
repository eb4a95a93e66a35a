// SPDX-License-Identifier: Apache-2.0
//! JBD2, the journal: reading its log and finding which blocks a replay would write, and with what.
//!
//! ```text
//!   log, a ring:  | descriptor: tags | blocks ... | descriptor | blocks | revoke | commit |  next transaction ...
//!                   `---------------------- transaction n -----------------------------'
//! ```
//!
//! Documentation/filesystems/ext4/journal.rst; the rules of replay are those of fs/jbd2/recovery.c. Where the kernel would
//! stop, or could stop for another reason than the end of the log, this reader refuses: its map would not be sure.

use std::collections::HashMap;

use super::checksum::crc32c;
use super::groups::Geometry;
use super::inode::{self, Run};
use super::log_block::{
    COMMIT, DESCRIPTOR, DOING, Format, INCOMPAT_CSUM_V2, INCOMPAT_CSUM_V3, MAGIC, REVOKE, Tag, is_before,
};
use super::overlay::Patch;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const SUPERBLOCK_V2: u32 = 4;
const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// revoke, 64bit, async_commit, csum v2, csum v3, fast_commit.
const KNOWN_INCOMPAT: u32 = 0x3f;

/// Tags and revocations that are held: a log of 1 GiB of 1 KiB blocks has fewer.
const MOST_RECORDS: usize = 1 << 20;
/// The log is read in pieces of this many bytes.
const WINDOW: u64 = 1 << 20;
/// First tag of a fast commit (`EXT4_FC_TAG_HEAD`), and its length.
const FAST_COMMIT_HEAD: u16 = 9;

/// The journal as its superblock describes it.
pub(super) struct Journal<'a> {
    source: &'a dyn BlockSource,
    runs: Vec<Run>,
    block_size: u32,
    /// Blocks that a device of this size can have: no tag may point behind them.
    device_blocks: u64,
    incompat: u32,
    seed: u32,
    /// Log blocks of the ring: `first..end`; then the fast commit area up to `fast_end`.
    first: u32,
    end: u32,
    fast_end: u32,
    start: u32,
    sequence: u32,
    v1_checksums: bool,
    error: u32,
    window: (u64, Vec<u8>),
}

/// Which blocks are written by the complete transactions.
#[derive(Default)]
struct Log {
    tags: Vec<Tag>,
    /// Latest transaction that revoked the block.
    revoked: HashMap<u64, u32>,
}

impl Log {
    fn records(&self) -> usize {
        self.tags.len() + self.revoked.len()
    }
}

impl<'a> Journal<'a> {
    /// Opens the journal that lies in the filesystem's own journal inode.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported` where it cannot be trusted.
    pub(super) fn open(source: &'a dyn BlockSource, geometry: &Geometry) -> Result<Self> {
        let sb = &geometry.sb;
        let runs = inode::runs(source, geometry, sb.journal_inode)?;
        let Some(run) = runs.first() else { return Err(Error::malformed(DOING, "it is empty")) };
        let at = run.physical * u64::from(sb.block_size);
        let blocks = runs.last().map_or(0, |run| run.logical + run.len);
        let raw = read_vec(source, at, 1024)?;
        let bytes = Bytes::new(&raw, "journal superblock");
        let bad =
            |because: &'static str| Error::malformed("reading the journal's superblock", because).at(at);
        let kind = bytes.u32_be(4)?;
        if bytes.u32_be(0)? != MAGIC || !(3..=SUPERBLOCK_V2).contains(&kind) {
            return Err(bad("its magic is missing"));
        }
        let modern = kind == SUPERBLOCK_V2;
        let (compat, incompat) = if modern { (bytes.u32_be(0x24)?, bytes.u32_be(0x28)?) } else { (0, 0) };
        if incompat & !KNOWN_INCOMPAT != 0 {
            return Err(Error::unsupported(
                "reading the journal's superblock",
                format!("unknown incompatible features {:#x}", incompat & !KNOWN_INCOMPAT),
            )
            .at(at));
        }
        let mut seed = 0;
        if incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0 {
            if bytes.u8(0x50)? != 4 {
                return Err(bad("checksums are of an unknown type"));
            }
            let sum = crc32c(crc32c(!0, bytes.slice(0, 0xfc)?), &[0; 4]);
            if crc32c(sum, bytes.slice(0x100, 1024 - 0x100)?) != bytes.u32_be(0xfc)? {
                return Err(bad("checksum mismatch"));
            }
            seed = crc32c(!0, bytes.slice(0x30, 16)?);
        }
        let (maxlen, first) = (bytes.u32_be(0x10)?, bytes.u32_be(0x14)?);
        let fast = match (incompat & INCOMPAT_FAST_COMMIT != 0, bytes.u32_be(0x54)?) {
            (false, _) => 0,
            (true, 0) => 256,
            (true, blocks) => blocks,
        };
        let end = maxlen.checked_sub(fast).ok_or_else(|| bad("the fast commit area is too large"))?;
        let start = bytes.u32_be(0x1c)?;
        if bytes.u32_be(0xc)? != sb.block_size || u64::from(maxlen) > blocks {
            return Err(bad("it does not fit the filesystem"));
        }
        if first == 0 || first >= end || (start != 0 && !(first..end).contains(&start)) {
            return Err(bad("the bounds of the log are impossible"));
        }
        Ok(Self {
            source,
            runs,
            block_size: sb.block_size,
            device_blocks: source.size() / u64::from(sb.block_size),
            incompat,
            seed,
            first,
            end,
            fast_end: maxlen,
            start,
            sequence: bytes.u32_be(0x18)?,
            v1_checksums: compat & COMPAT_CHECKSUM != 0,
            error: bytes.u32_be(0x20)?,
            window: (0, Vec::new()),
        })
    }

    /// Nothing is to be replayed.
    pub(super) fn is_empty(&self) -> bool {
        self.start == 0
    }

    /// The kernel gave up on this journal; it marks the filesystem as having errors at the next mount.
    pub(super) fn has_error(&self) -> bool {
        self.error != 0
    }

    /// What a replay would write, in the order in which it would. Nothing is written here.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported` where it is not sure what the kernel would replay.
    pub(super) fn replay(mut self) -> Result<Vec<Patch>> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        if self.v1_checksums {
            return Err(Error::unsupported(DOING, "its checksums are of the first version"));
        }
        let (log, next) = self.scan()?;
        self.expect_nothing_from(next)?;
        if self.incompat & INCOMPAT_FAST_COMMIT != 0 {
            self.expect_no_fast_commit_from(next)?;
        }
        let mut patches = Vec::new();
        for tag in &log.tags {
            if log.revoked.get(&tag.target).is_some_and(|revoked| !is_before(*revoked, tag.sequence)) {
                continue;
            }
            let content_at = self.offset_of(tag.log_block)?;
            if self.has_checksums() {
                let sum = crc32c(self.seed, &tag.sequence.to_be_bytes());
                let sum = crc32c(sum, self.block(tag.log_block)?);
                let mask = if self.incompat & INCOMPAT_CSUM_V3 != 0 { !0 } else { 0xffff };
                if (sum ^ tag.checksum) & mask != 0 {
                    return Err(Error::malformed(DOING, "checksum mismatch of a logged block").at(content_at));
                }
            }
            patches.push(Patch { target: tag.target, content_at, escaped: tag.escaped });
        }
        Ok(patches)
    }

    /// Walks the log from its start to its end. Returns also the number of the first transaction that is not there.
    fn scan(&mut self) -> Result<(Log, u32)> {
        let mut log = Log::default();
        let mut open = Log::default();
        let (mut at, mut sequence) = (self.start, self.sequence);
        let mut left = self.end - self.first;
        loop {
            if left == 0 || log.records() + open.records() > MOST_RECORDS {
                return Err(Error::malformed(DOING, "the log has no end"));
            }
            left -= 1;
            let (log_block, incompat, seed) = (at, self.incompat, self.seed);
            at = self.following(at, 1);
            let offset = self.offset_of(log_block)?;
            let bytes = Bytes::new(self.block(log_block)?, "journal block");
            let format = Format { incompat, seed, sequence };
            if bytes.u32_be(0)? != MAGIC || bytes.u32_be(8)? != sequence {
                format.expect_true_end(bytes).map_err(|error| error.at(offset))?;
                return Ok((log, sequence));
            }
            match bytes.u32_be(4)? {
                DESCRIPTOR => {
                    format.verify_tail(bytes).map_err(|error| error.at(offset))?;
                    let mut tags = format.tags(bytes).map_err(|error| error.at(offset))?;
                    let count = tags.len() as u32;
                    if count > left {
                        return Err(
                            Error::malformed(DOING, "a transaction is longer than the log").at(offset)
                        );
                    }
                    for tag in &mut tags {
                        if tag.target >= self.device_blocks {
                            return Err(
                                Error::malformed(DOING, "it points outside of the filesystem").at(offset)
                            );
                        }
                        tag.log_block = at;
                        at = self.following(at, 1);
                    }
                    left -= count;
                    open.tags.append(&mut tags);
                }
                REVOKE => {
                    format.verify_tail(bytes).map_err(|error| error.at(offset))?;
                    for block in format.revoked(bytes).map_err(|error| error.at(offset))? {
                        open.revoked.insert(block, sequence);
                    }
                }
                COMMIT => {
                    format.verify_commit(bytes).map_err(|error| error.at(offset))?;
                    log.tags.append(&mut open.tags);
                    // Later transactions come later: their number replaces an earlier one.
                    log.revoked.extend(open.revoked.drain());
                    sequence = sequence.wrapping_add(1);
                }
                _ => return Err(Error::malformed(DOING, "a block is of an unknown type").at(offset)),
            }
        }
    }

    /// The ring holds older transactions and at most the beginning of transaction `next`. Anything later, or its
    /// commit, means that a block before it was damaged, and that the end that was found is none.
    fn expect_nothing_from(&mut self, next: u32) -> Result<()> {
        for log_block in self.first..self.end {
            let offset = self.offset_of(log_block)?;
            let bytes = Bytes::new(self.block(log_block)?, "journal block");
            let (magic, kind, sequence) = (bytes.u32_be(0)?, bytes.u32_be(4)?, bytes.u32_be(8)?);
            if magic == MAGIC && !is_before(sequence, next) && (sequence != next || kind == COMMIT) {
                return Err(Error::malformed(DOING, "the log goes on behind its end").at(offset));
            }
        }
        Ok(())
    }

    /// Fast commits say which files changed, not which blocks: their replay is the kernel's business.
    fn expect_no_fast_commit_from(&mut self, next: u32) -> Result<()> {
        let fast_start = self.end;
        for log_block in fast_start..self.fast_end {
            let offset = self.offset_of(log_block)?;
            let bytes = Bytes::new(self.block(log_block)?, "fast commit block");
            let head = bytes.u16_le(0)? == FAST_COMMIT_HEAD && bytes.u16_le(2)? == 8;
            if head && !is_before(bytes.u32_le(8)?, next) {
                return Err(Error::unsupported(DOING, "it has fast commits to replay").at(offset));
            }
            // The kernel leaves the first block unused and begins with the second, e2fsprogs with the first. What
            // stands there and is no head is either damage or old garbage, which cannot be told apart.
            if log_block - fast_start <= 1 && !head && bytes.all().iter().any(|byte| *byte != 0) {
                return Err(
                    Error::malformed(DOING, "the fast commit area does not begin with a head").at(offset)
                );
            }
        }
        Ok(())
    }

    fn has_checksums(&self) -> bool {
        self.incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0
    }

    /// The log block that is `by` further on in the ring.
    fn following(&self, log_block: u32, by: u32) -> u32 {
        let length = self.end - self.first;
        self.first + ((log_block - self.first) + by) % length
    }

    fn run_of(&self, log_block: u32) -> Result<Run> {
        let block = u64::from(log_block);
        let index = self.runs.partition_point(|run| run.logical + run.len <= block);
        self.runs
            .get(index)
            .copied()
            .ok_or_else(|| Error::malformed(DOING, format!("it has no block {log_block}")))
    }

    /// Byte offset of a log block on the device.
    fn offset_of(&self, log_block: u32) -> Result<u64> {
        let run = self.run_of(log_block)?;
        Ok((run.physical + (u64::from(log_block) - run.logical)) * u64::from(self.block_size))
    }

    /// Content of a log block, read through a window.
    fn block(&mut self, log_block: u32) -> Result<&[u8]> {
        let size = u64::from(self.block_size);
        let offset = self.offset_of(log_block)?;
        let (start, window) = &self.window;
        if offset < *start || offset + size > start + window.len() as u64 {
            let run = self.run_of(log_block)?;
            let blocks = (run.logical + run.len - u64::from(log_block)).min(WINDOW / size).max(1);
            self.window = (offset, read_vec(self.source, offset, (blocks * size) as usize)?);
        }
        let (start, window) = &self.window;
        Bytes::new(window, "journal").slice((offset - start) as usize, size as usize)
    }
}
