// SPDX-License-Identifier: Apache-2.0
//! Plain HTTP: boot files, menus and the CA. Nothing here is secret, and nothing is taken.
//!
//! Firmware speaks no TLS, or trusts nobody: what is loaded this way is no safer than the network is.

mod range;
mod routes;
mod server;

pub use server::{Limits, Server};
