// SPDX-License-Identifier: Apache-2.0
//! Initial RAM filesystems: reading and extending those of guests, building and being that of the rescue environment.
//!
//! ```text
//!   guest's initramfs --archive--> segments, tree --+
//!   guest's /lib/modules --modules--> wanted, closure +--archive::append--> cpio to add
//!
//!   kernel package, modules, this binary --rescue--> vmlinuz + initramfs (+ ISO)
//!   PID 1 --init--> mounts, coldplug, network, jobs;  activate: LVM, md, LUKS, mounts
//! ```

pub mod activate;
pub mod archive;
pub mod init;
pub mod modules;
pub mod rescue;

mod sys;
