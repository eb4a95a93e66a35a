// SPDX-License-Identifier: Apache-2.0
//! Block devices and mounts for what real tools have put on disks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod mounts;
mod support;
/// The images crate's own way to run a script in a kernel with device-mapper and md.
#[path = "../../../images/src/layout/tests/uml.rs"]
mod uml;
mod volumes;
