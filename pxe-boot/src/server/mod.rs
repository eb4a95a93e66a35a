// SPDX-License-Identifier: Apache-2.0
//! The server: machines, jobs, and the store behind them.

mod admin;
pub mod store;

pub use admin::{Admin, Image, Subscription};
