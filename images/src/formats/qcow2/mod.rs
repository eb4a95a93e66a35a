// SPDX-License-Identifier: Apache-2.0
//! qcow2: QEMU's image format (`docs/interop/qcow2.rst` in QEMU's source; "the specification" below).
//!
//! ```text
//!   guest address = L1 index | L2 index | offset in cluster
//!   header -> L1 table -> L2 table -> cluster: unallocated | zero | plain | compressed (packed, any byte offset)
//!   header -> refcount table -> refcount block -> how often each cluster of the file is used
//! ```
//!
//! Reading: `header` (and what it refuses), `open` (backing chain), `table` (L1, L2, their cache), `codec`, `source`.
//! Writing: `sink` (what a call does), `encode` (clusters to bytes), `alloc` (bytes to places in the file), `auto` (level).
//! Changing: `patch` (an existing image in place), `overlay` (a layer over an image, for QEMU to write to).

mod alloc;
mod auto;
mod codec;
mod encode;
mod header;
mod open;
mod overlay;
mod patch;
mod sink;
mod source;
mod table;
#[cfg(test)]
mod tests;

pub use open::open;
pub use overlay::{Overlay, OverlayWriter};
pub(super) use patch::Qcow2Patcher;
pub use sink::Qcow2Sink;
pub use source::Qcow2Source;

/// `QFI\xfb`.
pub(super) const MAGIC: u32 = 0x5146_49fb;
/// Bytes of an L1 table that QEMU opens at most (QCOW_MAX_L1_SIZE), and so do we.
const L1_MOST: u64 = 32 << 20;
/// Bytes of a refcount table that QEMU opens at most (QCOW_MAX_REFTABLE_SIZE).
const REFCOUNT_TABLE_MOST: u64 = 8 << 20;

/// L1 and L2 entry: the cluster's reference count is exactly one.
const COPIED: u64 = 1 << 63;
/// L2 entry: points to compressed bytes.
const COMPRESSED: u64 = 1 << 62;
/// L2 entry: reads as zeros (version 3).
const ZERO: u64 = 1;
/// L1 and L2 entry: the bits that hold a cluster's offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// L1 entry: bits that must be 0.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// L2 entry of an uncompressed cluster: bits that must be 0.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
