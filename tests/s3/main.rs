// SPDX-License-Identifier: Apache-2.0
//! Stores on S3: a real server on this host, and a proxy before it that breaks what can break.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

#[path = "../common/mod.rs"]
mod common;

mod captures;
mod conformance;
mod faults;
mod proxy;
mod server;
