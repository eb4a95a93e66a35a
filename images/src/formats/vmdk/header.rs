// SPDX-License-Identifier: Apache-2.0
//! The header of a sparse extent, and its footer in a stream (specification, "Hosted Sparse Extent Header").

use super::{MAGIC, SECTOR, marker};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading the VMDK header";
/// `gdOffset` of a header whose footer knows the grain directory's place.
pub(super) const AT_END: u64 = u64::MAX;
/// Entries of a grain table.
pub(super) const TABLE_ENTRIES: u64 = 512;
/// Sectors of the largest disk: 64 TiB.
pub(super) const MOST_SECTORS: u64 = 64 << 31;

/// Flags, and what they say.
pub(super) mod flag {
    /// The four characters behind the header's fields tell whether somebody converted line ends.
    pub(in crate::formats::vmdk) const NEWLINES: u32 = 1;
    /// An entry of 1 in a grain table is a grain of zeros.
    pub(super) const ZERO_GRAINS: u32 = 1 << 2;
    pub(in crate::formats::vmdk) const COMPRESSED: u32 = 1 << 16;
    pub(in crate::formats::vmdk) const MARKERS: u32 = 1 << 17;
}

/// Behind the fields: a text transfer would have changed them.
pub(super) const NEWLINES: &[u8; 4] = b"\n \r\n";

/// The facts of a header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Sectors of the extent.
    pub(super) capacity: u64,
    /// Sectors of a grain.
    pub(super) grain: u64,
    /// Where the descriptor lies, in sectors: (first, count).
    pub(super) descriptor: (u64, u64),
    /// First sector of the grain directory.
    pub(super) directory: u64,
    pub(super) compressed: bool,
    pub(super) markers: bool,
    pub(super) zero_grains: bool,
    /// It was not closed cleanly.
    pub(super) unclean: bool,
}

impl Header {
    /// The header, or the footer where there is one.
    pub(super) fn read(file: &dyn BlockSource) -> Result<Self> {
        let header = Self::read_one(file, 0)?;
        if header.directory != AT_END {
            return Ok(header);
        }
        // Marker, footer, end of stream: the last three sectors.
        let cut = || malformed("the footer that should end the stream is not there: the file is cut short");
        let end = file.size() / SECTOR * SECTOR;
        let at = end.checked_sub(3 * SECTOR).ok_or_else(cut)?;
        let raw = read_vec(file, at, 3 * SECTOR as usize)?;
        let bytes = Bytes::new(&raw, "the VMDK footer");
        let last = 2 * SECTOR as usize;
        let ends = bytes.u32_le(8)? == 0
            && bytes.u32_le(12)? == marker::FOOTER
            && bytes.slice(SECTOR as usize, 4)? == MAGIC
            && bytes.u64_le(last)? == 0
            && bytes.u32_le(last + 8)? == 0
            && bytes.u32_le(last + 12)? == marker::END;
        if !ends {
            return Err(cut().at(at));
        }
        let footer = Self::read_one(file, at + SECTOR)?;
        if footer.directory == AT_END || (footer.capacity, footer.grain) != (header.capacity, header.grain) {
            return Err(malformed("header and footer contradict each other").at(at));
        }
        Ok(footer)
    }

    fn read_one(file: &dyn BlockSource, at: u64) -> Result<Self> {
        let raw = read_vec(file, at, SECTOR as usize)?;
        let bytes = Bytes::new(&raw, "the VMDK header");
        if bytes.slice(0, 4)? != MAGIC {
            return Err(malformed("no VMDK magic").at(at));
        }
        let version = bytes.u32_le(4)?;
        if !(1..=3).contains(&version) {
            return Err(Error::unsupported(DOING, format!("version {version}")).at(at));
        }
        let flags = bytes.u32_le(8)?;
        if flags & flag::NEWLINES != 0 && bytes.slice(73, 4)? != NEWLINES {
            return Err(
                malformed("line ends were converted: the file was copied as text and is damaged").at(at)
            );
        }
        let method = bytes.u16_le(77)?;
        let compressed = flags & flag::COMPRESSED != 0 || method != 0;
        if compressed && method != 1 {
            return Err(Error::unsupported(DOING, format!("compression method {method}")).at(at));
        }
        let header = Self {
            capacity: bytes.u64_le(12)?,
            grain: bytes.u64_le(20)?,
            descriptor: (bytes.u64_le(28)?, bytes.u64_le(36)?),
            directory: bytes.u64_le(56)?,
            compressed,
            markers: flags & flag::MARKERS != 0,
            zero_grains: flags & flag::ZERO_GRAINS != 0,
            unclean: bytes.u8(72)? != 0,
        };
        if !header.grain.is_power_of_two() || !(8..=16384).contains(&header.grain) {
            return Err(malformed("the grain size is not a power of two of 4 KiB to 8 MiB").at(at));
        }
        let entries = bytes.u32_le(44)?;
        if u64::from(entries) != TABLE_ENTRIES {
            return Err(Error::unsupported(DOING, format!("grain tables of {entries} entries")).at(at));
        }
        if header.capacity > MOST_SECTORS {
            return Err(Error::unsupported(DOING, format!("a disk of {} sectors", header.capacity)).at(at));
        }
        Ok(header)
    }
}

fn malformed(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}
