// SPDX-License-Identifier: Apache-2.0
//! Images into a store and out of it, and what is in them: `unmoor images import|export|diff|mount`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

#[path = "../common/mod.rs"]
mod common;
mod diff;
mod export;
mod hurt;
mod import;
mod mount;
mod support;
