// SPDX-License-Identifier: Apache-2.0
//! VMDK: VMware's format ("Virtual Disk Format 5.0"; "the specification" below). All numbers are little-endian.
//!
//! ```text
//!   descriptor (text): what kind, parent, extents -> extent files (flat: the disk's bytes)
//!   sparse extent: header, descriptor inside | grain directory -> grain table -> grain: absent | zero | its sectors
//!   stream-optimized: header | descriptor | marker, compressed grain ... | marker, grain table ... | grain directory | footer
//! ```
//!
//! Reading: `descriptor`, `open` (extent files and parents, what is refused), `header`, `sparse`, `source`.
//! Writing a stream: `sink` (what a call does), `stream` (bytes in the disk's order), `order` (threads that arrive in another one).

mod descriptor;
mod header;
mod open;
mod order;
mod sink;
mod source;
mod sparse;
mod stream;
#[cfg(test)]
mod tests;

pub use open::open;
pub use sink::VmdkSink;
pub use source::VmdkSource;

/// Bytes of a sector, in which every offset is counted.
const SECTOR: u64 = 512;
/// A sparse extent's first bytes.
pub(super) const MAGIC: &[u8; 4] = b"KDMV";

/// Kinds of markers in a stream (specification, "Stream-Optimized Compressed Sparse Extents").
mod marker {
    pub(super) const END: u32 = 0;
    pub(super) const TABLE: u32 = 1;
    pub(super) const DIRECTORY: u32 = 2;
    pub(super) const FOOTER: u32 = 3;
}
