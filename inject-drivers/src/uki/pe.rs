// SPDX-License-Identifier: Apache-2.0
//! PE/COFF images as far as unified kernel images need it (Microsoft: "PE Format"; UAPI group: "Unified Kernel Image").

use unmoor_images::parse::{Bytes, c_text};
use unmoor_images::{Error, Result};

/// More sections are not read: a UKI has about fifteen.
const MOST_SECTIONS: usize = 96;
/// Bytes of a section header.
const SECTION: usize = 40;

/// A section as its header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// ".linux"; at most 8 bytes.
    pub name: String,
    /// Length in memory, which is that of the content; the file's is rounded up.
    pub size: u32,
    /// Where it lies in memory, from the image's base.
    pub address: u32,
    /// Length and place in the file.
    pub file: (u32, u32),
    /// The header itself.
    pub(super) raw: [u8; SECTION],
}

/// An image taken apart.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    file: &'a [u8],
    /// In the order of the table.
    pub sections: Vec<Section>,
    /// Place of the optional header.
    pub(super) optional: usize,
    /// Place of the section table.
    pub(super) table: usize,
    /// Place of the data directories.
    pub(super) directories: usize,
    pub(super) section_alignment: u32,
    pub(super) file_alignment: u32,
    pub(super) size_of_headers: u32,
    /// Place and length of the certificate table in the file; zeros where it is not signed.
    pub certificates: (u32, u32),
}

fn bad(because: &'static str) -> Error {
    Error::malformed("reading a PE image", because)
}

impl<'a> Image<'a> {
    /// Whether it begins as one.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(b"MZ")
    }

    /// Takes it apart.
    ///
    /// # Errors
    ///
    /// `Malformed` where headers or sections lie outside of it.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        let bytes = Bytes::new(file, "a PE image");
        if bytes.slice(0, 2)? != b"MZ" {
            return Err(bad("it does not begin with MZ"));
        }
        let start = bytes.u32_le(0x3c)? as usize;
        if bytes.slice(start, 4)? != b"PE\0\0" {
            return Err(bad("it has no PE signature"));
        }
        let count = usize::from(bytes.u16_le(start + 6)?);
        let optional = start + 24;
        let optional_size = usize::from(bytes.u16_le(start + 20)?);
        let directories = optional
            + match bytes.u16_le(optional)? {
                0x20b => 112,
                0x10b => 96,
                _ => return Err(bad("its optional header is of no known kind")),
            };
        let (section_alignment, file_alignment) =
            (bytes.u32_le(optional + 32)?, bytes.u32_le(optional + 36)?);
        if !section_alignment.is_power_of_two()
            || !file_alignment.is_power_of_two()
            || section_alignment > 1 << 24
            || file_alignment > 1 << 16
        {
            return Err(bad("its alignments are no powers of two"));
        }
        let size_of_headers = bytes.u32_le(optional + 60)?;
        let number = bytes.u32_le(directories - 4)?;
        let certificates = if number > 4 && optional_size >= directories - optional + 40 {
            (bytes.u32_le(directories + 32)?, bytes.u32_le(directories + 36)?)
        } else {
            (0, 0)
        };
        if count > MOST_SECTIONS {
            return Err(bad("it has absurdly many sections"));
        }
        let table = optional + optional_size;
        let mut sections = Vec::new();
        let mut left = file.len();
        for index in 0..count {
            let raw = bytes.sub(table + index * SECTION, SECTION)?;
            let section = Section {
                name: c_text(raw.slice(0, 8)?),
                size: raw.u32_le(8)?,
                address: raw.u32_le(12)?,
                file: (raw.u32_le(16)?, raw.u32_le(20)?),
                raw: raw.all().try_into().map_err(|_| bad("a section header is cut off"))?,
            };
            if section.file.0 > 0 {
                let content = bytes.slice(section.file.1 as usize, section.file.0 as usize)?;
                // Sections do not share bytes; what says so would grow when it is written anew.
                left = left.checked_sub(content.len()).ok_or_else(|| bad("its sections overlap"))?;
            }
            sections.push(section);
        }
        if (size_of_headers as usize) < table + count * SECTION || bytes.len() < size_of_headers as usize {
            return Err(bad("its headers are longer than it says"));
        }
        Ok(Self {
            file,
            sections,
            optional,
            table,
            directories,
            section_alignment,
            file_alignment,
            size_of_headers,
            certificates,
        })
    }

    /// The section of that name; the first, where there are several.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The content of a section without the padding of the file.
    pub fn content(&self, section: &Section) -> &'a [u8] {
        let len = section.file.0.min(section.size) as usize;
        self.bytes().slice(section.file.1 as usize, len).unwrap_or_default()
    }

    /// The content of the section of that name.
    pub fn find(&self, name: &str) -> Option<&'a [u8]> {
        self.section(name).map(|section| self.content(section))
    }

    /// Whether it is a unified kernel image.
    pub fn is_unified(&self) -> bool {
        self.section(".linux").is_some()
    }

    /// Whether it carries a signature.
    pub fn is_signed(&self) -> bool {
        self.certificates.1 > 0
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Bytes<'a> {
        Bytes::new(self.file, "a PE image")
    }
}
