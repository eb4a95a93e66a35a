// SPDX-License-Identifier: Apache-2.0
//! A disk of this process as a block device of this host: the kernel's NBD client at the other end of a socket pair.
//!
//! ```text
//!   Disk <- server threads <== socket pair ==> kernel: /dev/nbdN -> partitions, filesystems
//! ```
//!
//! The control calls are those of <linux/nbd.h>; the kernel's documentation is admin-guide/blockdev/nbd.rst.

mod device;
mod sys;
mod written;

pub use device::{Device, is_available};
pub use written::Written;
