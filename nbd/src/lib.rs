// SPDX-License-Identifier: Apache-2.0
//! A disk image as an NBD server: virtual machines and kernels use it before anything is copied.
//!
//! ```text
//!   clients == sockets, TLS ==> server: handshake -> transmission (several threads a client)
//!                                  |
//!                                  v
//!                     Disk: ReadOnly | Overlay (local sparse file + bitmap) <--- hydration, in the background
//!                                  |
//!                                  v
//!                     Cache: pieces of the image in memory <--- read-ahead along the order of an earlier boot
//!                                  |
//!                                  v
//!                     image: any BlockSource
//! ```
//!
//! The protocol is that of `doc/proto.md` of the NetworkBlockDevice project: fixed newstyle, TLS, structured replies, and block
//! status by `base:allocation`.

pub mod cache;
pub mod disk;
pub mod image;
pub mod kernel;
pub mod order;
pub mod overlay;
pub mod protocol;
mod serve;
pub mod server;
pub mod tls;

pub use serve::{Report, Request, Serving, serve};
