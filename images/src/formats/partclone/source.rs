// SPDX-License-Identifier: Apache-2.0
//! An image as a partition: its used blocks out of the stream, zeros elsewhere.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Parts;
use super::blocks::Blocks;
use super::header::{Header, fill};
use super::sum::Sum;
use crate::source::check_range;
use crate::{BlockSource, Error, ErrorKind, Extent, Result, State};

/// Bytes that are unpacked at a time.
const PIECE: u64 = 256 << 10;
/// Unpacked bytes that are kept until somebody has read them: more than a copy's threads are apart.
const WINDOW: u64 = 48 << 20;

/// Where the stream comes from, each time anew.
pub(super) type Open = Box<dyn Fn() -> Result<Box<dyn Read + Send>> + Send + Sync>;

/// An image opened for reading.
///
/// Whoever reads all of it in order passes the stream once. Each checksum is compared as it is passed.
pub struct PartcloneSource {
    header: Header,
    blocks: Blocks,
    open: Open,
    state: Mutex<Reading>,
}

#[derive(Default)]
struct Reading {
    stream: Option<Stream>,
    window: VecDeque<Piece>,
    kept: u64,
}

/// Unpacked bytes. Addresses count the used blocks alone.
struct Piece {
    start: u64,
    bytes: Vec<u8>,
    /// Of them, not read yet.
    left: u64,
}

struct Stream {
    input: Box<dyn Read + Send>,
    /// Used blocks passed.
    next: u64,
    /// Of them, in the strip that is not complete.
    in_strip: u32,
    sum: Sum,
    /// Bytes between a checksum and the next block, of version 1's images that a 64-bit partclone wrote in 2011 or before;
    /// absent until it is known.
    padding: Option<usize>,
    /// Read ahead to find that out.
    ahead: VecDeque<u8>,
}

impl PartcloneSource {
    /// Opens the image.
    pub fn new(parts: Parts) -> Result<Self> {
        let parts = Arc::new(parts);
        Self::of(Box::new(move || parts.open()))
    }

    /// An image in memory.
    pub fn of_bytes(bytes: Vec<u8>) -> Result<Self> {
        let bytes: Arc<[u8]> = bytes.into();
        Self::of(Box::new(move || {
            super::unpack::unpack(Box::new(std::io::BufReader::new(std::io::Cursor::new(bytes.clone()))))
        }))
    }

    pub(super) fn of(open: Open) -> Result<Self> {
        let mut input = open()?;
        let (header, blocks) = Header::read(&mut *input)?;
        let stream = Stream::new(input, &header);
        let state = Reading { stream: Some(stream), ..Reading::default() };
        Ok(Self { header, blocks, open, state: Mutex::new(state) })
    }

    /// What the image says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of blocks that the image has.
    pub fn used_bytes(&self) -> u64 {
        self.blocks.used() * u64::from(self.header.block_size)
    }

    /// Begins anew, and keeps nothing of what was read: a copy follows.
    pub fn rewind(&self) {
        *self.state() = Reading::default();
    }

    fn state(&self) -> MutexGuard<'_, Reading> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn anew(&self) -> Result<Stream> {
        let mut input = (self.open)()?;
        Header::read(&mut *input)?;
        Ok(Stream::new(input, &self.header))
    }

    /// Fills `out` from byte `at` of the used blocks.
    fn packed(&self, out: &mut [u8], at: u64) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        let (mut at, mut rest) = (at, out);
        while !rest.is_empty() {
            if let Some(read) = state.take(at, rest) {
                let (_, later) = rest.split_at_mut(read.min(rest.len()));
                rest = later;
                at += read as u64;
                continue;
            }
            let mut stream = match state.stream.take() {
                Some(stream) if stream.next * u64::from(self.header.block_size) <= at => stream,
                _ => {
                    state.window.clear();
                    state.kept = 0;
                    self.anew()?
                }
            };
            // On a failure there is no stream: who tries again begins anew.
            let piece = stream.piece(&self.header, self.blocks.used())?;
            state.stream = Some(stream);
            state.keep(piece);
        }
        Ok(())
    }
}

impl Reading {
    /// Copies what the window has at byte `at`.
    fn take(&mut self, at: u64, out: &mut [u8]) -> Option<usize> {
        let next = self.window.partition_point(|piece| piece.start <= at);
        let index = next.checked_sub(1)?;
        let piece = self.window.get_mut(index)?;
        let from = usize::try_from(at - piece.start).ok()?;
        let part = piece.bytes.get(from..).filter(|part| !part.is_empty())?;
        let len = part.len().min(out.len());
        out.get_mut(..len)?.copy_from_slice(part.get(..len)?);
        piece.left = piece.left.saturating_sub(len as u64);
        if piece.left == 0 {
            self.kept -= piece.bytes.len() as u64;
            self.window.remove(index);
        }
        Some(len)
    }

    fn keep(&mut self, piece: Piece) {
        self.kept += piece.bytes.len() as u64;
        self.window.push_back(piece);
        while self.kept > WINDOW
            && let Some(oldest) = self.window.pop_front()
        {
            self.kept -= oldest.bytes.len() as u64;
        }
    }
}

impl Stream {
    fn new(input: Box<dyn Read + Send>, header: &Header) -> Self {
        let padding = if header.version == 1 { None } else { Some(0) };
        Self { input, next: 0, in_strip: 0, sum: Sum::new(header.sum), padding, ahead: VecDeque::new() }
    }

    /// The next blocks: some of one strip.
    fn piece(&mut self, header: &Header, used: u64) -> Result<Piece> {
        let block = u64::from(header.block_size);
        let whole = match header.strip {
            0 => u64::MAX,
            strip => u64::from(strip - self.in_strip),
        };
        let left = used.saturating_sub(self.next);
        let count = (PIECE / block).max(1).min(whole).min(left);
        if count == 0 {
            return Err(Error::malformed("reading a partclone image", "it has no more blocks"));
        }
        let mut bytes = vec![0; (count * block) as usize];
        self.fill(&mut bytes, "the blocks")?;
        self.sum.update(&bytes, header.block_size as usize);
        let start = self.next * block;
        self.next += count;
        self.in_strip += count as u32;
        // The last strip's checksum stands there whether it is whole or not.
        if header.strip != 0 && (self.in_strip == header.strip || self.next == used) {
            self.check(header, used).map_err(|error| error.at(start))?;
        }
        Ok(Piece { start, left: bytes.len() as u64, bytes })
    }

    fn check(&mut self, header: &Header, used: u64) -> Result<()> {
        let want = self.sum.bytes();
        let mut have = vec![0; want.len()];
        self.fill(&mut have, "a checksum")?;
        if have != want {
            return Err(Error::new(ErrorKind::Mismatch, "reading a partclone image")
                .because("a checksum is not that of its blocks: the image is damaged"));
        }
        self.in_strip = 0;
        if header.reseed {
            self.sum = Sum::new(header.sum);
        }
        if self.next == used {
            return Ok(());
        }
        let padding = match self.padding {
            Some(padding) => padding,
            None => self.find_padding(header)?,
        };
        let mut skipped = [0; 4];
        self.fill(skipped.get_mut(..padding).unwrap_or_default(), "a checksum")
    }

    /// Whether checksums of 4 bytes take 8: only then is the next checksum right.
    fn find_padding(&mut self, header: &Header) -> Result<usize> {
        let block = header.block_size as usize;
        let mut next = vec![0; block + 12];
        let mut have = 0;
        while let Some(room) = next.get_mut(have..).filter(|room| !room.is_empty()) {
            match self.input.read(room) {
                Ok(0) => break,
                Ok(read) => have += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading the blocks of a partclone image", error)),
            }
        }
        next.truncate(have);
        let fits = |padding: usize| {
            let data = next.get(padding..padding + block)?;
            let mut sum = self.sum.clone();
            sum.update(data, block);
            Some(next.get(padding + block..padding + block + 4)? == sum.bytes())
        };
        let padding = if fits(0) != Some(true) && fits(4) == Some(true) { 4 } else { 0 };
        self.ahead.extend(next);
        self.padding = Some(padding);
        Ok(padding)
    }

    fn fill(&mut self, buf: &mut [u8], what: &'static str) -> Result<()> {
        let from_ahead = self.ahead.len().min(buf.len());
        let (first, rest) = buf.split_at_mut(from_ahead);
        first.iter_mut().zip(self.ahead.drain(..from_ahead)).for_each(|(byte, have)| *byte = have);
        fill(&mut *self.input, rest, what)
    }
}

impl BlockSource for PartcloneSource {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let block = u64::from(self.header.block_size);
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let within = at % block;
            let (place, count) = self.blocks.at(at / block);
            // Behind the last block nothing is used.
            let len = count.saturating_mul(block).saturating_sub(within);
            let len = if len == 0 { rest.len() as u64 } else { len.min(rest.len() as u64) };
            let (now, later) = rest.split_at_mut(len as usize);
            match place {
                Some(place) => self.packed(now, place * block + within)?,
                None => now.fill(0),
            }
            at += len;
            rest = later;
        }
        Ok(())
    }

    /// What is not in the image is [`State::Zero`].
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let block = u64::from(self.header.block_size);
        let (place, count) = self.blocks.at(offset / block);
        let run = count.saturating_mul(block).saturating_sub(offset % block);
        let run = if run == 0 { len } else { run.min(len) };
        Ok(Extent { offset, len: run, state: if place.is_some() { State::Data } else { State::Zero } })
    }
}
