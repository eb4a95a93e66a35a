// SPDX-License-Identifier: Apache-2.0
//! Archives in cpio's "newc" format (Linux: Documentation/driver-api/early-userspace/buffer-format.rst), read as
//! init/initramfs.c reads them.

use std::io::BufRead;

use unmoor_images::parse::Bytes;
use unmoor_images::{Error, Result};

use super::tree::{Content, Entry, Kind, LONGEST};
use super::{Archive, Limits};

/// Bytes of a header: a magic number of 6 digits, 13 fields of 8.
pub(super) const HEADER: usize = 110;
/// The name of the entry that ends an archive.
pub(super) const TRAILER: &str = "TRAILER!!!";

/// What a stream of entries may still cost.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    pub(super) unpacked: u64,
    entries: usize,
    kept: u64,
    names: u64,
    limits: Limits,
}

/// Bytes of all names and targets of links.
const MOST_NAMES: u64 = 32 << 20;

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            unpacked: limits.unpacked,
            entries: limits.entries,
            kept: limits.kept,
            names: MOST_NAMES,
            limits: limits.clone(),
        }
    }
}

fn too_much(what: String) -> Error {
    Error::unsupported("reading an initramfs", what)
}

fn bad(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::malformed("reading an initramfs", because)
}

/// Bytes from a segment, counted as the kernel counts them for alignment (`this_header`).
pub(super) struct Input<'r> {
    reader: &'r mut dyn BufRead,
    /// Bytes behind the segment's start, or the image's where the segment is not compressed.
    pub(super) position: u64,
}

impl<'r> Input<'r> {
    pub(super) fn new(reader: &'r mut dyn BufRead, position: u64) -> Self {
        Self { reader, position }
    }

    /// What is ready to be read; empty at the end only.
    fn ready(&mut self) -> Result<&[u8]> {
        let position = self.position;
        self.reader.fill_buf().map_err(|error| {
            Error::malformed("unpacking an initramfs", format!("{error} behind {position} bytes"))
        })
    }

    fn pass(&mut self, len: usize) {
        self.reader.consume(len);
        self.position = self.position.saturating_add(len as u64);
    }

    /// The next byte that is not zero, which stays.
    pub(super) fn after_zeros(&mut self) -> Result<Option<u8>> {
        loop {
            let ready = self.ready()?;
            if ready.is_empty() {
                return Ok(None);
            }
            let zeros = ready.iter().take_while(|byte| **byte == 0).count();
            let next = ready.get(zeros).copied();
            self.pass(zeros);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Reads up to `len` bytes in pieces.
    fn pieces(&mut self, len: u64, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut left = len;
        while left > 0 {
            let ready = self.ready()?;
            if ready.is_empty() {
                return Err(bad("it ends within an entry: it was cut off"));
            }
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(ready.len());
            each(ready.get(..take).unwrap_or_default());
            self.pass(take);
            left -= take as u64;
        }
        Ok(())
    }

    /// `len` bytes, which the caller has bounded.
    fn bytes(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        self.pieces(len as u64, &mut |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    /// Passes what pads to four bytes; the image may end there.
    fn pad(&mut self) -> Result<()> {
        while !self.position.is_multiple_of(4) && !self.ready()?.is_empty() {
            self.pass(1);
        }
        Ok(())
    }
}

struct Header {
    inode: u32,
    mode: u32,
    owner: (u32, u32),
    links: u32,
    mtime: u32,
    size: u32,
    device: (u32, u32),
    special: (u32, u32),
    name: u32,
    sum: Option<u32>,
}

impl Header {
    fn parse(raw: &[u8]) -> Result<Self> {
        let raw = Bytes::new(raw, "a cpio header");
        let checked = match raw.slice(0, 6)? {
            b"070701" => false,
            b"070702" => true,
            b"070707" => {
                return Err(bad(
                    "its archive is in cpio's old portable format, which the kernel does not take",
                ));
            }
            _ => return Err(bad("no cpio header is where one must be")),
        };
        let field = |index: usize| -> Result<u32> {
            let digits = raw.slice(6 + index * 8, 8)?;
            let text =
                std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
            text.and_then(|text| u32::from_str_radix(text, 16).ok())
                .ok_or_else(|| bad("a cpio header has no number where one must be"))
        };
        Ok(Self {
            inode: field(0)?,
            mode: field(1)?,
            owner: (field(2)?, field(3)?),
            links: field(4)?,
            mtime: field(5)?,
            size: field(6)?,
            device: (field(7)?, field(8)?),
            special: (field(9)?, field(10)?),
            name: field(11)?,
            sum: if checked { Some(field(12)?) } else { None },
        })
    }
}

/// How a run of entries ended.
pub(super) enum End {
    /// With the input.
    Input,
    /// With a trailer.
    Trailer,
    /// Before a byte that begins neither entry nor padding.
    Other,
}

/// Reads entries into the archive's tree; returns their number and what ended them. Where the segment is compressed, a trailer
/// ends nothing: whatever follows in it must be entries too.
pub(super) fn entries(
    archive: &mut Archive,
    input: &mut Input<'_>,
    compressed: bool,
) -> Result<(usize, End)> {
    let mut count = 0;
    loop {
        match input.after_zeros()? {
            None => return Ok((count, End::Input)),
            Some(_) if !input.position.is_multiple_of(4) && count > 0 => {
                return Err(bad("broken padding between entries"));
            }
            Some(b'0') if input.position.is_multiple_of(4) => {}
            Some(_) if compressed => return Err(bad("junk within a compressed archive")),
            Some(_) => return Ok((count, End::Other)),
        }
        let trailer = entry(archive, input)?;
        count += 1;
        if trailer && !compressed {
            if input.after_zeros()?.is_some() && !input.position.is_multiple_of(4) {
                return Err(bad("broken padding behind an archive"));
            }
            return Ok((count, End::Trailer));
        }
    }
}

/// Reads one entry; true if it is a trailer.
fn entry(archive: &mut Archive, input: &mut Input<'_>) -> Result<bool> {
    let header = Header::parse(&input.bytes(HEADER)?)?;
    let size = u64::from(header.size);
    let budget = &mut archive.budget;
    budget.entries = budget
        .entries
        .checked_sub(1)
        .ok_or_else(|| too_much(format!("it has over {} entries", budget.limits.entries)))?;
    let cost = HEADER as u64 + u64::from(header.name) + size;
    budget.unpacked = budget
        .unpacked
        .checked_sub(cost)
        .ok_or_else(|| too_much(format!("unpacked it has over {} bytes", budget.limits.unpacked)))?;
    let is_link = header.mode & 0o170_000 == 0o120_000;
    let is_file = header.mode & 0o170_000 == 0o100_000;
    let long =
        header.name == 0 || u64::from(header.name) > LONGEST as u64 || (is_link && size > LONGEST as u64);
    if long || (!is_file && !is_link && size > 0) {
        // The kernel passes over these without a word.
        input.pieces(u64::from(header.name), &mut |_| {})?;
        input.pad()?;
        input.pieces(size, &mut |_| {})?;
        input.pad()?;
        return Ok(false);
    }
    let text = u64::from(header.name) + if is_link { size } else { 0 };
    budget.names = budget
        .names
        .checked_sub(text)
        .ok_or_else(|| too_much(format!("its names have over {MOST_NAMES} bytes")))?;
    let mut name = input.bytes(header.name as usize)?;
    input.pad()?;
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    let name = String::from_utf8_lossy(&name).into_owned();
    if name == TRAILER {
        input.pieces(size, &mut |_| {})?;
        input.pad()?;
        archive.tree.end_archive();
        return Ok(true);
    }
    let kind = match header.mode & 0o170_000 {
        0o100_000 => Kind::File(content(archive, input, &name, size, header.sum)?),
        0o120_000 => {
            let mut target = input.bytes(header.size as usize)?;
            target.truncate(target.iter().position(|byte| *byte == 0).unwrap_or(target.len()));
            Kind::Link(String::from_utf8_lossy(&target).into_owned())
        }
        0o040_000 => Kind::Directory,
        format @ (0o020_000 | 0o060_000 | 0o010_000 | 0o140_000) => {
            Kind::Special { format, device: header.special }
        }
        // No type that there is: the kernel makes nothing of it.
        _ => return input.pad().map(|()| false),
    };
    input.pad()?;
    let entry = Entry {
        path: name,
        kind,
        mode: header.mode & 0o7777,
        owner: header.owner,
        mtime: header.mtime,
        links: header.links,
        identity: (header.device.0, header.device.1, header.inode),
    };
    let path = entry.path.clone();
    if !archive.tree.insert(entry) && archive.dropped.len() < super::MOST_DROPPED {
        archive.dropped.push(path);
    }
    Ok(false)
}

/// A file's content: kept where the limits want it and the budget allows it.
fn content(
    archive: &mut Archive,
    input: &mut Input<'_>,
    name: &str,
    size: u64,
    sum: Option<u32>,
) -> Result<Content> {
    let budget = &mut archive.budget;
    let limits = &budget.limits;
    let keep = size <= limits.largest && size <= budget.kept && (limits.keep)(name);
    if keep {
        budget.kept -= size;
    }
    // Not reserved at once: the length is only claimed.
    let mut bytes = Vec::new();
    let mut total = 0u32;
    input.pieces(size, &mut |piece| {
        if keep {
            bytes.extend_from_slice(piece);
        }
        if sum.is_some() {
            total = piece.iter().fold(total, |total, byte| total.wrapping_add(u32::from(*byte)));
        }
    })?;
    if sum.is_some_and(|sum| sum != total) {
        return Err(bad(format!("the checksum of {name:?} is wrong")));
    }
    Ok(Content { size, bytes: keep.then_some(bytes) })
}
