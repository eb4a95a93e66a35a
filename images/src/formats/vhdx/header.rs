// SPDX-License-Identifier: Apache-2.0
//! The two headers, of which the newer that is whole counts.

use super::{MIB, checksum, guid};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading the VHDX headers";
/// At the file's start.
pub(in crate::formats) const SIGNATURE: &[u8; 8] = b"vhdxfile";
/// Where the headers lie.
pub(super) const PLACES: [u64; 2] = [64 << 10, 128 << 10];
/// Bytes that a header's checksum covers.
pub(super) const LEN: usize = 4096;

/// The facts of the header that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    sequence: u64,
    /// 0 for a log without entries.
    pub(super) log_guid: u128,
    pub(super) log_offset: u64,
    /// In bytes.
    pub(super) log_len: u64,
}

impl Header {
    pub(super) fn read(file: &dyn BlockSource) -> Result<Self> {
        if read_vec(file, 0, 8.min(file.size() as usize))? != SIGNATURE {
            return Err(malformed("no VHDX signature").at(0));
        }
        let both = PLACES.map(|at| read_vec(file, at, LEN).and_then(|raw| Ok((Self::parse(&raw, at)?, raw))));
        match both {
            [Ok((one, _)), Err(_)] | [Err(_), Ok((one, _))] => Ok(one),
            // Disk2vhd writes the same header twice.
            [Ok((one, raw)), Ok((two, other))] => match one.sequence.cmp(&two.sequence) {
                std::cmp::Ordering::Greater => Ok(one),
                std::cmp::Ordering::Less => Ok(two),
                std::cmp::Ordering::Equal if raw == other => Ok(one),
                std::cmp::Ordering::Equal => {
                    Err(malformed("two headers that differ have the same sequence number"))
                }
            },
            [Err(error), Err(_)] => Err(error),
        }
    }

    fn parse(raw: &[u8], at: u64) -> Result<Self> {
        let bytes = Bytes::new(raw, "a VHDX header");
        if bytes.slice(0, 4)? != b"head" {
            return Err(malformed("no header signature").at(at));
        }
        if bytes.u32_le(4)? != checksum(raw, 4) {
            return Err(malformed("checksum mismatch").at(at));
        }
        let version = bytes.u16_le(66)?;
        if version != 1 {
            return Err(Error::unsupported(DOING, format!("version {version}")).at(at));
        }
        let header = Self {
            sequence: bytes.u64_le(8)?,
            log_guid: guid(bytes.slice(48, 16)?),
            log_offset: bytes.u64_le(72)?,
            log_len: bytes.u32_le(68)?.into(),
        };
        if header.log_guid != 0 {
            let log_version = bytes.u16_le(64)?;
            if log_version != 0 {
                return Err(Error::unsupported(DOING, format!("a log of version {log_version}")).at(at));
            }
            if !header.log_offset.is_multiple_of(MIB)
                || !header.log_len.is_multiple_of(MIB)
                || header.log_len == 0
            {
                return Err(malformed("a log that does not lie on whole MiB").at(at));
            }
        }
        Ok(header)
    }
}

fn malformed(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}
