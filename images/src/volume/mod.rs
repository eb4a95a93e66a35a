// SPDX-License-Identifier: Apache-2.0
//! What lies between a partition and a filesystem: LVM2, md RAID, LUKS.
//!
//! Each reader answers `Ok(None)` for "not mine" and an error where the magic is right and the rest is
//! not, or where reading failed. What a volume means for the bytes of a disk is decided in
//! [`layout`](crate::layout).

pub mod luks;
pub mod lvm;
pub mod md;
