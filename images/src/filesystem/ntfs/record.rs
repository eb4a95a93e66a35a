// SPDX-License-Identifier: Apache-2.0
//! File records, their attributes and run lists (structures as in ntfs-3g's `layout.h`).

use crate::parse::Bytes;
use crate::{Error, Result};

/// Every structure protected by an update sequence is, in strides of this many bytes, whatever the sector size.
const STRIDE: usize = 512;
/// A run list longer than this belongs to no volume that works.
const MOST_RUNS: usize = 1 << 20;

/// Attribute types.
pub(super) mod kind {
    pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(crate) const VOLUME_NAME: u32 = 0x60;
    pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
    pub(crate) const DATA: u32 = 0x80;
    pub(crate) const INDEX_ROOT: u32 = 0x90;
    pub(crate) const INDEX_ALLOCATION: u32 = 0xA0;
    pub(crate) const BITMAP: u32 = 0xB0;
    pub(super) const END: u32 = 0xFFFF_FFFF;
}

/// Number of the record in a file reference; the upper 16 bits are the sequence number.
pub(super) fn record_number(reference: u64) -> u64 {
    reference & 0xFFFF_FFFF_FFFF
}

/// Checks the update sequence of a record, index block or restart page and puts the replaced bytes back.
pub(super) fn fix_up(data: &mut [u8], what: &'static str) -> Result<()> {
    let torn =
        |because: &'static str| Error::malformed(format!("reading the update sequence of {what}"), because);
    let head = Bytes::new(data, what);
    let (start, count) = (usize::from(head.u16_le(4)?), usize::from(head.u16_le(6)?));
    if !data.len().is_multiple_of(STRIDE) || count != data.len() / STRIDE + 1 {
        return Err(torn("its length does not fit the structure"));
    }
    let sequence = head.slice(start, count * 2)?.to_vec();
    let mut entries = sequence.chunks_exact(2);
    let mark = entries.next().unwrap_or_default();
    for (stride, saved) in data.chunks_exact_mut(STRIDE).zip(entries) {
        let (_, tail) = stride.split_at_mut(STRIDE - 2);
        if tail != mark {
            return Err(torn("a sector was not written with the others"));
        }
        tail.copy_from_slice(saved);
    }
    Ok(())
}

/// One fixed-up file record.
pub(super) struct Record {
    data: Vec<u8>,
}

impl Record {
    /// Checks magic, update sequence, that it is in use and (where it says) that its number is `number`.
    pub(super) fn parse(mut data: Vec<u8>, number: u64) -> Result<Self> {
        let broken =
            |because: &'static str| Error::malformed(format!("reading NTFS file record {number}"), because);
        if !data.starts_with(b"FILE") {
            return Err(broken("its magic is missing"));
        }
        fix_up(&mut data, "file record")?;
        let raw = Bytes::new(&data, "file record");
        if raw.u16_le(22)? & 1 == 0 {
            return Err(broken("it is not in use"));
        }
        // NTFS 3.1 has the number, in the place where older versions put the update sequence.
        if raw.u16_le(4)? >= 48 && u64::from(raw.u32_le(44)?) != number & 0xFFFF_FFFF {
            return Err(broken("it says that it is another record"));
        }
        Ok(Self { data })
    }

    fn raw(&self) -> Bytes<'_> {
        Bytes::new(&self.data, "file record")
    }

    /// Sequence number: how often the record was used anew.
    pub(super) fn sequence(&self) -> Result<u16> {
        self.raw().u16_le(16)
    }

    /// Number of the record that this one extends; 0 for a base record.
    pub(super) fn base(&self) -> Result<u64> {
        Ok(record_number(self.raw().u64_le(32)?))
    }

    /// All attributes in their order.
    pub(super) fn attributes(&self) -> Result<Vec<Attribute<'_>>> {
        let raw = self.raw();
        let used = raw.sub(0, raw.u32_le(24)? as usize)?;
        let mut found = Vec::new();
        let mut at = usize::from(raw.u16_le(20)?);
        loop {
            let kind = used.u32_le(at)?;
            if kind == kind::END {
                return Ok(found);
            }
            let len = used.u32_le(at + 4)? as usize;
            if len < 24 || !len.is_multiple_of(8) {
                return Err(Error::malformed("reading an NTFS attribute", "its length is wrong"));
            }
            found.push(Attribute { kind, body: used.sub(at, len)? });
            at += len;
        }
    }

    /// The first attribute of this type and name.
    pub(super) fn attribute(&self, kind: u32, name: &str) -> Result<Option<Attribute<'_>>> {
        for attribute in self.attributes()? {
            if attribute.kind == kind && attribute.is_named(name)? {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }
}

/// One attribute of a record, or one extent of an attribute that is spread over several.
pub(super) struct Attribute<'a> {
    /// Its type.
    pub(super) kind: u32,
    body: Bytes<'a>,
}

impl<'a> Attribute<'a> {
    /// Compares the name; NTFS attribute names that matter here are plain ASCII.
    pub(super) fn is_named(&self, name: &str) -> Result<bool> {
        let len = usize::from(self.body.u8(9)?) * 2;
        let start = if len == 0 { 0 } else { usize::from(self.body.u16_le(10)?) };
        Ok(same_utf16(self.body.slice(start, len)?, name))
    }

    /// The value if it is kept in the record, else `None`.
    pub(super) fn resident(&self) -> Result<Option<&'a [u8]>> {
        if self.body.u8(8)? != 0 {
            return Ok(None);
        }
        let (len, start) = (self.body.u32_le(16)? as usize, usize::from(self.body.u16_le(20)?));
        self.body.slice(start, len).map(Some)
    }

    /// First virtual cluster of this extent of a non-resident attribute.
    pub(super) fn first_vcn(&self) -> Result<u64> {
        if self.body.u8(8)? == 0 { Ok(0) } else { self.body.u64_le(16) }
    }

    /// Adds this extent to `stream`, of which it must be the next; `clusters` is the size of the volume.
    pub(super) fn extend(&self, stream: &mut Stream, clusters: u64) -> Result<()> {
        let broken = |because: &'static str| Error::malformed("reading an NTFS run list", because);
        let (first, last) = (self.body.u64_le(16)?, self.body.u64_le(24)?);
        if first != stream.clusters() {
            return Err(broken("its extents do not follow each other"));
        }
        if first == 0 {
            // Bits 0-7 name a compression method, bit 15 is sparse.
            stream.plain = self.body.u16_le(12)? & 0x80FF == 0;
            stream.allocated = self.body.u64_le(40)?;
            stream.size = self.body.u64_le(48)?;
            stream.valid = self.body.u64_le(56)?;
        }
        let pairs = usize::from(self.body.u16_le(32)?);
        let pairs = self.body.slice(pairs, self.body.len().saturating_sub(pairs))?;
        decode_runs(pairs, clusters, &mut stream.runs)?;
        if stream.clusters() != last.wrapping_add(1) {
            return Err(broken("it is not as long as its attribute says"));
        }
        Ok(())
    }
}

/// True if UTF-16LE `raw` is `name`, ASCII letters compared without case.
pub(super) fn same_utf16(raw: &[u8], name: &str) -> bool {
    raw.len() == name.len() * 2
        && raw
            .chunks_exact(2)
            .zip(name.bytes())
            .all(|(unit, byte)| matches!(unit, [low, 0] if low.eq_ignore_ascii_case(&byte)))
}

/// Clusters that follow each other both in a file and on the volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// First cluster in the file.
    pub(super) vcn: u64,
    /// First cluster on the volume; `None` reads as zeros.
    pub(super) lcn: Option<u64>,
    /// Clusters.
    pub(super) len: u64,
}

/// Where a non-resident attribute lies; sizes in bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    pub(super) runs: Vec<Run>,
    /// Neither sparse nor compressed nor encrypted by its flags.
    pub(super) plain: bool,
    pub(super) allocated: u64,
    pub(super) size: u64,
    /// What lies beyond was never written and reads as zeros.
    pub(super) valid: u64,
}

impl Stream {
    /// Clusters that the runs cover, sparse ones included.
    pub(super) fn clusters(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.vcn + run.len)
    }
}

/// Decodes mapping pairs: a byte with two sizes, a length, and a signed distance to the run before.
fn decode_runs(pairs: &[u8], clusters: u64, runs: &mut Vec<Run>) -> Result<()> {
    let broken = |because: &'static str| Error::malformed("reading an NTFS run list", because);
    let pairs = Bytes::new(pairs, "run list");
    let mut vcn = runs.last().map_or(0, |run| run.vcn + run.len);
    let (mut at, mut lcn) = (0, 0i64);
    while at < pairs.len() {
        let head = usize::from(pairs.u8(at)?);
        let (len_size, distance_size) = (head & 15, head >> 4);
        if head == 0 {
            break;
        }
        if len_size == 0 || len_size > 8 || distance_size > 8 {
            return Err(broken("a run has impossible sizes"));
        }
        let len = signed(pairs.slice(at + 1, len_size)?);
        let len = u64::try_from(len).ok().filter(|len| *len > 0 && *len <= 1 << 51);
        let len = len.ok_or_else(|| broken("a run has an impossible length"))?;
        let place = if distance_size == 0 {
            None
        } else {
            let distance = signed(pairs.slice(at + 1 + len_size, distance_size)?);
            lcn = lcn.checked_add(distance).ok_or_else(|| broken("a run lies outside the volume"))?;
            let start = u64::try_from(lcn)
                .ok()
                .filter(|start| start.checked_add(len).is_some_and(|end| end <= clusters));
            Some(start.ok_or_else(|| broken("a run lies outside the volume"))?)
        };
        if runs.len() >= MOST_RUNS {
            return Err(broken("there are too many runs"));
        }
        runs.push(Run { vcn, lcn: place, len });
        vcn = vcn.checked_add(len).filter(|end| *end <= 1 << 51).ok_or_else(|| broken("it is too long"))?;
        at += 1 + len_size + distance_size;
    }
    Ok(())
}

/// Little-endian two's complement of 1 to 8 bytes.
fn signed(raw: &[u8]) -> i64 {
    let fill = if raw.last().is_some_and(|high| high & 0x80 != 0) { 0xFF } else { 0 };
    let mut wide = [fill; 8];
    wide.iter_mut().zip(raw).for_each(|(to, from)| *to = *from);
    i64::from_le_bytes(wide)
}
