// SPDX-License-Identifier: Apache-2.0
//! The disk as it shall be: pieces of the image at their new places, new tables over them, zeros elsewhere.
//!
//! A restore decides nothing while it writes: it copies this view.

use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Extent, ExtentMap, RangeSet, Result, State};

/// A range of the image and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte on the target.
    pub to: u64,
    /// First byte in the image.
    pub from: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.to.saturating_add(self.len)
    }
}

/// Bytes that differ from the image's, such as a moved table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// First byte on the target.
    pub offset: u64,
    /// The new bytes.
    pub bytes: Vec<u8>,
    /// What it is, for people and the record: "GPT header".
    pub what: String,
}

impl Patch {
    /// First byte after it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes.len() as u64)
    }
}

/// The composed disk.
pub struct View<'a> {
    image: &'a dyn BlockSource,
    pieces: &'a [Piece],
    patches: &'a [Patch],
    size: u64,
    sector_size: u32,
}

impl<'a> View<'a> {
    /// `pieces` ascend by `to` and do not overlap; later patches win over earlier ones.
    pub fn new(
        image: &'a dyn BlockSource,
        pieces: &'a [Piece],
        patches: &'a [Patch],
        size: u64,
        sector_size: u32,
    ) -> Self {
        debug_assert!(pieces.windows(2).all(|pair| matches!(pair, [a, b] if a.end() <= b.to)));
        Self { image, pieces, patches, size, sector_size }
    }

    /// The state of every byte of the view: the image's own map moved, patches as data, the rest holes.
    ///
    /// `zeros` are ranges in which no old content may stay: holes there become zeros.
    pub fn extents(&self, image: &ExtentMap, zeros: &mut RangeSet) -> ExtentMap {
        let mut data = RangeSet::new();
        for piece in self.pieces {
            for extent in image.within(piece.from..piece.from.saturating_add(piece.len)) {
                let start = piece.to + (extent.offset - piece.from);
                match extent.state {
                    State::Data => data.insert(start..start + extent.len),
                    State::Zero => zeros.insert(start..start + extent.len),
                    State::Hole => {}
                }
            }
        }
        for patch in self.patches {
            data.insert(patch.offset..patch.end());
        }
        data.truncate(self.size);
        ExtentMap::from_data(self.size, &mut data, State::Hole).zero_holes(zeros)
    }
}

impl BlockSource for View<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let end = offset + buf.len() as u64;
        let first = self.pieces.partition_point(|piece| piece.end() <= offset);
        let mut at = offset;
        for piece in self.pieces.iter().skip(first).take_while(|piece| piece.to < end) {
            let (from, to) = (piece.to.max(offset), piece.end().min(end));
            fill(buf, offset, at, from);
            if let Some(part) = buf.get_mut((from - offset) as usize..(to - offset) as usize) {
                self.image.read_at(part, piece.from + (from - piece.to))?;
            }
            at = to;
        }
        fill(buf, offset, at, end);
        for patch in self.patches {
            let (from, to) = (patch.offset.max(offset), patch.end().min(end));
            if from >= to {
                continue;
            }
            let part = buf.get_mut((from - offset) as usize..(to - offset) as usize);
            let bytes = patch.bytes.get((from - patch.offset) as usize..(to - patch.offset) as usize);
            if let (Some(part), Some(bytes)) = (part, bytes) {
                part.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let end = offset.saturating_add(len).min(self.size);
        let mut next = end;
        for patch in self.patches {
            if patch.offset <= offset && offset < patch.end() {
                return Ok(Extent { offset, len: patch.end().min(end) - offset, state: State::Data });
            }
            if patch.offset > offset {
                next = next.min(patch.offset);
            }
        }
        let index = self.pieces.partition_point(|piece| piece.end() <= offset);
        match self.pieces.get(index) {
            Some(piece) if piece.to <= offset => {
                let stop = next.min(piece.end());
                let inner = self.image.extent_at(piece.from + (offset - piece.to), stop - offset)?;
                Ok(Extent { offset, len: inner.len.min(stop - offset), state: inner.state })
            }
            Some(piece) => Ok(Extent { offset, len: next.min(piece.to) - offset, state: State::Zero }),
            None => Ok(Extent { offset, len: next - offset, state: State::Zero }),
        }
    }

    fn abort(&self) {
        self.image.abort();
    }
}

/// Zeros the part of `buf` (which begins at disk address `base`) that stands for `from..to`.
fn fill(buf: &mut [u8], base: u64, from: u64, to: u64) {
    if from < to
        && let Some(part) = buf.get_mut((from - base) as usize..(to - base) as usize)
    {
        part.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unmoor_images::adapt::Memory;

    #[test]
    fn a_view_is_its_pieces_patches_and_zeros_at_any_cut() {
        let image = Memory::new((0..200u8).collect());
        let pieces = [Piece { to: 0, from: 0, len: 50 }, Piece { to: 120, from: 60, len: 40 }];
        let patches = [Patch { offset: 45, bytes: vec![0xEE; 10], what: "table".into() }];
        let view = View::new(&image, &pieces, &patches, 300, 512);
        let mut want = vec![0u8; 300];
        want[..50].copy_from_slice(&(0..50).collect::<Vec<u8>>());
        want[120..160].copy_from_slice(&(60..100).collect::<Vec<u8>>());
        want[45..55].fill(0xEE);
        for start in (0..300).step_by(7) {
            for end in (start..=300).step_by(11) {
                let mut got = vec![1; end - start];
                view.read_at(&mut got, start as u64).unwrap();
                assert_eq!(got, want[start..end]);
            }
        }
        let mut at = 0;
        while at < 300 {
            let extent = view.extent_at(at, 300 - at).unwrap();
            assert!(extent.len > 0 && extent.end() <= 300);
            let zero = want[at as usize..extent.end() as usize].iter().all(|&byte| byte == 0);
            assert!(extent.state == State::Data || zero);
            at = extent.end();
        }
    }

    #[test]
    fn the_map_of_a_view_follows_its_pieces() {
        let image = Memory::new(vec![1; 200]);
        let mut used = RangeSet::of(10..20);
        used.insert(70..80);
        let map = ExtentMap::from_data(200, &mut used, State::Hole);
        let pieces = [Piece { to: 0, from: 0, len: 50 }, Piece { to: 120, from: 60, len: 40 }];
        let patches = [Patch { offset: 45, bytes: vec![0xEE; 10], what: "table".into() }];
        let view = View::new(&image, &pieces, &patches, 300, 512);
        let map = view.extents(&map, &mut RangeSet::of(290..300));
        let data: Vec<_> = map.iter().filter(|e| e.state == State::Data).map(|e| (e.offset, e.len)).collect();
        assert_eq!(data, [(10, 10), (45, 10), (130, 10)]);
        assert_eq!(map.bytes(State::Zero), 10);
    }
}
