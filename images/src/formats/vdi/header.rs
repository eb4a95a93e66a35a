// SPDX-License-Identifier: Apache-2.0
//! The header of version 1.1, and what is refused because of it.

use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading the VDI header";
/// At byte 64, behind a line of text for people.
pub(in crate::formats) const MAGIC: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];
/// Bytes from the file's start that hold what is read here.
const LEN: usize = 0x1c8;
/// Entries of a block map at most: 128 TiB in blocks of 1 MiB, twice what VirtualBox makes.
const MOST_BLOCKS: u64 = 1 << 27;

/// The header's facts, checked.
#[derive(Debug)]
pub(super) struct Header {
    /// Of the disk, in bytes.
    pub(super) size: u64,
    pub(super) map_offset: u64,
    pub(super) blocks: u64,
    pub(super) data_offset: u64,
    /// Bytes of the disk in a block.
    pub(super) block: u64,
    /// Bytes in front of each block.
    pub(super) extra: u64,
}

impl Header {
    pub(super) fn read(file: &dyn BlockSource) -> Result<Self> {
        let raw = read_vec(file, 0, LEN.min(file.size() as usize))?;
        let bytes = Bytes::new(&raw, "the VDI header");
        if bytes.slice(64, 4)? != MAGIC {
            return Err(malformed("no VDI signature").at(64));
        }
        let version = bytes.u32_le(68)?;
        if version >> 16 != 1 || version & 0xffff == 0 {
            let reason = format!("version {}.{}", version >> 16, version & 0xffff);
            return Err(Error::unsupported(DOING, reason).at(68));
        }
        check_kind(bytes.u32_le(76)?, bytes.slice(0x1a8, 16)?, bytes.slice(0x1b8, 16)?)?;
        let sector = bytes.u32_le(0x168)?;
        if sector != 512 {
            return Err(Error::unsupported(DOING, format!("sectors of {sector} bytes")).at(0x168));
        }
        let header = Self {
            size: bytes.u64_le(0x170)?,
            map_offset: bytes.u32_le(0x154)?.into(),
            blocks: bytes.u32_le(0x180)?.into(),
            data_offset: bytes.u32_le(0x158)?.into(),
            block: bytes.u32_le(0x178)?.into(),
            extra: bytes.u32_le(0x17c)?.into(),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        if !self.block.is_power_of_two() || !(4096..=256 << 20).contains(&self.block) {
            return Err(malformed("the block size is not a power of two of 4 KiB to 256 MiB").at(0x178));
        }
        if self.extra > self.block {
            return Err(malformed("more bytes in front of a block than in it").at(0x17c));
        }
        if self.blocks > MOST_BLOCKS {
            return Err(Error::unsupported(DOING, format!("a map of {} blocks", self.blocks)).at(0x180));
        }
        if self.size.div_ceil(self.block) > self.blocks {
            return Err(malformed("the disk is larger than its block map").at(0x170));
        }
        Ok(())
    }
}

/// Image types (`VDIIMAGETYPE`): 1 dynamic, 2 static, 3 undo, 4 differencing.
fn check_kind(kind: u32, link: &[u8], parent: &[u8]) -> Result<()> {
    let child = [link, parent].iter().any(|uuid| uuid.iter().any(|byte| *byte != 0));
    match kind {
        1 | 2 if !child => Ok(()),
        1..=4 => Err(Error::refused(
            "opening the VDI image",
            "it holds only what differs from a parent image; merge the two with VBoxManage clonemedium first",
        )),
        other => Err(Error::unsupported(DOING, format!("image type {other}")).at(76)),
    }
}

fn malformed(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}
