// SPDX-License-Identifier: Apache-2.0
//! A machine's disks, taken to disk images.
//!
//! ```text
//!   path --Disk::open--> Disk (a BlockSource) --layout::analyze--> extents --copy--> NAME.qcow2.partial --rename--+
//!    |                                                                                                            v
//!    +--in_use::users--> refused, or claimed           facts::read --> machine facts ---------> manifest, last of all
//! ```

pub mod disk;
pub mod facts;
pub mod in_use;
mod sys;
