// SPDX-License-Identifier: Apache-2.0
//! A clone's references on a phony guest, and whole disks made by the tools of what is on them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod disk;
mod references;
