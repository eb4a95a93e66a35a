// SPDX-License-Identifier: Apache-2.0
//! VHD: Virtual PC's, Hyper-V's and Azure's format, read only ("Virtual Hard Disk Image Format Specification", 1.0;
//! "the specification" below). All numbers are big-endian.
//!
//! ```text
//!   fixed:    the disk's bytes | footer
//!   dynamic:  copy of the footer -> dynamic header -> block allocation table: one 32-bit sector number a block
//!             block: bitmap (a bit a sector: is it here, or zeros?), data | ... | footer
//! ```

mod dynamic;
mod footer;
mod source;
#[cfg(test)]
mod tests;

pub(super) use footer::{COOKIE, is_fixed};
pub use source::VhdSource;
