// SPDX-License-Identifier: Apache-2.0
//! GRUB 2's script language (GRUB manual, "Writing full configuration files directly"; its grammar is grub-core/script/parser.y)
//! and its environment block.
//!
//! ```text
//!   grub.cfg --words--> tokens with places --script--> commands --crate::inspect::grub--> variables, menu entries
//! ```

pub mod env;
mod script;
#[cfg(test)]
mod tests;
mod words;

pub use script::{Block, Command, Script, Simple, parse};
pub use words::{Part, Word};
