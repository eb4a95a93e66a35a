// SPDX-License-Identifier: Apache-2.0
//! What changes an overlay: writes, zeros, discards.

use std::ops::Range;

use unmoor_images::source::check_range;
use unmoor_images::{Error, Result};

use super::Overlay;
use super::bitmap::GRANULE;
use crate::disk::Zeroes;

/// Zeros that are written at a time where the filesystem cannot make them.
const ZEROS: usize = 1 << 20;

impl Overlay<'_> {
    /// Writes `data` at byte `offset`, filling what it leaves of its first and last granule from the image.
    pub(super) fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, data.len())?;
        let end = offset + data.len() as u64;
        if data.is_empty() {
            return Ok(());
        }
        self.flushes.check()?;
        if self.bits().covers(offset..end) {
            // Bits are never cleared, so that nobody else looks at these bytes through the image: no lock.
            self.put(data, offset)?;
            self.flushes.written();
            return Ok(());
        }
        let _locks = self.lock_regions(offset, data.len() as u64);
        let mut rest = data;
        let mut at = offset;
        while at < end {
            // Up to a granule's border where a granule is written in part; else all whole granules at once.
            let granule = at - at % GRANULE;
            let whole = (end - end % GRANULE).max(granule);
            let to = match at == granule && whole > at {
                true => whole,
                false => (granule + GRANULE).min(end),
            };
            let (piece, after) = rest.split_at((to - at) as usize);
            self.put_filled(piece, at)?;
            (at, rest) = (to, after);
        }
        self.bits_mut().set(offset..end);
        self.flushes.written();
        Ok(())
    }

    /// Writes whole granules, or a part of one, which is filled from the image if it is not present.
    fn put_filled(&self, piece: &[u8], at: u64) -> Result<()> {
        let granule = at - at % GRANULE;
        let len = GRANULE.min(self.size - granule);
        let is_whole = at == granule && piece.len() as u64 >= len;
        if is_whole || self.bits().covers(granule..granule + len) {
            return self.put(piece, at);
        }
        let mut filled = vec![0; len as usize];
        self.image()?.read_at(&mut filled, granule)?;
        let from = (at - granule) as usize;
        if let Some(room) = filled.get_mut(from..from + piece.len()) {
            room.copy_from_slice(piece);
        }
        self.put(&filled, granule)
    }

    pub(super) fn put(&self, data: &[u8], offset: u64) -> Result<()> {
        self.data.write_at(data, offset).map_err(|error| Error::io("writing the overlay", error).at(offset))
    }

    /// Makes a range read as zeros.
    pub(super) fn zero(&self, offset: u64, len: u64, how: Zeroes) -> Result<()> {
        let (head, whole, tail) = self.granules(offset, len)?;
        if whole.start < whole.end {
            self.flushes.check()?;
            let _locks = self.lock_regions(whole.start, whole.end - whole.start);
            match self.data.zero(whole.start, whole.end - whole.start, how.allocated) {
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                    if how.fast {
                        return Err(Error::unsupported(
                            "zeroing a range",
                            "the filesystem cannot do it fast",
                        ));
                    }
                    self.put_zeros(whole.start, whole.end)?;
                }
                other => {
                    other.map_err(|error| Error::io("zeroing the overlay", error).at(whole.start))?;
                }
            }
            self.bits_mut().set(whole);
            self.flushes.written();
        }
        for part in [head, tail] {
            let zeros = [0; GRANULE as usize];
            self.write(zeros.get(..(part.end - part.start) as usize).unwrap_or(&[]), part.start)?;
        }
        Ok(())
    }

    fn put_zeros(&self, mut at: u64, end: u64) -> Result<()> {
        let zeros = vec![0; ZEROS];
        while at < end {
            let len = (end - at).min(ZEROS as u64);
            self.put(zeros.get(..len as usize).unwrap_or(&[]), at)?;
            at += len;
        }
        Ok(())
    }

    /// Frees the whole granules of a range, which read as zeros afterwards; the image is not asked for them any more.
    pub(super) fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let (_, whole, _) = self.granules(offset, len)?;
        let result = self.zero(whole.start, whole.end - whole.start, Zeroes { allocated: false, fast: true });
        match result {
            // It is a hint: where the filesystem cannot, nothing is freed.
            Err(error) if error.kind() == unmoor_images::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    /// A range as a part of a granule, whole granules, and a part of a granule, all of which may be empty.
    fn granules(&self, offset: u64, len: u64) -> Result<(Range<u64>, Range<u64>, Range<u64>)> {
        let end = match offset.checked_add(len) {
            Some(end) if end <= self.size => end,
            _ => return Err(Error::malformed("zeroing a range", "it ends behind the disk").at(offset)),
        };
        let first = offset.next_multiple_of(GRANULE).min(end);
        // The disk's last granule may be cut short and is whole all the same.
        let last = if end == self.size { end } else { (end - end % GRANULE).max(first) };
        Ok((offset..first, first..last, last..end))
    }
}
