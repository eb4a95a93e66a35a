// SPDX-License-Identifier: Apache-2.0
//! A file as it will be once its log was replayed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::header::Header;
use super::log;
use crate::formats::raw::RawSource;
use crate::parse::read_vec;
use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result, State};

/// What a range has instead of the file's bytes.
#[derive(Debug, Clone)]
enum Content {
    Zeros,
    /// One page.
    Page(Arc<[u8]>),
}

/// Ranges that are other than in the file. Later ones replace earlier ones.
#[derive(Debug, Default)]
pub(super) struct Patches {
    /// By first byte: first byte behind it, content.
    ranges: BTreeMap<u64, (u64, Content)>,
    zeros: usize,
}

impl Patches {
    /// How many ranges of zeros came so far.
    pub(super) fn zeros(&self) -> usize {
        self.zeros
    }

    pub(super) fn zero(&mut self, range: Range<u64>) {
        self.zeros += 1;
        self.put(range, Content::Zeros);
    }

    /// `page` lies at a multiple of its length.
    pub(super) fn data(&mut self, at: u64, page: Arc<[u8]>) {
        self.put(at..at.saturating_add(page.len() as u64), Content::Page(page));
    }

    fn put(&mut self, range: Range<u64>, content: Content) {
        if range.is_empty() {
            return;
        }
        let before = self.ranges.range(..range.start).next_back();
        if let Some((&start, &(end, ref old))) = before.filter(|(_, (end, _))| *end > range.start) {
            // Only zeros are longer than a page, so that what is cut is zeros.
            let old = old.clone();
            self.ranges.insert(start, (range.start, old.clone()));
            if end > range.end {
                self.ranges.insert(range.end, (end, old));
            }
        }
        let covered: Vec<u64> = self.ranges.range(range.start..range.end).map(|(start, _)| *start).collect();
        for start in covered {
            if let Some((end, old)) = self.ranges.remove(&start)
                && end > range.end
            {
                self.ranges.insert(range.end, (end, old));
            }
        }
        self.ranges.insert(range.start, (range.end, content));
    }

    /// The patch at byte `at`, if any, and up to where what is there holds.
    fn at(&self, at: u64) -> (Option<(u64, &Content)>, u64) {
        if let Some((start, (end, content))) = self.ranges.range(..=at).next_back()
            && *end > at
        {
            return (Some((*start, content)), *end);
        }
        (None, self.ranges.range(at..).next().map_or(u64::MAX, |(start, _)| *start))
    }
}

/// A VHDX file with its log replayed over it.
pub(super) struct Replayed {
    file: RawSource,
    patches: Patches,
    /// With what the log says that the file has grown by.
    size: u64,
}

impl Replayed {
    /// Reads the log that `header` names; returns the file with warnings.
    pub(super) fn new(file: RawSource, header: &Header) -> Result<(Self, Vec<String>)> {
        let size = file.size();
        let mut warnings = Vec::new();
        if header.log_guid == 0 {
            return Ok((Self { file, patches: Patches::default(), size }, warnings));
        }
        if header.log_len > log::MOST {
            let reason = format!("it has {} bytes", header.log_len);
            return Err(Error::unsupported("replaying the VHDX log", reason).at(header.log_offset));
        }
        let raw = read_vec(&file, header.log_offset, header.log_len as usize)?;
        let replay = log::replay(&raw, header.log_guid, size)?;
        warnings.push(match replay.entries {
            0 => "it was not closed cleanly; its log has no complete entry, so that nothing was replayed"
                .into(),
            entries => {
                format!("it was not closed cleanly; {entries} entries of its log were replayed in memory")
            }
        });
        Ok((Self { file, patches: replay.patches, size: replay.end }, warnings))
    }
}

impl BlockSource for Replayed {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let (patch, end) = self.patches.at(at);
            let (now, later) =
                rest.split_at_mut(end.saturating_sub(at).min(rest.len() as u64).max(1) as usize);
            match patch {
                Some((_, Content::Zeros)) => now.fill(0),
                Some((start, Content::Page(page))) => {
                    let from = (at - start) as usize;
                    let have = page.get(from..from + now.len());
                    now.copy_from_slice(
                        have.ok_or_else(|| Error::malformed("reading a page of the log", "it is short"))?,
                    );
                }
                None => {
                    let present = self.file.size().saturating_sub(at).min(now.len() as u64) as usize;
                    let (present, beyond) = now.split_at_mut(present);
                    beyond.fill(0);
                    if !present.is_empty() {
                        self.file.read_at(present, at)?;
                    }
                }
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let (patch, end) = self.patches.at(offset);
        let len = len.min(end.saturating_sub(offset)).max(1);
        let state = match patch {
            Some((_, Content::Zeros)) => State::Zero,
            Some((_, Content::Page(_))) => State::Data,
            None if offset >= self.file.size() => State::Zero,
            None => return self.file.extent_at(offset, len.min(self.file.size() - offset)),
        };
        Ok(Extent { offset, len, state })
    }
}
