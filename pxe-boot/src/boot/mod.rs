// SPDX-License-Identifier: Apache-2.0
//! What machines load: boot loaders, their menus, the rescue environment.

mod choice;

pub use choice::{Asker, Choice, Choices};
