// SPDX-License-Identifier: Apache-2.0
//! What formats with one map from block to place share: reading through the map, and extents out of it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::parse::read_vec;
use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result, State};

/// Where a range of the disk lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it reads as zeros.
    Zero,
    /// Its bytes, from this byte of the file on.
    Plain(u64),
    /// Encoded, together with the rest of its block; what begins at this byte of the file.
    Packed(u64),
}

/// A format's map from the disk to its file.
pub(super) trait BlockMap: Send + Sync {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// What holds the blocks.
    fn file(&self) -> &dyn BlockSource;

    /// Where byte `at` of the disk lies, and for how many bytes from it on that holds: never 0, and for a packed
    /// block up to the block's end.
    fn place(&self, at: u64) -> Result<(Place, u64)>;

    /// Fills `out` with what is at byte `at` of the disk, out of the packed block at `place` of the file.
    fn unpack(&self, place: u64, at: u64, out: &mut [u8]) -> Result<()> {
        let _ = (at, out);
        Err(Error::malformed("reading a block", "this format packs nothing").at(place))
    }
}

/// [`BlockSource::read_at`] of a map.
pub(super) fn read(map: &impl BlockMap, buf: &mut [u8], offset: u64) -> Result<()> {
    check_range(map.size(), offset, buf.len())?;
    let mut at = offset;
    let mut rest = buf;
    while !rest.is_empty() {
        let (place, mut len) = map.place(at)?;
        // Blocks that follow each other in the file are one read.
        while len < rest.len() as u64
            && let Ok((next, more)) = map.place(at + len)
            && follows(place, len, next)
        {
            len += more;
        }
        let (now, later) = rest.split_at_mut(len.min(rest.len() as u64) as usize);
        match place {
            Place::Zero => now.fill(0),
            Place::Plain(place) => map.file().read_at(now, place)?,
            Place::Packed(place) => map.unpack(place, at, now)?,
        }
        at += now.len() as u64;
        rest = later;
    }
    Ok(())
}

/// [`BlockSource::extent_at`] of a map. What the file itself knows to be zero inside plain blocks is zero, too.
pub(super) fn extent(map: &impl BlockMap, offset: u64, len: u64) -> Result<Extent> {
    let end = offset.saturating_add(len).min(map.size());
    let mut found: Option<Extent> = None;
    let mut at = offset;
    while at < end {
        let (place, mut len) = match (map.place(at), &found) {
            (Ok(answer), _) => answer,
            // What is already known stays true; the error comes when somebody asks for what lies behind it.
            (Err(_), Some(_)) => break,
            (Err(error), None) => return Err(error),
        };
        len = len.min(end - at);
        let state = match place {
            Place::Zero => State::Zero,
            Place::Packed(_) => State::Data,
            Place::Plain(place) => {
                let inner = map.file().extent_at(place, len)?;
                len = inner.len.clamp(1, len);
                inner.state
            }
        };
        match &mut found {
            None => found = Some(Extent { offset, len, state }),
            Some(extent) if extent.state == state => extent.len += len,
            Some(_) => break,
        }
        at += len;
    }
    found.ok_or_else(|| Error::malformed("mapping an image", "an address beyond its end").at(offset))
}

fn follows(place: Place, len: u64, next: Place) -> bool {
    match (place, next) {
        (Place::Zero, Place::Zero) => true,
        (Place::Plain(place), Place::Plain(next)) => place.checked_add(len) == Some(next),
        _ => false,
    }
}

/// Bytes of a table that are read at a time.
const PAGE: u64 = 64 << 10;
/// Pages of one table that are kept.
const PAGES: usize = 64;

/// Pieces of a file that were read lately, by their place: a table may be larger than memory.
pub(super) struct Pages {
    most: usize,
    /// Most recently used last.
    kept: Mutex<Vec<(u64, Arc<[u8]>)>>,
}

impl Pages {
    /// Keeps at most `most` pieces.
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// The piece at `place`, which `make` brings if it is not here.
    pub(super) fn get(&self, place: u64, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Arc<[u8]>> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = kept();
            if let Some(index) = kept.iter().rposition(|(have, _)| *have == place) {
                let hit = kept.remove(index);
                let page = Arc::clone(&hit.1);
                kept.push(hit);
                return Ok(page);
            }
        }
        // Two threads may both bring it; neither keeps the others waiting.
        let page: Arc<[u8]> = make()?.into();
        let mut kept = kept();
        if kept.len() >= self.most {
            kept.remove(0);
        }
        kept.push((place, Arc::clone(&page)));
        Ok(page)
    }
}

/// A table in a file.
pub(super) struct Table {
    start: u64,
    len: u64,
    what: &'static str,
    pages: Pages,
}

impl Table {
    /// `len` bytes of `file` from `start` on. `what` names it in errors: "the grain directory".
    pub(super) fn new(file: &dyn BlockSource, start: u64, len: u64, what: &'static str) -> Result<Self> {
        match start.checked_add(len) {
            Some(end) if end <= file.size() => Ok(Self { start, len, what, pages: Pages::new(PAGES) }),
            _ => Err(Error::malformed(
                format!("reading {what}"),
                format!(
                    "it would end behind the file's {} bytes: the file is damaged or cut short",
                    file.size()
                ),
            )
            .at(start)),
        }
    }

    /// Little-endian entry number `index`.
    pub(super) fn u32_le(&self, file: &dyn BlockSource, index: u64) -> Result<u32> {
        self.entry(file, index).map(u32::from_le_bytes)
    }

    /// Big-endian entry number `index`.
    pub(super) fn u32_be(&self, file: &dyn BlockSource, index: u64) -> Result<u32> {
        self.entry(file, index).map(u32::from_be_bytes)
    }

    /// Little-endian entry number `index` of 8 bytes.
    pub(super) fn u64_le(&self, file: &dyn BlockSource, index: u64) -> Result<u64> {
        self.entry(file, index).map(u64::from_le_bytes)
    }

    fn entry<const N: usize>(&self, file: &dyn BlockSource, index: u64) -> Result<[u8; N]> {
        let bad = || Error::malformed(format!("reading {}", self.what), format!("it has no entry {index}"));
        let at = index.checked_mul(N as u64).filter(|at| *at < self.len).ok_or_else(bad)?;
        let from = at / PAGE * PAGE;
        let len = (self.len - from).min(PAGE) as usize;
        let page = self.pages.get(from, || read_vec(file, self.start + from, len))?;
        page.get((at - from) as usize..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(bad)
    }
}
