// SPDX-License-Identifier: Apache-2.0
//! `unmoor restore` from outside: real filesystems on loop devices that had another life before, held against the
//! tools of others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod disks;
mod failures;
mod formats;
mod past;
mod records;
mod refusals;
mod resume;
mod sizes;
mod streams;
mod support;
mod used_disk;
mod volumes;
