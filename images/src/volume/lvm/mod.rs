// SPDX-License-Identifier: Apache-2.0
//! LVM2: labels, metadata areas and the text in them.

mod group;
mod grow;
mod make;
mod pv;
mod text;
mod uuid;

pub use group::{LogicalVolume, Member, Stripes, VolumeGroup};
pub use grow::{Growth, grow};
pub use make::{Head, head};
pub use pv::{PhysicalVolume, probe};
pub use uuid::{Renamed, change, ids};

#[cfg(test)]
pub(crate) mod tests;
