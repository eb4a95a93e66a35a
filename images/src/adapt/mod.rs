// SPDX-License-Identifier: Apache-2.0
//! Sources that wrap sources. One idea a file; to add one, write a struct that holds a
//! [`BlockSource`](crate::BlockSource) and implements it, with its tests below it.

mod mapped;
mod memory;
mod patched;
mod resized;
mod window;

pub use mapped::{Leg, Mapped, Segment};
pub use memory::Memory;
pub use patched::Patched;
pub use resized::{Resized, WithSectors};
pub use window::Window;
