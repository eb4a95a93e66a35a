// SPDX-License-Identifier: Apache-2.0
//! A qcow2 image as a disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::codec::{Compressed, Decoder};
use super::header::{Codec, Header};
use super::table::{Mapping, Tables};
use crate::source::check_range;
use crate::{BlockSource, Error, Extent, Result, State};

/// An open file and its length when it was opened.
pub(super) struct ImageFile {
    pub(super) file: File,
    pub(super) len: u64,
}

/// Bytes of a request that are mapped before they are read.
const STEP: usize = 4 << 20;
/// Bytes of the file that one read fetches for several compressed clusters.
const FETCH: u64 = 1 << 20;
/// Unused bytes between two compressed clusters that are read along.
const FETCH_GAP: u64 = 64 << 10;
/// Bytes of decompressed clusters kept for small reads.
const DECODED: u64 = 4 << 20;

/// A part of a request with one mapping; `at..at + len` is its place in the buffer.
#[derive(Clone, Copy)]
struct Piece {
    mapping: Mapping,
    guest: u64,
    at: usize,
    len: usize,
}

type Decoded = (Compressed, Arc<[u8]>);

/// A qcow2 image opened for reading, with its backing chain.
pub struct Qcow2Source {
    image: ImageFile,
    size: u64,
    cluster: u64,
    codec: Codec,
    tables: Tables,
    /// Where plain clusters lie, if not in the image file.
    data_file: Option<ImageFile>,
    backing: Option<Box<dyn BlockSource>>,
    decoders: Mutex<Vec<Decoder>>,
    /// Least recently used first.
    decoded: Mutex<Vec<Decoded>>,
}

impl Qcow2Source {
    pub(super) fn new(
        header: &Header,
        image: ImageFile,
        data_file: Option<ImageFile>,
        backing: Option<Box<dyn BlockSource>>,
    ) -> Result<Self> {
        let tables = Tables::read(header, &image, data_file.as_ref().map_or(image.len, |file| file.len))?;
        Ok(Self {
            size: header.size,
            cluster: header.cluster(),
            codec: header.codec,
            tables,
            image,
            data_file,
            backing,
            decoders: Mutex::default(),
            decoded: Mutex::default(),
        })
    }

    fn read_pieces(&self, pieces: &[Piece], buf: &mut [u8]) -> Result<()> {
        let mut rest = pieces;
        while let Some((piece, later)) = rest.split_first() {
            let bad = || Error::malformed("reading a qcow2 image", "a mapping beyond the request");
            let end = piece.at.saturating_add(piece.len);
            let out = buf.get_mut(piece.at..end).ok_or_else(bad)?;
            rest = later;
            match piece.mapping {
                Mapping::Zero => out.fill(0),
                Mapping::Unallocated => self.read_backing(out, piece.guest)?,
                Mapping::Plain(offset) => self.read_plain(out, offset)?,
                Mapping::Compressed(place) if (piece.len as u64) < self.cluster => {
                    self.read_part(out, place, piece.guest % self.cluster)?;
                }
                Mapping::Compressed(_) => {
                    let run = self.compressed_run(piece, later);
                    rest = later.get(run..).unwrap_or_default();
                    self.read_run(&std::iter::once(piece).chain(later.iter().take(run)), buf)?;
                }
            }
        }
        Ok(())
    }

    /// How many of `later` are whole compressed clusters that lie close behind `first` in the file.
    fn compressed_run(&self, first: &Piece, later: &[Piece]) -> usize {
        let Mapping::Compressed(mut last) = first.mapping else { return 0 };
        let limit = last.offset.saturating_add(FETCH.max(self.cluster));
        later
            .iter()
            .take_while(|piece| match piece.mapping {
                Mapping::Compressed(next) if piece.len as u64 == self.cluster => {
                    let near = next.offset >= last.offset
                        && next.offset <= last.offset.saturating_add(last.len + FETCH_GAP)
                        && next.offset.saturating_add(next.len) <= limit;
                    last = next;
                    near
                }
                _ => false,
            })
            .count()
    }

    /// Decompresses whole clusters that one read fetches, each into its place in `buf`.
    fn read_run<'p>(&self, run: &(impl Iterator<Item = &'p Piece> + Clone), buf: &mut [u8]) -> Result<()> {
        let places = || {
            run.clone().filter_map(|piece| match piece.mapping {
                Mapping::Compressed(place) => Some((piece, place)),
                _ => None,
            })
        };
        let Some((_, first)) = places().next() else { return Ok(()) };
        let end = places().map(|(_, place)| place.offset.saturating_add(place.len)).max().unwrap_or(0);
        self.with_decoder(|decoder| {
            let mut input = std::mem::take(&mut decoder.input);
            self.fetch(&mut input, first.offset, end)?;
            for (piece, place) in places() {
                let from = ((place.offset - first.offset) as usize).min(input.len());
                let to = (from + place.len as usize).min(input.len());
                let out = buf.get_mut(piece.at..piece.at + piece.len).unwrap_or_default();
                let data = input.get(from..to).unwrap_or_default();
                decoder.decode(self.codec, data, out).map_err(|error| error.at(piece.guest))?;
            }
            decoder.input = input;
            Ok(())
        })
    }

    /// Reads compressed bytes; the last sector may be cut short by the file's end.
    fn fetch(&self, input: &mut Vec<u8>, from: u64, to: u64) -> Result<()> {
        let to = to.min(self.image.len);
        input.resize(to.saturating_sub(from) as usize, 0);
        self.image
            .file
            .read_exact_at(input, from)
            .map_err(|error| Error::io("reading compressed clusters", error).at(from))
    }

    fn with_decoder<T>(&self, work: impl FnOnce(&mut Decoder) -> Result<T>) -> Result<T> {
        let pool = || self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = pool().pop();
        let mut decoder = match pooled {
            Some(decoder) => decoder,
            None => Decoder::new()?,
        };
        let result = work(&mut decoder);
        pool().push(decoder);
        result
    }

    /// Part of a compressed cluster, through the cache of decompressed ones.
    fn read_part(&self, out: &mut [u8], place: Compressed, within: u64) -> Result<()> {
        let cache = || self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = {
            let mut cache = cache();
            cache.iter().position(|(have, _)| *have == place).map(|index| {
                let hit = cache.remove(index);
                cache.push((hit.0, Arc::clone(&hit.1)));
                hit.1
            })
        };
        let cluster = match kept {
            Some(cluster) => cluster,
            None => {
                let mut cluster = vec![0; self.cluster as usize];
                self.with_decoder(|decoder| {
                    let mut input = std::mem::take(&mut decoder.input);
                    self.fetch(&mut input, place.offset, place.offset.saturating_add(place.len))?;
                    let result = decoder.decode(self.codec, &input, &mut cluster);
                    decoder.input = input;
                    result.map_err(|error| error.at(place.offset))
                })?;
                let cluster: Arc<[u8]> = cluster.into();
                let mut cache = cache();
                if cache.len() as u64 >= (DECODED / self.cluster).clamp(2, 64) {
                    cache.remove(0);
                }
                cache.push((place, Arc::clone(&cluster)));
                cluster
            }
        };
        let from = within as usize;
        let part = cluster.get(from..from.saturating_add(out.len())).unwrap_or_default();
        if part.len() == out.len() {
            out.copy_from_slice(part);
        }
        Ok(())
    }

    fn read_plain(&self, out: &mut [u8], offset: u64) -> Result<()> {
        let from = self.data_file.as_ref().unwrap_or(&self.image);
        // QEMU does not write the unused rest of the file's last cluster: it reads as zeros.
        let present = (from.len.saturating_sub(offset)).min(out.len() as u64) as usize;
        let (present, absent) = out.split_at_mut(present);
        absent.fill(0);
        from.file
            .read_exact_at(present, offset)
            .map_err(|error| Error::io("reading a data cluster", error).at(offset))
    }

    fn read_backing(&self, out: &mut [u8], guest: u64) -> Result<()> {
        let Some(backing) = &self.backing else {
            out.fill(0);
            return Ok(());
        };
        let present = backing.size().saturating_sub(guest).min(out.len() as u64) as usize;
        let (present, beyond) = out.split_at_mut(present);
        beyond.fill(0);
        if present.is_empty() { Ok(()) } else { backing.read_at(present, guest) }
    }

    /// Does `next` simply go on where `last` ends?
    fn continues(last: Mapping, len: u64, next: Mapping) -> bool {
        match (last, next) {
            (Mapping::Zero, Mapping::Zero) | (Mapping::Unallocated, Mapping::Unallocated) => true,
            (Mapping::Plain(at), Mapping::Plain(next)) => at.checked_add(len) == Some(next),
            _ => false,
        }
    }
}

impl BlockSource for Qcow2Source {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let mut guest = offset;
        // Steps end on cluster boundaries, so that whole clusters stay whole.
        let mut rest = buf;
        let mut pieces: Vec<Piece> = Vec::new();
        while !rest.is_empty() {
            let cut = (guest + STEP as u64) / self.cluster * self.cluster;
            let len = (cut.saturating_sub(guest) as usize).clamp(1, rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
            rest = later;
            pieces.clear();
            self.tables.walk(&self.image, guest, guest + len as u64, |at, (mapping, len)| {
                match pieces.last_mut() {
                    Some(last) if Self::continues(last.mapping, last.len as u64, mapping) => {
                        last.len += len as usize;
                    }
                    _ => {
                        pieces.push(Piece {
                            mapping,
                            guest: at,
                            at: (at - guest) as usize,
                            len: len as usize,
                        });
                    }
                }
                Ok(true)
            })?;
            self.read_pieces(&pieces, now)?;
            guest += len as u64;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let end = offset.saturating_add(len).min(self.size);
        let mut found: Option<Extent> = None;
        self.tables.walk(&self.image, offset, end, |at, (mapping, len)| {
            let piece = match (mapping, &self.backing) {
                (Mapping::Unallocated, Some(backing)) if at < backing.size() => {
                    let below = backing.extent_at(at, len.min(backing.size() - at))?;
                    Extent { offset: at, len: below.len.min(len), state: below.state }
                }
                (Mapping::Zero | Mapping::Unallocated, _) => Extent { offset: at, len, state: State::Zero },
                _ => Extent { offset: at, len, state: State::Data },
            };
            let whole = piece.len == len;
            match &mut found {
                None => found = Some(piece),
                Some(extent) if extent.state == piece.state => extent.len += piece.len,
                Some(_) => return Ok(false),
            }
            Ok(whole)
        })?;
        found.ok_or_else(|| Error::malformed("mapping a qcow2 image", "an address beyond its end").at(offset))
    }

    fn abort(&self) {
        if let Some(backing) = &self.backing {
            backing.abort();
        }
    }
}
