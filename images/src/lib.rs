// SPDX-License-Identifier: Apache-2.0
//! What a disk image is.
//!
//! ```text
//!   BlockSource --read_at--> copy --write_at--> BlockSink --finish--> file or device
//!        ^                    |  ^
//!        |                    |  +--- ExtentMap: data, zero, hole of every byte
//!   layout::analyze           v            ^
//!     partition -> volume -> filesystem ---+   (used ranges, found by our own readers)
//!                        merkle::Leaves --> manifest (written last: its presence means complete)
//! ```
//!
//! This crate knows bytes and formats. It knows nothing of Linux devices, guests, command lines or
//! sockets, prints nothing, and reports through one [`monitor::Monitor`].

pub mod adapt;
pub mod affected;
pub mod clonezilla;
pub mod copy;
pub mod diff;
pub mod error;
pub mod extent;
pub mod filesystem;
pub mod formats;
pub mod identity;
pub mod layout;
pub mod manifest;
pub mod merkle;
pub mod monitor;
pub mod overlay;
pub mod parse;
pub mod partition;
pub mod range_set;
pub mod sink;
pub mod source;
pub mod store;
pub mod volume;

pub use error::{Error, ErrorKind, Result, ResultExt};
pub use extent::{Extent, ExtentMap, State};
pub use monitor::Monitor;
pub use range_set::RangeSet;
pub use sink::BlockSink;
pub use source::BlockSource;

/// Disk address covered by one Merkle leaf, and later by one chunk of the store, in bytes.
pub const LEAF: u64 = 256 * 1024;
