// SPDX-License-Identifier: Apache-2.0
//! The footer: which kind of disk, and how large.

use crate::parse::{Bytes, c_text, read_vec};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading the VHD footer";
/// The footer's first bytes.
pub(in crate::formats) const COOKIE: &[u8; 8] = b"conectix";
/// Bytes of a footer. Virtual PC before 2004 wrote one byte less (specification, "Implementing Support ...").
pub(super) const LEN: u64 = 512;
/// The largest geometry that a footer can hold, in sectors: it means "larger than that".
const MOST_GEOMETRY: u64 = 65535 * 16 * 255;
/// Sectors of 512 bytes of the largest disk, 2040 GiB (specification, "Dynamic Disk Header").
const MOST_SECTORS: u64 = 2040 << 21;

/// Disk types (specification, "Disk Type").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The disk's bytes, one by one.
    Fixed,
    /// Blocks.
    Dynamic,
}

/// The footer's facts, checked.
#[derive(Debug, Clone)]
pub(super) struct Footer {
    pub(super) kind: Kind,
    /// Of the disk, in bytes.
    pub(super) size: u64,
    /// Where the dynamic header lies.
    pub(super) header: u64,
    pub(super) warnings: Vec<String>,
}

impl Footer {
    /// The footer at the end of `file`, or else its copy at the start.
    pub(super) fn read(file: &dyn BlockSource) -> Result<Self> {
        let mut first = None;
        for place in places(file.size()) {
            let raw = read_vec(file, place, LEN.min(file.size() - place) as usize)?;
            if !raw.starts_with(COOKIE) {
                continue;
            }
            match Self::parse(&raw) {
                Ok(footer) => return Ok(footer),
                Err(error) => first = first.or(Some(error.at(place))),
            }
        }
        Err(first.unwrap_or_else(|| malformed("there is none at the file's end, and no copy at its start")))
    }

    fn parse(raw: &[u8]) -> Result<Self> {
        let bytes = Bytes::new(raw, "the VHD footer");
        if !has_checksum(raw, 64) {
            return Err(malformed("checksum mismatch"));
        }
        let version = bytes.u32_be(12)?;
        if version >> 16 != 1 {
            return Err(Error::unsupported(DOING, format!("version {}.{}", version >> 16, version & 0xffff)));
        }
        let kind = match bytes.u32_be(60)? {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => {
                let reason = "it holds only what differs from a parent image; merge the two first (Merge-VHD on Windows)";
                return Err(Error::refused("opening the VHD image", reason));
            }
            other => return Err(Error::unsupported(DOING, format!("disk type {other}"))),
        };
        let mut warnings = Vec::new();
        if bytes.u8(84)? & 1 != 0 {
            warnings.push("its machine was suspended: what it held in memory is not in the image".into());
        }
        let size = size(&bytes, &mut warnings)?;
        Ok(Self { kind, size, header: bytes.u64_be(16)?, warnings })
    }
}

/// Where a footer can be: at the end, at the end with 511 bytes, at the start.
fn places(size: u64) -> impl Iterator<Item = u64> {
    [size.checked_sub(LEN), size.checked_sub(LEN - 1), (size >= LEN).then_some(0)].into_iter().flatten()
}

/// True for the last bytes of a fixed VHD: a raw disk that only holds such a sector lacks its checksum or its kind.
pub(in crate::formats) fn is_fixed(tail: &[u8]) -> bool {
    [tail.len().checked_sub(LEN as usize), tail.len().checked_sub(LEN as usize - 1)]
        .into_iter()
        .flatten()
        .filter_map(|at| tail.get(at..))
        .any(|raw| raw.starts_with(COOKIE) && has_checksum(raw, 64) && raw.get(60..64) == Some(&[0, 0, 0, 2]))
}

/// Is the 32-bit number at `at` the complement of the sum of all other bytes?
pub(super) fn has_checksum(raw: &[u8], at: usize) -> bool {
    let sum = raw.iter().enumerate().filter(|(index, _)| !(at..at + 4).contains(index));
    let sum = sum.fold(0u32, |sum, (_, byte)| sum.wrapping_add((*byte).into()));
    raw.get(at..at + 4) == Some(&(!sum).to_be_bytes())
}

/// The disk's size in bytes.
///
/// "Current Size" is right but for the programs that show a guest the disk's geometry and round its size up in the
/// footer: Virtual PC, Virtual Server, and QEMU where it signs as "qemu". QEMU (`vpc_open` in block/vpc.c) takes the geometry for
/// each program that it does not know, too, which cuts off the end of VirtualBox's disks; here that is the current size.
fn size(bytes: &Bytes<'_>, warnings: &mut Vec<String>) -> Result<u64> {
    let current = bytes.u64_be(48)?;
    let creator = bytes.slice(28, 4)?;
    let geometry = u64::from(bytes.u16_be(56)?) * u64::from(bytes.u8(58)?) * u64::from(bytes.u8(59)?);
    let by_geometry = matches!(creator, b"vpc " | b"vs  " | b"qemu") && geometry != MOST_GEOMETRY;
    let size = if by_geometry { geometry * 512 } else { current };
    if size.div_ceil(512) > MOST_SECTORS {
        return Err(Error::unsupported(DOING, format!("a disk of {size} bytes")));
    }
    if by_geometry && size != current {
        warnings.push(format!(
            "the disk has the {size} bytes of its geometry, not the {current} that stand beside it: {:?} made it",
            c_text(creator).trim_end()
        ));
    }
    Ok(size)
}

fn malformed(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}
