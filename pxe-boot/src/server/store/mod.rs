// SPDX-License-Identifier: Apache-2.0
//! The store, as agents reach it through the server.

mod gate;

pub use gate::{Access, Gate, PeerKey, Reach};
