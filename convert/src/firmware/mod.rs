// SPDX-License-Identifier: Apache-2.0
//! A guest for another firmware: BIOS to UEFI, UEFI to BIOS, and the fallback path of UEFI guests that stay what they are.
//!
//! ```text
//!   to_uefi   layout --space--> room for an ESP --partition::rewrite::to_gpt--> table      grub::config: stub --> the guest's grub.cfg
//!             loaders (guest's packages, payload): shim, GRUB --esp--> FAT volume or files   fstab, PARTUUIDs, linux16
//!   to_bios   layout --space--> BIOS boot partition;  loaders --grub::core_image--> boot code, core image;  modules beside grub.cfg
//!   fallback  ESP without \EFI\BOOT\BOOTX64.EFI --> copies of the guest's own signed loaders
//!   nvram     Boot#### variables, for a machine with firmware of its own
//! ```
//!
//! Whether the boot area is written is decided here; it is written last of all ([`crate::plan::DiskEdit`]).

mod esp;
mod fallback;
pub mod grub;
mod guest;
mod loaders;
pub(crate) mod locate;
mod mount;
pub mod nvram;
mod partuuid;
mod seed;
mod space;
#[cfg(test)]
mod tests;
mod to_bios;
mod to_uefi;

use unmoor_images::layout::DiskLayout;
use unmoor_images::manifest::Firmware;
use unmoor_images::{BlockSource, ErrorKind, Result};

use crate::devices::Devices;
use crate::identity::Names;
use crate::inspection::Inspection;
use crate::plan::{Draft, Severity};
use crate::request::{Request, SecureBoot};

/// The rule's name in edits and findings.
pub(crate) const RULE: &str = "firmware";

/// Everything that a plan is made of.
struct Context<'a> {
    inspection: &'a Inspection,
    devices: &'a Devices,
    disks: &'a [&'a dyn BlockSource],
    layouts: &'a [DiskLayout],
    request: &'a Request,
    /// What gets another identity.
    names: &'a Names,
}

/// Plans what the guest needs to start with the firmware of `request`.
///
/// What it makes names things by their new identities in `names`; files that it changes are for [`crate::identity::plan`] to bring in step.
/// `disks` are as they will be when the plan is applied: with the size of the target, and `layouts` are theirs. What
/// cannot be done becomes a finding of severity `Error`.
///
/// # Errors
///
/// `Io`, and what `draft` fails with.
pub fn plan(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    devices: &Devices,
    disks: &[&dyn BlockSource],
    layouts: &[DiskLayout],
    request: &Request,
    names: &Names,
) -> Result<()> {
    let context = Context { inspection, devices, disks, layouts, request, names };
    let wanted = request.firmware.unwrap_or(inspection.firmware);
    let done = match (inspection.firmware, wanted) {
        (Firmware::Uefi, Firmware::Uefi) => {
            let capabilities = draft.capabilities();
            capabilities.uefi = true;
            capabilities.secure_boot = request.secure_boot == SecureBoot::Keep
                && inspection.boot.loaders.iter().any(|loader| loader.shim);
            fallback::plan(draft, &context)
        }
        (Firmware::Bios, Firmware::Uefi) => to_uefi::plan(draft, &context),
        (Firmware::Uefi, Firmware::Bios) => to_bios::plan(draft, &context),
        (Firmware::Bios, Firmware::Bios) => Ok(()),
    };
    match done {
        Err(error) if error.kind() != ErrorKind::Io => {
            draft.finding(Severity::Error, RULE, error.chain(), None);
            Ok(())
        }
        done => done,
    }
}
