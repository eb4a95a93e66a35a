// SPDX-License-Identifier: Apache-2.0
//! DHCP for machines that start from the network: RFC 2131 and 2132, and the PXE specification 2.1.

mod answer;
mod client;
mod leases;
pub mod options;
mod packet;
mod server;
#[cfg(test)]
mod tests;

pub use answer::{Boot, Menu, Network, Responder, Role};
pub use client::{Architecture, Client, Loader};
pub use leases::{Lease, Pool};
pub use packet::{Op, Packet};
pub use server::{Server, Settings};
