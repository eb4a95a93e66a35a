// SPDX-License-Identifier: Apache-2.0
//! What GRUB 2 would show: its scripts carried out as far as files decide, without anything being changed.
//!
//! ```text
//!   EFI stub, grub.cfg --Machine (variables, conditions, search, source, blscfg)--> Menu --default--> boot entries
//! ```

mod commands;
mod condition;
mod machine;
mod menu;
mod search;
mod words;

use unmoor_images::manifest::Firmware;

use super::guest::Guest;
use super::mounts::Mounts;
use crate::inspection::BootEntry;
use machine::Machine;

/// What a configuration leads to.
#[derive(Default)]
pub(super) struct Carried {
    pub(super) entries: Vec<BootEntry>,
    /// Files that were read, in order: the stub first.
    pub(super) files: Vec<String>,
}

/// Carries out the configuration `config` of a GRUB whose own directory is `prefix`.
pub(super) fn carry_out(
    guest: &Guest<'_>,
    mounts: &Mounts<'_, '_>,
    config: &str,
    prefix: &str,
    firmware: Firmware,
) -> Carried {
    let mut machine = Machine::new(guest, mounts, prefix, firmware);
    machine.source(config);
    let default = machine.variable("default").to_owned();
    let entries = menu::flatten(std::mem::take(&mut machine.menu), &default);
    Carried { entries, files: machine.files_read }
}
