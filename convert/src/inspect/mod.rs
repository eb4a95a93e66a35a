// SPDX-License-Identifier: Apache-2.0
//! Finding out what a guest is: from its files alone, reading only.
//!
//! ```text
//!   Files, Devices, facts --Guest (what cannot be read becomes a note)--> system, mounts, boot, kernels, storage, network, ...
//! ```
//!
//! One file a subject. A file that is missing, broken or hostile costs its own facts and nothing else; everything is bounded: files
//! by [`crate::files::MOST_TEXT`], includes by depth and number, scripts by steps.

mod boot;
mod grub;
mod guest;
mod identity;
mod initramfs;
mod kernels;
mod mounts;
mod network;
mod storage;
mod system;
#[cfg(test)]
mod tests;
mod tools;

use unmoor_images::manifest::MachineFacts;
use unmoor_images::{Error, Result};

use crate::devices::Devices;
use crate::files::Files;
use crate::inspection::Inspection;

use guest::Guest;

/// Finds out what the guest with `files` is. `devices` are what its machine's disks hold, `facts` those of the machine when it was
/// captured.
///
/// # Errors
///
/// `Unsupported` where there is no Linux system. Whatever else cannot be read or understood is a note in the answer.
pub fn inspect(files: &dyn Files, devices: &Devices, facts: Option<&MachineFacts>) -> Result<Inspection> {
    let guest = Guest::new(files, devices, facts);
    if !guest.exists("/etc") || !(guest.exists("/usr") || guest.exists("/bin")) {
        return Err(Error::unsupported(
            "inspecting the guest",
            "there is no Linux system: /etc and /usr are not there",
        ));
    }
    let mut system = system::read(&guest);
    let fstab = mounts::fstab(&guest);
    let crypttab = mounts::crypttab(&guest);
    let mounts = mounts::Mounts::new(&guest, &fstab);
    let mut boot = boot::read(&guest, &mounts);
    let firmware = boot::firmware(&guest, &boot);
    boot::keep_one_default(&mut boot, firmware);
    boot::bound(&guest, &mut boot);
    let kernels = kernels::read(&guest, &boot);
    system::selinux_by_arguments(&mut system, &boot);
    let resume = storage::resume(&guest, &boot);
    let root = storage::root(&guest, &fstab, &crypttab, &boot);
    let network = network::read(&guest, &boot);
    let consoles = system::consoles(&guest, &boot);
    Ok(Inspection {
        system,
        firmware,
        root,
        kernels,
        fstab,
        crypttab,
        resume,
        lvm: storage::lvm(&guest),
        md_arrays: storage::md_arrays(&guest),
        multipath: storage::multipath(&guest),
        network,
        tools: tools::read(&guest),
        consoles,
        identity: identity::read(&guest),
        boot,
        notes: guest.into_notes(),
    })
}
