// SPDX-License-Identifier: Apache-2.0
//! The image store: deduplicated, incremental, resumable, verified, on a directory or on object storage.
//!
//! ```text
//!   dir:/srv/images/web01@20261124T215000Z          Location: where, the machine's name, one image of it
//!
//!   Store --Writer--> chunk -> pack -> index object -> image (the commit point, last)
//!     |                 ^                                 |
//!     |                 +------ tree of pages <-----------+  (extents and leaves of each disk, as chunks themselves)
//!     +--Reader--> BlockSource of each disk, every chunk checked
//!     |
//!   Backend: objects by name; a directory or S3
//! ```
//!
//! Objects are written once and never changed. What is on storage stands byte by byte in `FORMAT.md`.
//! To add a backend: a file in `backend/`, an arm in [`backend::open`], a line in its conformance tests.

mod ahead;
pub mod backend;
mod catalog;
mod check;
mod clock;
mod config;
mod damage;
mod decode;
mod dedup;
mod derived;
mod document;
mod encode;
mod ids;
mod image;
mod index;
mod keys;
mod leases;
mod location;
mod marks;
mod moved;
mod near;
mod pack;
mod packed;
mod page;
mod policy;
mod pool;
mod process;
mod prune;
mod reader;
mod receive;
mod seal;
mod sending;
mod sink;
mod source;
mod transfer;
mod usage;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

pub use check::{CheckOptions, CheckReport, Finding, HurtDisk, HurtImage};
pub use clock::{Clock, SystemClock};
pub use config::{Config, InitOptions, Store};
pub use decode::{DocumentKind, decode_document};
pub use image::{Added, DiskTree, ImageRecord, ImageRef, IndexedPacks, Summary};
pub use index::{IndexObject, decode_index};
pub use keys::{KeyInfo, Secret};
pub use leases::{DEAD, LOST, Lease, LeaseState};
pub use location::{ImageName, Location};
pub use marks::Mark;
pub use pack::{Codec, Content, Entry, PackTable, decode_pack};
pub use packed::PackedLeaf;
pub use page::{Node, decode_tree, encode_tree};
pub use policy::{Decision, Policy};
pub use prune::{PruneOptions, PruneReport};
pub use reader::{StoredDisk, StoredImage};
pub use receive::{Receiver, Receiving};
pub use sink::StoreSink;
pub use source::StoreSource;
pub use transfer::CopyReport;
pub use usage::Usage;
pub use writer::{Since, Writer, WriterOptions};

use crate::merkle::Hash;
use crate::{Error, Result};

/// Names a chunk, a pack or an index object by content.
pub type Id = Hash;

/// Bytes of a pack's chunks before it is closed. A pack is gathered in memory, and three at a time bound that memory; at
/// usual compression it is 80 MiB of disk.
pub const PACK: usize = 32 << 20;

/// Most bytes of a metadata object that is read into memory: far above what is ever written.
pub(crate) const MOST_METADATA: u64 = 256 << 20;

/// An identifier from its 64 hex digits.
pub(crate) fn parse_id(text: &str) -> Result<Id> {
    let digits = text.as_bytes();
    let mut id = [0; 32];
    let digit = |byte: u8| (byte as char).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
    let mut right = digits.len() == 64;
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        match pair {
            [high, low] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => *byte = (high << 4 | low) as u8,
                _ => right = false,
            },
            _ => right = false,
        }
    }
    if right {
        Ok(id)
    } else {
        Err(Error::malformed("reading an identifier", format!("{text:.80?} is not 64 hex digits")))
    }
}
