// SPDX-License-Identifier: Apache-2.0
//! VDI: VirtualBox's format, read only (`VDICore.h` and `VDI.cpp` in VirtualBox's source).
//!
//! ```text
//!   header -> block map: one 32-bit number a block: unallocated | zero | index of its block in the data area
//! ```

mod header;
mod source;
#[cfg(test)]
mod tests;

pub(super) use header::MAGIC;
pub use source::VdiSource;
