// SPDX-License-Identifier: Apache-2.0
//! A disk of a stored image, read at any address: chunks fetched, checked against their hashes, and kept for small reads. For who
//! reads from front to back, `ahead.rs` has them there already.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ahead::{Ahead, Chunks};
use super::encode::decode;
use super::near::{Reach, together};
use super::pack::Codec;
use super::packed::PackedLeaf;
use super::reader::{Place, Places};
use super::seal::Kind;
use crate::manifest::hex;
use crate::merkle::{self, Hash, Leaves};
use crate::source::check_range;
use crate::{BlockSource, Error, ErrorKind, Extent, LEAF, Result, State};

/// Chunks that are kept for small reads: 16 MiB.
const KEPT: usize = 64;
/// What is read at a time.
const REACH: Reach = Reach { gap: 64 << 10, most: 4 << 20 };

/// A disk.
pub struct StoreSource {
    chunks: Arc<Chunks>,
    ahead: Ahead,
    sector_size: u32,
    /// The latest used last.
    kept: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

/// A leaf that is wanted, and the part of the caller's buffer that it fills.
struct Want<'a> {
    index: u64,
    hash: Hash,
    place: Place,
    out: &'a mut [u8],
}

impl StoreSource {
    pub(super) fn new(places: Arc<Places>, leaves: Leaves, sector_size: u32) -> Self {
        let chunks = Arc::new(Chunks { places, leaves });
        Self { ahead: Ahead::new(chunks.clone()), chunks, sector_size, kept: Mutex::default() }
    }

    fn places(&self) -> &Places {
        &self.chunks.places
    }

    fn leaves(&self) -> &Leaves {
        &self.chunks.leaves
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<Vec<u8>>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes_of(&self, leaf: u64) -> Range<u64> {
        leaf * LEAF..((leaf + 1) * LEAF).min(self.leaves().size())
    }

    fn place(&self, leaf: u64, hash: &Hash) -> Result<Place> {
        let id = self.places().store().seal().id(hash);
        let place = self.places().place(&id).copied().ok_or_else(|| {
            Error::new(ErrorKind::Mismatch, format!("looking for the chunk {}", hex(&id)))
                .at(leaf * LEAF)
                .because("no pack has it: packs were lost or damaged")
        })?;
        let bytes = self.bytes_of(leaf);
        if u64::from(place.raw) != bytes.end - bytes.start {
            return Err(Error::malformed(
                format!("reading the chunk {}", hex(&id)),
                "it has another length than its leaf",
            ));
        }
        Ok(place)
    }

    /// A whole leaf, from those that are kept or from its pack.
    fn leaf(&self, index: u64, hash: &Hash) -> Result<Arc<Vec<u8>>> {
        {
            let mut kept = self.kept();
            if let Some(at) = kept.iter().position(|(leaf, _)| *leaf == index)
                && let Some(found) = kept.remove(at)
            {
                kept.push_back(found.clone());
                return Ok(found.1);
            }
        }
        let place = self.place(index, hash)?;
        let mut data = vec![0; place.raw as usize];
        self.fetch(&mut vec![Want { index, hash: *hash, place, out: &mut data }])?;
        let data = Arc::new(data);
        let mut kept = self.kept();
        kept.push_back((index, data.clone()));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(data)
    }

    /// Fetches leaves: what was read ahead, and else those that lie together in a pack by one read.
    fn fetch(&self, wants: &mut Vec<Want<'_>>) -> Result<()> {
        wants.retain_mut(|want| match self.ahead.take(want.index) {
            None => true,
            Some(fetched) => {
                let right = self.unpack(want, fetched.stored()).is_ok();
                self.ahead.give(fetched);
                !right
            }
        });
        wants.sort_unstable_by_key(|want| (want.place.pack, want.place.at));
        for (members, range) in together(wants, REACH, |want| want.place.span()) {
            self.fetch_together(wants.get_mut(members).unwrap_or_default(), range)?;
        }
        Ok(())
    }

    /// Unpacks a chunk into its place and compares its hash.
    fn unpack(&self, want: &mut Want<'_>, stored: &[u8]) -> Result<()> {
        let seal = self.places().store().seal();
        decode(seal, &want.place.entry(seal.id(&want.hash)), stored, want.out)?;
        if merkle::leaf(want.out) == want.hash {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Mismatch, "unpacking a chunk")
            .because("its hash is not that of its content"))
    }

    fn fetch_together(&self, wants: &mut [Want<'_>], range: Range<u64>) -> Result<()> {
        let Some(first) = wants.first() else { return Ok(()) };
        let pack = self.places().pack(&first.place).to_owned();
        let store = self.places().store();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = store.backend().read(&pack, &mut bytes, range.start);
        for want in wants {
            let from = (u64::from(want.place.at) - range.start) as usize;
            let stored = bytes.get(from..from + want.place.stored as usize).unwrap_or_default();
            if read.is_err() || self.unpack(want, stored).is_err() {
                self.fetch_again(want, &pack)?;
            }
        }
        Ok(())
    }

    /// Hands the leaves `range` that are not zeros to `each`, every content once, in no order, compressed as they are stored: whoever
    /// gets them compares their hashes. With `checked` they are compared here, as they are for reads, and come unpacked: so a damaged
    /// copy is found, and another one taken in its place.
    ///
    /// # Errors
    ///
    /// As reading; and those of `each`.
    pub fn packed(
        &self,
        range: Range<u64>,
        checked: bool,
        each: &mut dyn FnMut(PackedLeaf<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut wants: Vec<(u64, Hash, Place)> = Vec::new();
        let mut seen: HashSet<Hash> = HashSet::new();
        for (first, count, hash) in self.leaves().runs_within(range) {
            for index in first..first.saturating_add(count) {
                if !self.chunks.is_zero(index, &hash) && seen.insert(hash) {
                    wants.push((index, hash, self.place(index, &hash)?));
                }
            }
        }
        wants.sort_unstable_by_key(|(_, _, place)| (place.pack, place.at));
        let seal = self.places().store().seal();
        let mut bytes = Vec::new();
        for (members, range) in together(&wants, REACH, |(.., place)| place.span()) {
            let members = wants.get(members).unwrap_or_default();
            let Some((_, _, first)) = members.first() else { continue };
            bytes.resize((range.end - range.start) as usize, 0);
            let pack = self.places().pack(first);
            let read =
                !checked && self.places().store().backend().read(pack, &mut bytes, range.start).is_ok();
            for (index, hash, place) in members {
                let from = (u64::from(place.at) - range.start) as usize;
                let stored = bytes.get(from..from + place.stored as usize).filter(|_| read);
                let opened = stored.and_then(|stored| seal.open(Kind::Chunk, &seal.id(hash), stored).ok());
                match opened {
                    Some(opened) => {
                        each(PackedLeaf { hash: *hash, raw: place.raw, codec: place.codec, bytes: &opened })?;
                    }
                    None => {
                        let leaf = self.leaf(*index, hash)?;
                        each(PackedLeaf { hash: *hash, raw: place.raw, codec: Codec::Plain, bytes: &leaf })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What came over a network may have been damaged on its way: once more, alone. Then from another pack, if one has it.
    fn fetch_again(&self, want: &mut Want<'_>, pack: &str) -> Result<()> {
        let store = self.places().store();
        let id = store.seal().id(&want.hash);
        let mut stored = vec![0; want.place.stored as usize];
        let read = store.backend().read(pack, &mut stored, want.place.at.into());
        let Err(error) = read.and_then(|()| self.unpack(want, &stored)) else { return Ok(()) };
        if self.places().read_elsewhere(&id, pack, want.out)? {
            return Ok(());
        }
        let doing = format!("reading the chunk {} from {pack}", hex(&id));
        Err(Error::new(error.kind(), doing).at(want.index * LEAF).source(error))
    }
}

impl BlockSource for StoreSource {
    fn size(&self) -> u64 {
        self.leaves().size()
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let end = offset + buf.len() as u64;
        if buf.is_empty() {
            return Ok(());
        }
        self.ahead.reading(&(offset / LEAF..end.div_ceil(LEAF)));
        let mut wants: Vec<Want<'_>> = Vec::new();
        let mut rest = buf;
        let mut at = offset;
        let mut runs = self.leaves().runs_within(offset / LEAF..end.div_ceil(LEAF));
        let mut run = runs.next();
        while at < end {
            let index = at / LEAF;
            while run.is_some_and(|(first, count, _)| first + count <= index) {
                run = runs.next();
            }
            let hash = run.map(|(_, _, hash)| hash).unwrap_or_else(|| merkle::zero_leaf(LEAF));
            let leaf = self.bytes_of(index);
            let to = leaf.end.min(end);
            let (out, later) = rest.split_at_mut(((to - at) as usize).min(rest.len()));
            rest = later;
            if hash == merkle::zero_leaf(leaf.end - leaf.start) {
                out.fill(0);
            } else if at == leaf.start && to == leaf.end {
                let place = self.place(index, &hash)?;
                wants.push(Want { index, hash, place, out });
            } else {
                let data = self.leaf(index, &hash)?;
                let from = (at - leaf.start) as usize;
                if let Some(part) = data.get(from..from + out.len()) {
                    out.copy_from_slice(part);
                }
            }
            at = to;
        }
        self.fetch(&mut wants)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let end = offset.saturating_add(len).min(self.size());
        let mut found: Option<Extent> = None;
        for (first, count, hash) in self.leaves().runs_within(offset / LEAF..end.div_ceil(LEAF)) {
            let (start, stop) = (first * LEAF, ((first + count) * LEAF).min(self.size()));
            let zero = hash == merkle::zero_leaf((stop - start).min(LEAF));
            let state = if zero { State::Zero } else { State::Data };
            let to = stop.min(end);
            match &mut found {
                None => found = Some(Extent { offset, len: to - offset, state }),
                Some(extent) if extent.state == state => extent.len = to - offset,
                Some(_) => break,
            }
        }
        Ok(found.unwrap_or(Extent { offset, len, state: State::Data }))
    }
}
