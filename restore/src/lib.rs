// SPDX-License-Identifier: Apache-2.0
//! A disk image, put back onto a disk: planned, shown, written, verified, and only then given its table.

pub mod duplicates;
mod esp;
pub mod execute;
pub mod grow;
pub mod image;
pub mod plan;
pub mod record;
pub mod room;
mod sectors;
pub mod stream;
mod sys;
pub mod target;
pub mod view;
