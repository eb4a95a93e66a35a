// SPDX-License-Identifier: Apache-2.0
//! The blocks of the journal's log: headers, tags, revocations and their checksums (include/linux/jbd2.h).

use super::checksum::crc32c;
use crate::parse::Bytes;
use crate::{Error, Result};

/// First word of every block of the log that is not content, big-endian like all of it.
pub(super) const MAGIC: u32 = 0xc03b_3998;

pub(super) const DESCRIPTOR: u32 = 1;
pub(super) const COMMIT: u32 = 2;
pub(super) const REVOKE: u32 = 5;

const INCOMPAT_64BIT: u32 = 0x2;
pub(super) const INCOMPAT_CSUM_V2: u32 = 0x8;
pub(super) const INCOMPAT_CSUM_V3: u32 = 0x10;
const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

pub(super) const DOING: &str = "reading the journal";

/// One block that a transaction writes.
pub(super) struct Tag {
    pub(super) target: u64,
    pub(super) log_block: u32,
    pub(super) sequence: u32,
    pub(super) checksum: u32,
    pub(super) escaped: bool,
}

/// Sequence numbers wrap around.
pub(super) fn is_before(sequence: u32, than: u32) -> bool {
    (sequence.wrapping_sub(than) as i32) < 0
}

/// How the blocks of one transaction are laid out.
pub(super) struct Format {
    pub(super) incompat: u32,
    pub(super) seed: u32,
    pub(super) sequence: u32,
}

impl Format {
    fn checksums(&self) -> bool {
        self.incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0
    }

    /// The block at which the log ends holds what a former round left there. One that is a whole header but for one
    /// field, or that has a wrong checksum, was part of this transaction and is damaged.
    pub(super) fn expect_true_end(&self, bytes: Bytes<'_>) -> Result<()> {
        let damaged = || Error::malformed(DOING, "the log ends at a damaged block");
        let kind = bytes.u32_be(4)?;
        let known = matches!(kind, DESCRIPTOR | COMMIT | REVOKE);
        if bytes.u32_be(0)? != MAGIC {
            return if known && bytes.u32_be(8)? == self.sequence { Err(damaged()) } else { Ok(()) };
        }
        match kind {
            DESCRIPTOR | REVOKE => self.verify_tail(bytes).map_err(|_| damaged()),
            COMMIT => self.verify_commit(bytes).map_err(|_| damaged()),
            _ => Ok(()),
        }
    }

    pub(super) fn verify_tail(&self, bytes: Bytes<'_>) -> Result<()> {
        if !self.checksums() {
            return Ok(());
        }
        let tail = bytes.len().saturating_sub(4);
        if crc32c(crc32c(self.seed, bytes.slice(0, tail)?), &[0; 4]) != bytes.u32_be(tail)? {
            return Err(Error::malformed(DOING, "checksum mismatch"));
        }
        Ok(())
    }

    pub(super) fn verify_commit(&self, bytes: Bytes<'_>) -> Result<()> {
        if !self.checksums() {
            return Ok(());
        }
        let sum = crc32c(crc32c(self.seed, bytes.slice(0, 16)?), &[0; 4]);
        if crc32c(sum, bytes.slice(20, bytes.len().saturating_sub(20))?) != bytes.u32_be(16)? {
            return Err(Error::malformed(DOING, "checksum mismatch"));
        }
        Ok(())
    }

    pub(super) fn tags(&self, bytes: Bytes<'_>) -> Result<Vec<Tag>> {
        let v3 = self.incompat & INCOMPAT_CSUM_V3 != 0;
        let wide = self.incompat & INCOMPAT_64BIT != 0;
        let v2 = !v3 && self.incompat & INCOMPAT_CSUM_V2 != 0;
        // journal_block_tag3_t has 16 bytes. The older one has 8, or 12 with the high half of the number,
        // and two more that nothing uses with checksums of version 2 (`journal_tag_bytes`).
        let size = if v3 { 16 } else { 8 + if wide { 4 } else { 0 } + if v2 { 2 } else { 0 } };
        let limit = bytes.len() - if self.checksums() { 4 } else { 0 };
        let mut tags = Vec::new();
        let mut at = 12;
        while at + size <= limit {
            let tag = bytes.sub(at, size)?;
            let (flags, checksum) = if v3 {
                (tag.u32_be(4)?, tag.u32_be(12)?)
            } else {
                (tag.u16_be(6)?.into(), tag.u16_be(4)?.into())
            };
            let high = if wide { tag.u32_be(8)? } else { 0 };
            tags.push(Tag {
                target: u64::from(high) << 32 | u64::from(tag.u32_be(0)?),
                log_block: 0,
                sequence: self.sequence,
                checksum,
                escaped: flags & TAG_ESCAPED != 0,
            });
            at += size + if flags & TAG_SAME_UUID != 0 { 0 } else { 16 };
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        Ok(tags)
    }

    pub(super) fn revoked(&self, bytes: Bytes<'_>) -> Result<Vec<u64>> {
        let wide = self.incompat & INCOMPAT_64BIT != 0;
        let limit = bytes.len() - if self.checksums() { 4 } else { 0 };
        let end = bytes.u32_be(12)? as usize;
        if !(16..=limit).contains(&end) {
            return Err(Error::malformed(DOING, "the length of a revoke block is impossible"));
        }
        let records = bytes.sub(16, end - 16)?;
        let size = if wide { 8 } else { 4 };
        (0..records.len() / size)
            .map(|index| {
                if wide { records.u64_be(index * size) } else { records.u32_be(index * size).map(u64::from) }
            })
            .collect()
    }
}
