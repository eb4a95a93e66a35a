// SPDX-License-Identifier: Apache-2.0
//! Boot entries in the variables of UEFI firmware (UEFI 2.10, sections 3.1.3 and 10.3), for a guest that is put on a machine with
//! firmware of its own. A virtual machine needs none: it starts the fallback path.
//!
//! ```text
//!   disk --entry--> Entry, for the loader that is on it
//!   Entry --load_option--> EFI_LOAD_OPTION: attributes, description, HD(n,GPT,guid,start,size)/File(\EFI\...)
//!     +--write--> Boot0003 (the lowest free number, or the equal entry that is there), BootOrder with it in front
//!     +--start_next--> BootNext
//! ```

mod choose;
mod write;

use unmoor_images::parse::{Bytes, guid_bytes};
use unmoor_images::{Error, Result};

pub use choose::entry;
pub use write::{Place, is_writable, start_next, write};

/// EFI_GLOBAL_VARIABLE, as efivarfs spells it behind a variable's name.
pub const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Kept over restarts, and seen by boot services and by the running system.
const ATTRIBUTES: u32 = 7;
/// LOAD_OPTION_ACTIVE.
const ACTIVE: u32 = 1;

/// How a device path names a partition's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// A GPT partition's own GUID, its bytes in the order of the text.
    Gpt([u8; 16]),
    /// An MBR disk's signature.
    Mbr(u32),
}

/// A boot entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// For people: "debian".
    pub description: String,
    /// Number of the EFI system partition.
    pub partition: u32,
    /// Its first sector.
    pub start: u64,
    /// Its length in sectors.
    pub sectors: u64,
    /// What it is known by.
    pub signature: Signature,
    /// Path of the loader: "\EFI\debian\shimx64.efi".
    pub path: String,
}

impl Entry {
    /// The EFI_LOAD_OPTION.
    pub fn load_option(&self) -> Vec<u8> {
        let mut nodes = vec![4, 1];
        nodes.extend(42u16.to_le_bytes());
        nodes.extend(self.partition.to_le_bytes());
        nodes.extend(self.start.to_le_bytes());
        nodes.extend(self.sectors.to_le_bytes());
        match self.signature {
            Signature::Gpt(guid) => {
                nodes.extend(guid_bytes(&guid));
                nodes.extend([2, 2]);
            }
            Signature::Mbr(id) => {
                nodes.extend(id.to_le_bytes());
                nodes.extend([0; 12]);
                nodes.extend([1, 1]);
            }
        }
        let path = utf16(&self.path.replace('/', "\\"));
        nodes.extend([4, 4]);
        nodes.extend((path.len() as u16).saturating_add(4).to_le_bytes());
        nodes.extend(path);
        nodes.extend([0x7f, 0xff, 4, 0]);

        let mut option = ACTIVE.to_le_bytes().to_vec();
        option.extend((nodes.len() as u16).to_le_bytes());
        option.extend(utf16(&self.description));
        option.extend(nodes);
        option
    }
}

/// A variable as efivarfs holds it: attributes, then content.
pub fn nvram_entry(entry: &Entry) -> Vec<u8> {
    variable(&entry.load_option())
}

fn variable(content: &[u8]) -> Vec<u8> {
    [&ATTRIBUTES.to_le_bytes(), content].concat()
}

/// The content of a variable that efivarfs shows.
fn content(raw: &[u8]) -> Result<&[u8]> {
    let raw = Bytes::new(raw, "EFI variable");
    raw.slice(4, raw.len().saturating_sub(4))
}

/// Numbers of a boot order.
fn order(content: &[u8]) -> Result<Vec<u16>> {
    if !content.len().is_multiple_of(2) {
        return Err(Error::malformed("reading BootOrder", "it has an odd length"));
    }
    Ok(content.as_chunks::<2>().0.iter().map(|number| u16::from_le_bytes(*number)).collect())
}

/// With its end: a zero.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().filter(|unit| *unit != 0).chain([0]).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests;
