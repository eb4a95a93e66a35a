// SPDX-License-Identifier: Apache-2.0
//! The on-disk frame of a physical volume (lvm2 `lib/format_text/layout.h`, `lib/label/label.h`).
//!
//! ```text
//!   sector 0-3         label: "LABELONE", CRC; PV header: UUID, areas
//!   each metadata area header (512 B, CRC) | circular buffer of texts; the header names the newest one
//!   data area          physical extents, from pe_start
//! ```

use std::ops::Range;

use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

use super::group::VolumeGroup;

/// A physical volume as its own metadata states it. All addresses are bytes of the volume.
#[derive(Debug)]
pub struct PhysicalVolume {
    /// As `pvs -o uuid` prints it.
    pub uuid: String,
    /// Size that LVM recorded for the device.
    pub device_size: u64,
    /// Label, metadata areas and bootloader area.
    pub own: Vec<Range<u64>>,
    /// Where extents may lie, as the header states it; a group's metadata is more exact.
    pub data: Vec<Range<u64>>,
    /// The newest group metadata that the volume carries.
    pub group: Option<VolumeGroup>,
    /// Its metadata areas (first byte, length), whatever is in them.
    pub metadata: Vec<(u64, u64)>,
    /// First byte of the sector with its label.
    pub label: u64,
    /// Metadata areas that could be read, in use or empty; areas marked as ignored are not counted.
    pub areas_read: usize,
    /// Why its metadata is not to be trusted.
    pub doubt: Option<String>,
}

/// LVM counts its own structures in sectors of 512 bytes on every disk.
pub(super) const SECTOR: usize = 512;
/// The label may stand in any of the first four sectors.
const LABEL_SECTORS: usize = 4;
const LABEL_MAGIC: &[u8] = b"LABELONE";
const LABEL_TYPE: &[u8] = b"LVM2 001";
const AREA_MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
pub(super) const AREA_HEADER: u64 = 512;
/// The seed of every CRC in LVM2's format (lvm2 `lib/misc/crc.h`).
const CRC_SEED: u32 = 0xf597_a6cf;
/// Set in a text's locator where the area is kept but not used.
const IGNORED: u32 = 1;
/// Lists in a PV header are short; the header lies within one sector.
const MOST_AREAS: usize = 32;
/// The usual metadata area is 1 MiB; a text over this is no real one.
const LONGEST_TEXT: u64 = 32 << 20;

/// LVM2's CRC: CRC-32 without the final inversion, from a seed of its own.
pub(super) fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!CRC_SEED);
    parts.iter().for_each(|part| hasher.update(part));
    !hasher.finalize()
}

/// A UUID's 32 characters in the groups in which LVM prints them.
fn uuid_text(raw: &[u8]) -> Result<String> {
    if !raw.iter().all(u8::is_ascii_alphanumeric) {
        return Err(Error::malformed("reading a PV header", "the UUID is not text"));
    }
    let text: Vec<char> = raw.iter().map(|byte| char::from(*byte)).collect();
    let mut parts = Vec::new();
    let mut rest = text.as_slice();
    for len in [6, 4, 4, 4, 4, 4, 6] {
        let (part, later) = rest.split_at(len.min(rest.len()));
        parts.push(part.iter().collect::<String>());
        rest = later;
    }
    Ok(parts.join("-"))
}

/// Looks for a physical volume in `source`.
pub fn probe(source: &dyn BlockSource) -> Result<Option<PhysicalVolume>> {
    let len = (LABEL_SECTORS * SECTOR).min(source.size().min(1 << 20) as usize);
    let head = read_vec(source, 0, len)?;
    for (index, sector) in head.chunks_exact(SECTOR).enumerate() {
        let label = Bytes::new(sector, "LVM label");
        if label.slice(0, 8)? != LABEL_MAGIC || label.slice(24, 8)? != LABEL_TYPE {
            continue;
        }
        let at = (index * SECTOR) as u64;
        if label.u64_le(8)? != index as u64 || label.u32_le(16)? != crc(&[label.slice(20, SECTOR - 20)?]) {
            return Err(Error::malformed("reading an LVM label", "checksum mismatch").at(at));
        }
        return header(source, label, at).map(Some);
    }
    Ok(None)
}

fn header(source: &dyn BlockSource, label: Bytes<'_>, label_at: u64) -> Result<PhysicalVolume> {
    let mut at = label.u32_le(20)? as usize;
    let uuid = uuid_text(label.slice(at, 32)?)?;
    let device_size = label.u64_le(at.saturating_add(32))?;
    at = at.saturating_add(40);
    let data = areas(&label, &mut at)?;
    let metadata = areas(&label, &mut at)?;
    // The extension (version 1 and later) follows; older headers end here, in zeros.
    let mut boot = Vec::new();
    if label.u32_le(at).unwrap_or(0) >= 1 {
        at = at.saturating_add(8);
        boot = areas(&label, &mut at)?;
    }

    let mut pv = PhysicalVolume {
        uuid,
        device_size,
        own: Vec::new(),
        data: data.iter().map(|&(start, len)| start..start.saturating_add(len)).collect(),
        group: None,
        metadata: Vec::new(),
        label: label_at,
        areas_read: 0,
        doubt: None,
    };
    // The four sectors that may hold a label, so that none of another time is left beside it.
    pv.own.push(0..((LABEL_SECTORS * SECTOR) as u64).max(label_at + SECTOR as u64));
    pv.metadata.clone_from(&metadata);
    for &(start, len) in metadata.iter().chain(&boot) {
        let end = start.checked_add(len).filter(|end| *end <= source.size()).ok_or_else(|| {
            Error::malformed("reading a PV header", "an area lies beyond the volume's end").at(start)
        })?;
        pv.own.push(start..end);
    }
    for &(start, len) in &metadata {
        match area(source, start, len) {
            Ok(Area::Ignored) => {}
            Ok(Area::Empty) => pv.areas_read += 1,
            Ok(Area::Text(stored)) => {
                pv.areas_read += 1;
                match VolumeGroup::parse(&stored.text) {
                    Ok(group) => match &pv.group {
                        Some(have) if have.id == group.id && have.seqno >= group.seqno => {}
                        Some(have) if have.id != group.id => {
                            pv.doubt = Some("its two metadata areas name different volume groups".into());
                        }
                        _ => pv.group = Some(group),
                    },
                    Err(error) => pv.doubt = Some(error.chain()),
                }
            }
            Err(error) => pv.doubt = Some(error.chain()),
        }
    }
    Ok(pv)
}

/// Reads a list of (offset, size) pairs that a pair of zeros ends.
fn areas(label: &Bytes<'_>, at: &mut usize) -> Result<Vec<(u64, u64)>> {
    let mut areas = Vec::new();
    loop {
        let (start, len) = (label.u64_le(*at)?, label.u64_le(at.saturating_add(8))?);
        *at = at.saturating_add(16);
        if start == 0 {
            return Ok(areas);
        }
        if areas.len() == MOST_AREAS {
            return Err(Error::malformed("reading a PV header", "too many areas"));
        }
        areas.push((start, len));
    }
}

pub(super) enum Area {
    /// Kept for later use; its content is old.
    Ignored,
    /// No group.
    Empty,
    Text(Stored),
}

/// A group's text, as it stands in an area.
pub(super) struct Stored {
    pub(super) text: String,
    /// Where it begins, in bytes of the area; behind the area's end it goes on behind the header.
    pub(super) offset: u64,
    /// The area's header.
    pub(super) header: Vec<u8>,
}

pub(super) fn area(source: &dyn BlockSource, start: u64, len: u64) -> Result<Area> {
    let raw = read_vec(source, start, AREA_HEADER as usize)?;
    let header = Bytes::new(&raw, "LVM metadata area header");
    let broken =
        |because: &'static str| Error::malformed("reading an LVM metadata area header", because).at(start);
    if header.slice(4, 16)? != AREA_MAGIC {
        return Err(broken("it has no magic"));
    }
    if header.u32_le(0)? != crc(&[header.slice(4, AREA_HEADER as usize - 4)?]) {
        return Err(broken("checksum mismatch"));
    }
    if header.u32_le(20)? != 1 || header.u64_le(24)? != start || header.u64_le(32)? != len {
        return Err(broken("version or address is wrong"));
    }
    let (offset, size) = (header.u64_le(40)?, header.u64_le(48)?);
    let (sum, flags) = (header.u32_le(56)?, header.u32_le(60)?);
    if flags & IGNORED != 0 {
        return Ok(Area::Ignored);
    }
    if offset == 0 || size == 0 {
        return Ok(Area::Empty);
    }
    if offset < AREA_HEADER || offset >= len || size > len - AREA_HEADER || size > LONGEST_TEXT {
        return Err(broken("its text lies outside the area"));
    }
    // The text wraps round to just behind the header.
    let first = size.min(len - offset);
    let mut text = read_vec(source, start + offset, first as usize)?;
    text.extend(read_vec(source, start + AREA_HEADER, (size - first) as usize)?);
    if crc(&[&text]) != sum {
        return Err(Error::malformed("reading LVM metadata", "checksum mismatch").at(start + offset));
    }
    String::from_utf8(text)
        .map(|text| Area::Text(Stored { text, offset, header: raw }))
        .map_err(|_| Error::malformed("reading LVM metadata", "it is not text").at(start + offset))
}
