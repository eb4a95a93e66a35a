// SPDX-License-Identifier: Apache-2.0
//! Making a guest fit its new machine.
//!
//! ```text
//!   Files, Devices --inspect--> Inspection --+
//!   Request (Hardware, firmware, identity) --+--rules--> Draft --> Plan --lint--> findings --apply--> changed files
//!                                            +--firmware-+   ^                                  +--> Undo
//!                                            +--identity-+   |
//!                       inject-drivers (the layer above) ----+
//!   Inspection, Plan::capabilities --target--> libvirt XML, QEMU command line, Proxmox configuration
//! ```
//!
//! Nothing of the guest is ever executed. Facts change nothing, planning touches nothing, applying decides nothing.

pub mod apply;
pub mod devices;
pub mod files;
pub mod firmware;
pub mod identity;
pub mod inspect;
pub mod inspection;
pub mod lint;
pub mod os;
pub mod plan;
pub mod profiles;
pub mod request;
pub mod rules;
pub mod syntax;
mod sys;
pub mod target;
