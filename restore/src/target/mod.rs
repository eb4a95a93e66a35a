// SPDX-License-Identifier: Apache-2.0
//! Where a disk is restored to: the only files of unmoor that open a device for writing.
//!
//! ```text
//!   Device   O_DIRECT | O_EXCL; held ranges (the table) are written last
//!   Raw      NAME.partial, the same order, then renamed
//!   Image    NAME.partial in a format that is written once, then renamed
//! ```

mod aligned;
mod disk_file;
mod held;
mod partial;

pub use disk_file::{DiskFile, is_partition, is_read_only};
pub use held::Held;
pub(crate) use partial::Partial;
