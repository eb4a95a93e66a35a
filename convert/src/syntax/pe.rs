// SPDX-License-Identifier: Apache-2.0
//! Sections of a PE image (Microsoft's PE format): what a unified kernel image consists of (UAPI.5).

use std::ops::Range;

use unmoor_images::parse::{Bytes, c_text};
use unmoor_images::{Error, Result};

/// A section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// ".cmdline".
    pub name: String,
    /// Its bytes in the file, without padding; never beyond the file's end.
    pub range: Range<usize>,
}

/// A PE image's headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// In the order of the table.
    pub sections: Vec<Section>,
    /// There is a certificate table: it is signed.
    pub signed: bool,
    /// COFF machine: 0x8664 is x86-64, 0xaa64 AArch64.
    pub machine: u16,
}

impl Image {
    /// A section's bytes.
    pub fn section<'a>(&self, file: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let section = self.sections.iter().find(|section| section.name == name)?;
        file.get(section.range.clone())
    }

    /// A section's text, to its first NUL, without blanks around.
    pub fn text(&self, file: &[u8], name: &str) -> Option<String> {
        self.section(file, name).map(|bytes| c_text(bytes).trim().to_owned())
    }
}

/// Reads the headers.
///
/// # Errors
///
/// `Malformed` where it is no PE image or its tables lie outside of it.
pub fn parse(file: &[u8]) -> Result<Image> {
    const MOST_SECTIONS: u16 = 96;
    let doing = "reading an EFI program";
    let raw = Bytes::new(file, "EFI program");
    let broken = |because: &'static str| Error::malformed(doing, because);
    if raw.slice(0, 2)? != b"MZ" {
        return Err(broken("it does not begin with MZ"));
    }
    let at = raw.u32_le(0x3c)? as usize;
    if raw.slice(at, 4)? != b"PE\0\0" {
        return Err(broken("there is no PE signature"));
    }
    let coff = raw.sub(at + 4, 20)?;
    let (machine, count, optional) = (coff.u16_le(0)?, coff.u16_le(2)?, usize::from(coff.u16_le(16)?));
    if count > MOST_SECTIONS {
        return Err(broken("it has more sections than the format allows"));
    }
    let header = raw.sub(at + 24, optional)?;
    // PE32+ has its directories 16 bytes further on; the fifth is the certificate table.
    let directories = match header.u16_le(0) {
        Ok(0x20b) => 112,
        Ok(0x10b) => 96,
        _ => return Err(broken("its optional header is of no known kind")),
    };
    let signed = header.u32_le(directories + 4 * 8 + 4).is_ok_and(|size| size != 0);
    let table = at + 24 + optional;
    let mut sections = Vec::new();
    for index in 0..usize::from(count) {
        let entry = raw.sub(table + index * 40, 40)?;
        let (size, raw_size) = (entry.u32_le(8)? as usize, entry.u32_le(16)? as usize);
        let start = entry.u32_le(20)? as usize;
        let len = if size == 0 { raw_size } else { size.min(raw_size) };
        raw.slice(start, len)?;
        sections.push(Section { name: c_text(entry.slice(0, 8)?), range: start..start + len });
    }
    Ok(Image { sections, signed, machine })
}
