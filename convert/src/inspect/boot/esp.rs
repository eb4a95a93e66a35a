// SPDX-License-Identifier: Apache-2.0
//! EFI system partitions, and where their files are.

use super::super::guest::{Guest, join};
use super::super::mounts::Mounts;
use crate::inspection::Esp;

/// Where distributions mount it.
const PLACES: [&str; 4] = ["/boot/efi", "/efi", "/boot", "/boot/EFI"];
/// What firmware starts when its variables name nothing (UEFI 2.10, section 3.5.1.1).
const FALLBACKS: [&str; 4] = ["bootx64.efi", "bootaa64.efi", "bootia32.efi", "bootriscv64.efi"];

pub(super) fn find(guest: &Guest<'_>, mounts: &Mounts<'_, '_>) -> Vec<Esp> {
    let mut found = Vec::new();
    for (device, facts) in guest.devices.devices.iter().enumerate() {
        let mountpoint = mounts.mountpoint(device).map(str::to_owned);
        // Older installers left the type of a plain partition.
        let by_use = facts.kind == "vfat"
            && mountpoint.as_ref().is_some_and(|path| guest.any_case(&join(path, "EFI")).is_some());
        if facts.is_esp() || by_use {
            let fallback = mountpoint.as_ref().is_some_and(|path| has_fallback(guest, path));
            found.push(Esp { mountpoint, device, fallback });
        }
    }
    found
}

fn has_fallback(guest: &Guest<'_>, mountpoint: &str) -> bool {
    FALLBACKS.iter().any(|name| guest.any_case(&join(mountpoint, &format!("EFI/BOOT/{name}"))).is_some())
}

/// Directories of the guest that show an ESP or may: those of fstab, else those that are customary and have EFI in them.
pub(super) fn places(guest: &Guest<'_>, esps: &[Esp]) -> Vec<String> {
    let mut places: Vec<String> = esps.iter().filter_map(|esp| esp.mountpoint.clone()).collect();
    if places.is_empty() {
        places.extend(PLACES.iter().map(|path| (*path).to_owned()));
    }
    places.retain(|path| guest.any_case(&join(path, "EFI")).is_some());
    places
}
