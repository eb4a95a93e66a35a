// SPDX-License-Identifier: Apache-2.0
//! What keeps a planned guest from booting, said before anything is written. Errors refuse the plan.
//!
//! | rule | error | warning |
//! |---|---|---|
//! | `kernel` | no kernel that a boot entry starts; the default entry's kernel or initramfs is not there | another entry's is not there; no modules |
//! | `initramfs` | none of the bootable kernels has one that can be read | one cannot be read |
//! | `root` | the default entry's root= is on no captured disk; only this machine's TPM opens it | a passphrase will be asked for |
//! | `mounts` | `/usr`, `/boot`, ... will not be found | another mount will not be found, and has no "nofail" |
//! | `boot-loader` | none that is known; UEFI without an EFI system partition | LILO |
//! | `room` | no room or inodes for the files that are written | |
//! | `hibernated` | a swap area holds a suspended system | |
//!
//! Drivers are inject-drivers' to judge, tables and GRUB's view of /boot the firmware plan's.

mod kernels;
mod mounts;
mod root;
#[cfg(test)]
mod tests;

use unmoor_images::Result;
use unmoor_images::manifest::Firmware;

use crate::apply::room;
use crate::devices::Devices;
use crate::inspection::{Inspection, LoaderKind};
use crate::plan::{Draft, Edit, Severity};
use crate::request::Request;

/// Adds findings to a draft that is complete but for them.
///
/// # Errors
///
/// Where the guest's files cannot be read.
pub fn lint(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    devices: &Devices,
    request: &Request,
) -> Result<()> {
    kernels::lint(draft, inspection)?;
    root::lint(draft, inspection, devices)?;
    mounts::lint(draft, devices)?;
    boot_loader(draft, inspection, request);
    hibernated(draft, devices);
    let original = draft.original();
    let edits: Vec<&Edit> = draft.edits().collect();
    let fit = room(&edits, original, 0)?;
    if let Some(shortage) = fit.shortage {
        draft.finding(Severity::Error, "room", shortage, None);
    }
    Ok(())
}

fn boot_loader(draft: &mut Draft<'_>, inspection: &Inspection, request: &Request) {
    const RULE: &str = "boot-loader";
    let loaders = &inspection.boot.loaders;
    let known = |kind: &LoaderKind| !matches!(kind, LoaderKind::Unknown);
    if !loaders.iter().any(|loader| known(&loader.kind)) {
        draft.finding(
            Severity::Error,
            RULE,
            "no boot loader that unmoor knows was found",
            Some("GRUB, systemd-boot, unified kernel images and extlinux are known; install one of them on the machine first".into()),
        );
    } else if loaders.iter().all(|loader| loader.kind == LoaderKind::Lilo) {
        draft.finding(
            Severity::Warning,
            RULE,
            "LILO finds kernels by their place on the disk, and its configuration is not changed",
            Some(
                "start the new machine once from a rescue system and run lilo there, or install GRUB first"
                    .into(),
            ),
        );
    }
    let firmware = request.firmware.unwrap_or(inspection.firmware);
    // A plan that makes one has disk edits.
    if firmware == Firmware::Uefi && inspection.boot.esps.is_empty() && draft.disk_edits().is_empty() {
        draft.finding(
            Severity::Error,
            RULE,
            "a machine with UEFI starts from an EFI system partition, and the guest has none",
            Some("--firmware bios keeps a BIOS guest as it is; --firmware uefi makes the partition".into()),
        );
    }
}

fn hibernated(draft: &mut Draft<'_>, devices: &Devices) {
    for device in devices.devices.iter().filter(|device| device.kind == "swsuspend") {
        let name =
            device.names.first().or(device.uuid.as_ref()).cloned().unwrap_or_else(|| "a swap area".into());
        draft.finding(
            Severity::Error,
            "hibernated",
            format!(
                "{name} holds a suspended system, whose memory knows the old hardware and open filesystems"
            ),
            Some("start the machine, shut it down properly, and capture it again".into()),
        );
    }
}
