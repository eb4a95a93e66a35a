// SPDX-License-Identifier: Apache-2.0
//! What has to be known of GRUB 2: its images, its modules, its configuration, and what its drivers can read.

pub(crate) mod binary;
pub(crate) mod config;
pub mod core_image;
pub(crate) mod embedded;
pub(crate) mod modules;
pub mod reads;
