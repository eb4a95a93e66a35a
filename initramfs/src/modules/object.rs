// SPDX-License-Identifier: Apache-2.0
//! Module files: their compression, and what they say of themselves in the section `.modinfo` (Linux: include/linux/moduleparam.h).

use std::io::Read;

use unmoor_images::parse::{Bytes, c_text};
use unmoor_images::{Error, Result};

/// No module is larger, unpacked (bytes): nvidia's has 60 MB.
const LARGEST: u64 = 512 << 20;
/// Memory for an xz dictionary.
const MOST_DICTIONARY: u64 = 160 << 20;
/// Endings of module files.
pub(super) const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// The module's name by its file's: without directories and ending, '-' as '_'. `None` where it is no module's.
pub fn name_of(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))?;
    Some(stem.replace('-', "_"))
}

/// A module file's content, unpacked where its first bytes say that it is compressed.
///
/// # Errors
///
/// `Malformed` where it is corrupt; `Unsupported` where it is absurdly large.
pub fn unpacked(file: &[u8]) -> Result<Vec<u8>> {
    let doing = "unpacking a kernel module";
    let corrupt = |error: std::io::Error| Error::malformed(doing, error.to_string());
    let reader: Box<dyn Read + '_> = match file {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MOST_DICTIONARY, 0)
                .map_err(|error| Error::unsupported(doing, error.to_string()))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(corrupt)?)
        }
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::GzDecoder::new(file)),
        _ => return Ok(file.to_vec()),
    };
    let mut bytes = Vec::new();
    reader.take(LARGEST + 1).read_to_end(&mut bytes).map_err(corrupt)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::unsupported(doing, format!("it has over {LARGEST} bytes")));
    }
    Ok(bytes)
}

/// What a module says of itself: pairs of key and value, in their order. Empty where it has no such section.
///
/// # Errors
///
/// `Malformed` where it is no ELF object of 32 or 64 bits, or points outside of itself.
pub fn information(object: &[u8]) -> Result<Vec<(String, String)>> {
    let elf = Elf::new(object)?;
    let names = elf.section(elf.names)?;
    let mut pairs = Vec::new();
    for index in 0..elf.count {
        let section = elf.section(index)?;
        let name = names.content.get(section.name..).unwrap_or_default();
        if !name.starts_with(b".modinfo\0") {
            continue;
        }
        for text in section.content.split(|byte| *byte == 0) {
            let text = c_text(text);
            if let Some((key, value)) = text.split_once('=') {
                pairs.push((key.to_owned(), value.to_owned()));
            }
        }
    }
    Ok(pairs)
}

/// The section headers of an object (System V ABI, chapter 4).
struct Elf<'a> {
    bytes: Bytes<'a>,
    wide: bool,
    little: bool,
    table: usize,
    step: usize,
    count: usize,
    names: usize,
}

struct Section<'a> {
    name: usize,
    content: &'a [u8],
}

impl<'a> Elf<'a> {
    fn new(object: &'a [u8]) -> Result<Self> {
        let bytes = Bytes::new(object, "a kernel module");
        let bad = |because: &'static str| Error::malformed("reading a kernel module", because);
        let head = bytes.slice(0, 6)?;
        let (wide, little) = match head {
            [0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2)] => (*class == 2, *order == 1),
            _ => return Err(bad("it is no ELF object")),
        };
        let mut elf = Self { bytes, wide, little, table: 0, step: 0, count: 0, names: 0 };
        let at = if wide { [0x28, 0x3a, 0x3c, 0x3e] } else { [0x20, 0x2e, 0x30, 0x32] };
        elf.table = elf.word(at[0])?;
        elf.step = elf.half(at[1])?;
        elf.count = elf.half(at[2])?;
        elf.names = elf.half(at[3])?;
        Ok(elf)
    }

    fn half(&self, at: usize) -> Result<usize> {
        Ok(usize::from(if self.little { self.bytes.u16_le(at)? } else { self.bytes.u16_be(at)? }))
    }

    fn int(&self, at: usize) -> Result<usize> {
        let value = if self.little { self.bytes.u32_le(at)? } else { self.bytes.u32_be(at)? };
        usize::try_from(value)
            .map_err(|_| Error::malformed("reading a kernel module", "a number is too large"))
    }

    /// An address or offset.
    fn word(&self, at: usize) -> Result<usize> {
        if !self.wide {
            return self.int(at);
        }
        let value = if self.little { self.bytes.u64_le(at)? } else { self.bytes.u64_be(at)? };
        usize::try_from(value)
            .map_err(|_| Error::malformed("reading a kernel module", "a number is too large"))
    }

    fn section(&self, index: usize) -> Result<Section<'a>> {
        let at = index
            .checked_mul(self.step)
            .and_then(|offset| offset.checked_add(self.table))
            .ok_or_else(|| Error::malformed("reading a kernel module", "its section table lies outside"))?;
        let name = self.int(at)?;
        let field = |wide, narrow| at.saturating_add(if self.wide { wide } else { narrow });
        // SHT_NOBITS has no bytes in the file.
        if self.int(field(4, 4))? == 8 {
            return Ok(Section { name, content: &[] });
        }
        let (offset, size) = (self.word(field(0x18, 0x10))?, self.word(field(0x20, 0x14))?);
        Ok(Section { name, content: self.bytes.slice(offset, size)? })
    }
}
