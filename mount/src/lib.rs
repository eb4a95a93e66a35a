// SPDX-License-Identifier: Apache-2.0
//! An image's disks as read-only files, by FUSE.
//!
//! ```text
//!   DIR/disk0.raw            a disk, byte by byte: for losetup, qemu, dd
//!   DIR/disk0.p1.raw         a partition; DIR/vg-root.raw a logical volume
//!   DIR/disk0.p1/etc/fstab   the files in it, by our own readers (ext2/3/4, XFS, btrfs, FAT)
//! ```
//!
//! Nothing is copied: what is read is fetched. The crate `fuser` speaks the kernel's protocol, without libfuse; as root it
//! mounts by itself, otherwise fusermount3 has to be there.

mod files;
mod session;
mod top;

pub use session::{Options, mount};
pub use top::{Entry, Top};
