// SPDX-License-Identifier: Apache-2.0
//! bzip2, read as a stream. The crate of that name carries a licence that is not among ours, and the format is small.
//!
//! ```text
//!   "BZh" level | block* | end magic, CRC of all blocks | padding to a byte | the next stream, or nothing
//!   block: magic, CRC, where the text begins | which bytes occur | 2-6 Huffman tables, which of them when | codes
//!   codes -> move to front, runs of the front -> inverse Burrows-Wheeler -> runs of four and more -> bytes
//! ```

use std::io::{Error, ErrorKind, Read, Result};

const BLOCK: u64 = 0x3141_5926_5359;
const END: u64 = 0x1772_4538_5090;
/// Codes that one selector rules.
const GROUP: usize = 50;
/// Longest code in bits.
const LONGEST: usize = 20;
/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

fn broken(because: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("bzip2: {because}"))
}

/// Bits, the highest of a byte first.
struct Bits<R> {
    input: R,
    piece: Vec<u8>,
    at: usize,
    held: u64,
    count: u32,
}

impl<R: Read> Bits<R> {
    /// The next byte; `None` at the end.
    fn byte(&mut self) -> Result<Option<u8>> {
        if self.at == self.piece.len() {
            self.piece.resize(PIECE, 0);
            let read = loop {
                match self.input.read(&mut self.piece) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            self.piece.truncate(read);
            self.at = 0;
        }
        let byte = self.piece.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        Ok(byte)
    }

    /// `count` bits, at most 32.
    fn take(&mut self, count: u32) -> Result<u32> {
        while self.count < count {
            let byte = self.byte()?.ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?;
            self.held = self.held << 8 | u64::from(byte);
            self.count += 8;
        }
        self.count -= count;
        let value = self.held >> self.count & ((1 << count) - 1);
        Ok(value as u32)
    }

    fn flag(&mut self) -> Result<bool> {
        Ok(self.take(1)? == 1)
    }

    fn magic(&mut self) -> Result<u64> {
        Ok(u64::from(self.take(24)?) << 24 | u64::from(self.take(24)?))
    }

    /// Drops what is left of the current byte.
    fn align(&mut self) {
        self.count -= self.count % 8;
    }
}

/// Codes of one table, by their length.
struct Codes {
    /// For each length: first code of that length, how many come before it, how many there are.
    lengths: [(u32, u32, u32); LONGEST + 1],
    /// Symbols by length, then by number.
    symbols: Vec<u16>,
}

impl Codes {
    fn new(lengths: &[u8]) -> Self {
        let mut found =
            Self { lengths: [(0, 0, 0); LONGEST + 1], symbols: Vec::with_capacity(lengths.len()) };
        let mut code = 0;
        for length in 1..=LONGEST {
            let before = found.symbols.len() as u32;
            let of_length = lengths.iter().zip(0u16..).filter(|(have, _)| usize::from(**have) == length);
            found.symbols.extend(of_length.map(|(_, symbol)| symbol));
            let count = found.symbols.len() as u32 - before;
            if let Some(entry) = found.lengths.get_mut(length) {
                *entry = (code, before, count);
            }
            code = (code + count) << 1;
        }
        found
    }

    fn read<R: Read>(&self, bits: &mut Bits<R>) -> Result<u16> {
        let mut code = 0;
        for (first, before, count) in self.lengths.iter().skip(1) {
            code = code << 1 | bits.take(1)?;
            if let Some(index) = code.checked_sub(*first).filter(|index| index < count) {
                return self
                    .symbols
                    .get((before + index) as usize)
                    .copied()
                    .ok_or_else(|| broken("no such code"));
            }
        }
        Err(broken("a code is longer than any"))
    }
}

/// A block under way.
#[derive(Default)]
struct Block {
    /// Byte in the low 8 bits, the number of the next one above.
    text: Vec<u32>,
    next: u32,
    left: usize,
    /// The last byte, how often it came in a row, and how often it is still to come.
    last: u8,
    row: u32,
    again: u32,
    crc: u32,
    wanted: u32,
}

/// Unpacks.
pub(super) struct Decoder<R> {
    bits: Bits<R>,
    /// Bytes of a block at most.
    most: usize,
    block: Block,
    /// Of the stream so far.
    crc: u32,
    inside: bool,
    ended: bool,
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        let bits = Bits { input, piece: Vec::new(), at: 0, held: 0, count: 0 };
        Self { bits, most: 0, block: Block::default(), crc: 0, inside: false, ended: false }
    }

    /// Goes to the next block; false at the end of all.
    fn advance(&mut self) -> Result<bool> {
        loop {
            if !self.inside {
                self.bits.align();
                // What a stream has read ahead is in whole bytes.
                if self.bits.count == 0 {
                    match self.bits.byte()? {
                        None => return Ok(false),
                        Some(byte) => (self.bits.held, self.bits.count) = (byte.into(), 8),
                    }
                }
                let head = self.bits.take(24)?;
                let level = self.bits.take(8)?;
                if head != 0x42_5a_68 || !(0x31..=0x39).contains(&level) {
                    return Err(broken("a stream does not begin as one"));
                }
                self.most = (level - 0x30) as usize * 100_000;
                (self.inside, self.crc) = (true, 0);
            }
            match self.bits.magic()? {
                BLOCK => {
                    self.block()?;
                    return Ok(true);
                }
                END => {
                    if self.bits.take(32)? != self.crc {
                        return Err(broken("the checksum of all is another one"));
                    }
                    self.inside = false;
                }
                _ => return Err(broken("a block does not begin as one")),
            }
        }
    }

    fn block(&mut self) -> Result<()> {
        let wanted = self.bits.take(32)?;
        if self.bits.flag()? {
            return Err(broken("it is of a version before 0.9.5"));
        }
        let start = self.bits.take(24)?;
        let mut front = Vec::new();
        let groups = self.bits.take(16)?;
        for group in (0..16).filter(|group| groups >> (15 - group) & 1 == 1) {
            let members = self.bits.take(16)?;
            front.extend(
                (0..16u8)
                    .filter(|member| members >> (15 - member) & 1 == 1)
                    .map(|member| group * 16 + member),
            );
        }
        let (tables, selectors) = (self.bits.take(3)? as usize, self.bits.take(15)? as usize);
        if front.is_empty() || !(2..=6).contains(&tables) || selectors == 0 {
            return Err(broken("a block's tables make no sense"));
        }
        let mut order: Vec<u8> = (0..tables as u8).collect();
        let mut chosen = Vec::with_capacity(selectors);
        for _ in 0..selectors {
            let mut place = 0;
            while self.bits.flag()? {
                place += 1;
                if place >= tables {
                    return Err(broken("a selector chooses no table"));
                }
            }
            let table = order.remove(place);
            order.insert(0, table);
            chosen.push(table);
        }
        let symbols = front.len() + 2;
        let mut codes = Vec::with_capacity(tables);
        for _ in 0..tables {
            let mut length = self.bits.take(5)?;
            let mut lengths = Vec::with_capacity(symbols);
            for _ in 0..symbols {
                while self.bits.flag()? {
                    length = if self.bits.flag()? { length.wrapping_sub(1) } else { length + 1 };
                    if !(1..=LONGEST as u32).contains(&length) {
                        return Err(broken("a code's length is impossible"));
                    }
                }
                if !(1..=LONGEST as u32).contains(&length) {
                    return Err(broken("a code's length is impossible"));
                }
                lengths.push(length as u8);
            }
            codes.push(Codes::new(&lengths));
        }
        let mut text = std::mem::take(&mut self.block.text);
        text.clear();
        self.text(&mut text, &mut front, &chosen, &codes)?;
        self.block = invert(text, start, wanted)?;
        Ok(())
    }

    /// The block's bytes as the transformation left them.
    fn text(
        &mut self,
        text: &mut Vec<u32>,
        front: &mut Vec<u8>,
        chosen: &[u8],
        codes: &[Codes],
    ) -> Result<()> {
        let end = front.len() as u16 + 1;
        let (mut run, mut weight) = (0usize, 1usize);
        for selector in chosen {
            let table = codes.get(usize::from(*selector)).ok_or_else(|| broken("there is no such table"))?;
            for _ in 0..GROUP {
                let symbol = table.read(&mut self.bits)?;
                if symbol < 2 {
                    // Runs of the front, in digits 1 and 2.
                    run += weight << symbol;
                    weight <<= 1;
                    if run > self.most {
                        return Err(broken("a block is too long"));
                    }
                    continue;
                }
                if run > 0 {
                    let byte = front.first().copied().unwrap_or(0);
                    if text.len() + run > self.most {
                        return Err(broken("a block is too long"));
                    }
                    text.extend(std::iter::repeat_n(u32::from(byte), run));
                    (run, weight) = (0, 1);
                }
                if symbol == end {
                    return Ok(());
                }
                let place = usize::from(symbol) - 1;
                if place >= front.len() || text.len() >= self.most {
                    return Err(broken("a block is too long, or moves what is not there"));
                }
                let byte = front.remove(place);
                front.insert(0, byte);
                text.push(byte.into());
            }
        }
        Err(broken("a block has no end"))
    }
}

/// Turns the transformation round.
fn invert(mut text: Vec<u32>, start: u32, wanted: u32) -> Result<Block> {
    if start as usize >= text.len().max(1) || text.is_empty() {
        return Err(broken("a block begins nowhere"));
    }
    let mut starts = [0u32; 256];
    for entry in &text {
        starts[(entry & 0xff) as usize] += 1;
    }
    let mut sum = 0;
    for start in &mut starts {
        (*start, sum) = (sum, sum + *start);
    }
    for index in 0..text.len() {
        let byte = text.get(index).map_or(0, |entry| entry & 0xff) as usize;
        let place = starts[byte] as usize;
        starts[byte] += 1;
        if let Some(entry) = text.get_mut(place) {
            *entry |= (index as u32) << 8;
        }
    }
    let next = text.get(start as usize).map_or(0, |entry| entry >> 8);
    let left = text.len();
    Ok(Block { text, next, left, last: 0, row: 0, again: 0, crc: !0, wanted })
}

impl Block {
    /// The next byte of the block; `None` at its end.
    fn byte(&mut self) -> Option<u8> {
        if self.again > 0 {
            self.again -= 1;
            return Some(self.last);
        }
        let mut byte = self.step()?;
        if self.row == 4 {
            // After four equal ones comes how many more there are.
            self.row = 0;
            if byte > 0 {
                self.again = u32::from(byte) - 1;
                return Some(self.last);
            }
            byte = self.step()?;
            self.row = 1;
            self.last = byte;
            return Some(byte);
        }
        self.row = if self.row > 0 && byte == self.last { self.row + 1 } else { 1 };
        self.last = byte;
        Some(byte)
    }

    fn step(&mut self) -> Option<u8> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.text.get(self.next as usize)?;
        self.next = entry >> 8;
        Some((entry & 0xff) as u8)
    }
}

/// CRC-32, the highest bit first.
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

static TABLE: [u32; 256] = table();

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        while !self.ended && !buf.is_empty() {
            let mut read = 0;
            for room in buf.iter_mut() {
                let Some(byte) = self.block.byte() else { break };
                self.block.crc =
                    self.block.crc << 8 ^ TABLE[(self.block.crc >> 24) as usize ^ usize::from(byte)];
                *room = byte;
                read += 1;
            }
            if read > 0 {
                return Ok(read);
            }
            if self.inside {
                if !self.block.crc != self.block.wanted {
                    return Err(broken("the checksum of a block is another one"));
                }
                self.crc = self.crc.rotate_left(1) ^ self.block.wanted;
            }
            self.ended = !self.advance()?;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn pack(data: &[u8], options: &[&str]) -> Vec<u8> {
        let child = Command::new("bzip2").args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("bzip2 is needed (Debian package bzip2): {error}"));
        let mut input = child.stdin.take().unwrap();
        let data = data.to_vec();
        let writer = std::thread::spawn(move || input.write_all(&data).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output.stdout
    }

    fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(packed).take(64 << 20).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn what_bzip2_has_packed_is_unpacked() {
        let noise: Vec<u8> = crate::formats::partclone::tests::noise(300_000, 3);
        let text = b"some text of which there is much, and 1111111111 runs. ".repeat(40_000);
        let mut runs = Vec::new();
        for len in 0..600usize {
            runs.extend(std::iter::repeat_n((len % 3) as u8, len));
        }
        let long = vec![7; 5_000_000];
        for data in [&b""[..], b"a", b"aaaa", b"aaaaa", &noise, &text, &runs, &long] {
            for options in [&["-1"][..], &["-9"]] {
                let packed = pack(data, options);
                assert!(unpack(&packed).unwrap() == data, "{} bytes", data.len());
                // Compressors with several threads write several streams.
                let twice = [packed.clone(), packed].concat();
                assert!(unpack(&twice).unwrap() == [data, data].concat());
            }
        }
    }

    #[test]
    fn damage_is_noticed_and_never_panics() {
        let data = b"some text of which there is much. ".repeat(2000);
        let packed = pack(&data, &["-1"]);
        for at in 0..packed.len() {
            for bit in 0..8 {
                let mut bad = packed.clone();
                bad[at] ^= 1 << bit;
                // The level may be another one, the padding at the end anything, and text that repeats begins at many places.
                let same = unpack(&bad).is_ok_and(|bytes| bytes == data);
                assert!(same || unpack(&bad).is_err(), "bit {bit} of byte {at}");
            }
            assert!(unpack(&packed[..at]).is_err() || at == 0);
        }
    }
}
