// SPDX-License-Identifier: Apache-2.0
//! Block devices and mounts for what real tools have put on disks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod mounts;
mod support;
mod uml;
mod volumes;
