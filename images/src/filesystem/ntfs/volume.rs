// SPDX-License-Identifier: Apache-2.0
//! A volume opened as far as needed: its master file table, and attributes read through it.

use super::boot::Boot;
use super::record::{Attribute, Record, Stream, kind, record_number, same_utf16};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

/// Windows makes no attribute list larger than this.
const MOST_LIST: u64 = 256 * 1024;

/// The value of an attribute.
pub(super) enum Content {
    /// Kept in the file record.
    Resident(Vec<u8>),
    /// Kept in clusters.
    Stream(Stream),
}

/// A volume whose master file table can be read.
pub(super) struct Volume<'a> {
    pub(super) source: &'a dyn BlockSource,
    pub(super) boot: Boot,
    mft: Stream,
}

/// An entry of an attribute list: which record holds the extent that begins at `vcn`.
struct ListEntry {
    reference: u64,
    vcn: u64,
}

impl<'a> Volume<'a> {
    /// Finds all of the master file table, which describes itself in its record 0.
    pub(super) fn open(source: &'a dyn BlockSource, boot: Boot) -> Result<Self> {
        let at = boot.mft * u64::from(boot.cluster_size);
        let first = Record::parse(read_vec(source, at, boot.record_size)?, 0)?;
        let data = first
            .attribute(kind::DATA, "")?
            .ok_or_else(|| Error::malformed("reading the NTFS master file table", "it has no data").at(at))?;
        let mut volume = Self { source, boot, mft: Stream::default() };
        if data.resident()?.is_some() {
            return Err(Error::malformed("reading the NTFS master file table", "it is resident").at(at));
        }
        data.extend(&mut volume.mft, volume.boot.clusters)?;
        // Records that describe later parts of the table lie in earlier parts.
        for entry in volume.list(&first, kind::DATA, "")?.unwrap_or_default() {
            if entry.vcn > 0 {
                let record = volume.extent_record(0, entry.reference)?;
                let mut mft = std::mem::take(&mut volume.mft);
                extent(&record, kind::DATA, "", entry.vcn)?.extend(&mut mft, volume.boot.clusters)?;
                volume.mft = mft;
            }
        }
        Ok(volume)
    }

    /// The record of this number.
    pub(super) fn record(&self, number: u64) -> Result<Record> {
        let outside =
            || Error::malformed(format!("reading NTFS file record {number}"), "the table is shorter");
        let size = self.boot.record_size as u64;
        let at = number.checked_mul(size).ok_or_else(outside)?;
        if at.checked_add(size).is_none_or(|end| end > self.mft.size) {
            return Err(outside());
        }
        let mut data = vec![0; self.boot.record_size];
        self.read(&self.mft, at, &mut data)?;
        Record::parse(data, number)
    }

    /// The attribute of a file, put together from all of its extents.
    pub(super) fn content(&self, number: u64, kind: u32, name: &str) -> Result<Option<Content>> {
        let base = self.record(number)?;
        let Some(entries) = self.list(&base, kind, name)? else {
            let Some(attribute) = base.attribute(kind, name)? else { return Ok(None) };
            if let Some(value) = attribute.resident()? {
                return Ok(Some(Content::Resident(value.to_vec())));
            }
            let mut stream = Stream::default();
            attribute.extend(&mut stream, self.boot.clusters)?;
            return Ok(Some(Content::Stream(stream)));
        };
        if entries.is_empty() {
            return Ok(None);
        }
        let mut stream = Stream::default();
        for entry in entries {
            let other;
            let record = if record_number(entry.reference) == number {
                &base
            } else {
                other = self.extent_record(number, entry.reference)?;
                &other
            };
            let attribute = extent(record, kind, name, entry.vcn)?;
            if let Some(value) = attribute.resident()? {
                return Ok(Some(Content::Resident(value.to_vec())));
            }
            attribute.extend(&mut stream, self.boot.clusters)?;
        }
        Ok(Some(Content::Stream(stream)))
    }

    /// Fills `buf` from byte `at` of `stream`; beyond what was written there are zeros.
    pub(super) fn read(&self, stream: &Stream, mut at: u64, buf: &mut [u8]) -> Result<()> {
        let cluster = u64::from(self.boot.cluster_size);
        let mut rest = buf;
        while !rest.is_empty() {
            let vcn = at / cluster;
            let index = stream.runs.partition_point(|run| run.vcn + run.len <= vcn);
            let run = stream.runs.get(index).ok_or_else(|| {
                Error::malformed(
                    format!("reading an NTFS attribute at its byte {at:#x}"),
                    "it has no cluster there",
                )
            })?;
            let within = at - run.vcn * cluster;
            let left = run.len.saturating_mul(cluster).saturating_sub(within);
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            match run.lcn {
                Some(lcn) => self.source.read_at(now, lcn * cluster + within)?,
                None => now.fill(0),
            }
            let valid = usize::try_from(stream.valid.saturating_sub(at)).unwrap_or(usize::MAX);
            if let Some(unwritten) = now.get_mut(valid..) {
                unwritten.fill(0);
            }
            at += take as u64;
            rest = later;
        }
        Ok(())
    }

    /// At most `most` bytes from the start of an attribute's value.
    pub(super) fn head(&self, content: &Content, most: u64) -> Result<Vec<u8>> {
        match content {
            Content::Resident(value) => Ok(value.iter().copied().take(most as usize).collect()),
            Content::Stream(stream) => {
                let mut data = vec![0; stream.size.min(most) as usize];
                self.read(stream, 0, &mut data)?;
                Ok(data)
            }
        }
    }

    /// What the base record's attribute list says of one attribute; `None` if it has no list.
    fn list(&self, base: &Record, kind: u32, name: &str) -> Result<Option<Vec<ListEntry>>> {
        let Some(attribute) = base.attribute(kind::ATTRIBUTE_LIST, "")? else { return Ok(None) };
        let value = match attribute.resident()? {
            Some(value) => value.to_vec(),
            None => {
                let mut stream = Stream::default();
                attribute.extend(&mut stream, self.boot.clusters)?;
                if stream.size > MOST_LIST {
                    return Err(Error::malformed(
                        "reading an NTFS attribute list",
                        "it is larger than 256 KiB",
                    ));
                }
                self.head(&Content::Stream(stream), MOST_LIST)?
            }
        };
        let raw = Bytes::new(&value, "attribute list");
        let mut entries = Vec::new();
        let mut at = 0;
        while at < raw.len() {
            let entry = raw.sub(at, usize::from(raw.u16_le(at + 4)?))?;
            let name_len = usize::from(entry.u8(6)?) * 2;
            let name_at = if name_len == 0 { 0 } else { usize::from(entry.u8(7)?) };
            if entry.u32_le(0)? == kind && same_utf16(entry.slice(name_at, name_len)?, name) {
                entries.push(ListEntry { reference: entry.u64_le(16)?, vcn: entry.u64_le(8)? });
            }
            // Reading its fields proved that the entry is not empty, so this ends.
            entry.u16_le(24)?;
            at += entry.len();
        }
        Ok(Some(entries))
    }

    /// A record that holds extents of the file `base`.
    fn extent_record(&self, base: u64, reference: u64) -> Result<Record> {
        let number = record_number(reference);
        let record = self.record(number)?;
        if record.base()? != base || u64::from(record.sequence()?) != reference >> 48 {
            return Err(Error::malformed(
                format!("reading NTFS file record {number}"),
                format!("it does not belong to record {base}"),
            ));
        }
        Ok(record)
    }
}

/// The extent that begins at `vcn`.
fn extent<'r>(record: &'r Record, kind: u32, name: &str, vcn: u64) -> Result<Attribute<'r>> {
    for attribute in record.attributes()? {
        if attribute.kind == kind && attribute.is_named(name)? && attribute.first_vcn()? == vcn {
            return Ok(attribute);
        }
    }
    Err(Error::malformed("reading an NTFS attribute list", "an extent that it names does not exist"))
}
