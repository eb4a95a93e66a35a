// SPDX-License-Identifier: Apache-2.0
//! All that is printed, and the only place that prints.
//!
//! ```text
//!   results    -> standard output (text, or JSON with --json)
//!   progress   -> standard error: bars on a terminal, a line every few seconds elsewhere; with --json lines on standard output
//!   warnings   -> standard error
//! ```

mod bars;
mod lines;
mod meter;
pub(crate) mod size;
pub(crate) mod table;
mod terminal;

pub(crate) use terminal::{Listener, Outcome, Terminal};
