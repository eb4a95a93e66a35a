// SPDX-License-Identifier: Apache-2.0
//! The agent's client against these endpoints, over TLS.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod hostile;
mod resume;
mod serving;
mod turns;
mod whole;
