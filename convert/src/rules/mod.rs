// SPDX-License-Identifier: Apache-2.0
//! The edits of files that a new machine asks for, one file a subject.
//!
//! | rule | what it changes |
//! |---|---|
//! | `fstab`, `crypttab`, `resume` | references to devices by names that hardware decides: UUID=, else PARTUUID= |
//! | `boot-arguments`, `grubenv`, `boot-loader` | kernel arguments (root=, resume=, console=) wherever they stand |
//! | `boot-loader-package` | debconf's answers for GRUB, so that its next upgrade works |
//! | `lvm`, `mdadm`, `multipath` | lists and filters of devices |
//! | `network` | adapters keep their names and addresses |
//! | `consoles`, `xorg` | logins on serial ports, the X server's driver |
//! | `guest-tools` | services of a hypervisor that is gone |
//! | `identity` | what a clone must not share with its original |
//!
//! A rule edits text in place: columns, comments, quoting and every byte that it does not mean stay as they are.

mod arguments;
mod boot;
mod consoles;
mod fstab;
mod grubenv;
mod identity;
mod lvm;
mod md;
mod multipath;
mod network;
pub(crate) mod packages;
mod references;
mod resume;
mod screen;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod tools;

use unmoor_images::{Result, ResultExt};

use crate::devices::Devices;
use crate::inspection::Inspection;
use crate::plan::Draft;
use crate::request::Request;

pub(crate) use fstab::is_needed;
pub(crate) use references::names_hardware;

/// Files of the guest that an initramfs has copies of, which decide on what devices volumes and arrays are looked for.
pub const COPIED: [&str; 4] =
    ["/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf", "/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"];

/// What a copy of one of [`COPIED`] in an initramfs is to be, where it would refuse the new machine's disks; `None` where it is as good
/// as it is. A copy need not equal the guest's own file: it is older, or was made for the initramfs.
pub fn corrected(path: &str, content: &[u8]) -> Option<Vec<u8>> {
    let file = text::Text::from_bytes(content.to_vec());
    let pieces = match path {
        "/etc/lvm/lvm.conf" | "/etc/lvm/lvmlocal.conf" => lvm::pieces(&file.text),
        "/etc/mdadm/mdadm.conf" | "/etc/mdadm.conf" => md::pieces(&file.text).0,
        _ => return None,
    };
    (!pieces.is_empty()).then(|| file.with(&pieces))
}

/// Plans what the new machine asks of the guest's files.
///
/// # Errors
///
/// `Usage` where the request names adapters that are not there; `Io`, `Unsupported` where a file cannot be read or changed.
pub fn plan(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    devices: &Devices,
    request: &Request,
) -> Result<()> {
    let nics = network::assign(draft, inspection, request)?;
    let macs = network::macs(&nics);
    let context = arguments::Context { devices, serial: request.hardware.serial.as_deref(), macs: &macs };
    fstab::plan(draft, devices).doing(|| "planning mounts")?;
    resume::plan(draft, devices).doing(|| "planning the swap area to resume from")?;
    boot::plan(draft, inspection, &context).doing(|| "planning kernel arguments")?;
    packages::plan(draft, devices).doing(|| "planning the boot loader package's answers")?;
    lvm::plan(draft, inspection).doing(|| "planning LVM's configuration")?;
    md::plan(draft).doing(|| "planning mdadm's configuration")?;
    multipath::plan(draft, &request.hardware).doing(|| "planning multipath's configuration")?;
    network::plan(draft, inspection, request, &nics).doing(|| "planning the network")?;
    consoles::plan(draft, &request.hardware).doing(|| "planning consoles")?;
    screen::plan(draft).doing(|| "planning the X server's configuration")?;
    tools::plan(draft, inspection, &request.hardware).doing(|| "planning guest tools")?;
    identity::plan(draft, inspection, request).doing(|| "planning a new identity")
}
