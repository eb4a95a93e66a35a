// SPDX-License-Identifier: Apache-2.0
//! TFTP, reading only: RFC 1350, with options (RFC 2347) for blocks (2348), sizes and times (2349) and windows (7440).
//!
//! Each transfer has a port and a thread of its own. Firmware loads a few files once; what is large goes by HTTP.

mod packet;
mod server;
mod source;
#[cfg(test)]
mod tests;
mod transfer;

pub use packet::{Options, Packet, Problem};
pub use server::{Limits, Server};
pub use source::{Files, Folder, Opened};
