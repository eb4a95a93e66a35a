// SPDX-License-Identifier: Apache-2.0
//! `unmoor nbd` against the clients that people have: libnbd's, QEMU's, fio's and the kernel's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod crashes;
mod hostile;
mod kernel;
mod overlays;
mod support;
mod tls;
/// The images crate's own way to run a script in a kernel that has an NBD client.
#[path = "../../images/src/layout/tests/uml.rs"]
mod uml;
