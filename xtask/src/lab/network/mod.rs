// SPDX-License-Identifier: Apache-2.0
//! Machines that start from the network: a bridge, `unmoor serve` on it, and machines that nobody touches.

mod bridge;
mod moves;
mod neighbour;
mod server;
mod timeline;
mod watch;

pub(crate) use bridge::Bridge;
pub(crate) use moves::{MOVES, Move};
pub(crate) use server::Server;
pub(crate) use timeline::Timeline;
pub(crate) use watch::{DONE, UP};

/// The server's address on its bridge: what QEMU's own network has as its gateway, which the guests expect to answer.
pub(crate) const ADDRESS: &str = "10.0.2.2";
