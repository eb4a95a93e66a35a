// SPDX-License-Identifier: Apache-2.0
//! `unmoor convert` and `unmoor restore --profile` from outside, with guests that are just enough of one to be fitted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod direct;
mod guest;
mod plans;
mod restored;
mod stored;
