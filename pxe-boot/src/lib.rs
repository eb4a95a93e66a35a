// SPDX-License-Identifier: Apache-2.0
//! Machines that start from the network: who is told what to load, and the servers that they load it from.
//!
//! ```text
//!   firmware --DHCP discover--> dhcp: Packet -> Client (address, architecture, UUID, loader)
//!                                  Proxy: boot file alone, beside the network's own server
//!                                  Server: address from a Pool of leases, and boot file
//!            --TFTP read-----> tftp: files of a folder (blksize, tsize, windowsize)
//! ```
//!
//! What is said to whom is decided by whoever implements [`dhcp::Menu`]; nothing here knows of machines or jobs.

pub mod admin_client;
pub mod api;
pub mod boot;
pub mod client;
pub mod dhcp;
pub mod server;
pub mod tftp;
#[cfg(test)]
mod told;
pub mod web;

pub use axum::Router;
