// SPDX-License-Identifier: Apache-2.0
//! How a guest is booted: loaders, entries, EFI system partitions.

pub(super) mod bls;
mod esp;
mod extlinux;
mod legacy;
mod loaders;
mod systemd_boot;
mod uki;

use unmoor_images::manifest::Firmware;

use super::guest::{Guest, join};
use super::mounts::Mounts;
use crate::inspection::{Boot, LoaderKind};

/// Where arguments of entries that are still to be made stand (grub-mkconfig, kernel-install(8), extlinux of Debian and Alpine,
/// perl-Bootloader).
const ARGUMENT_FILES: [&str; 8] = [
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/etc/default/extlinux",
    "/etc/update-extlinux.conf",
    "/etc/default/u-boot",
    "/etc/sysconfig/bootloader",
    "/etc/dracut.conf.d/cmdline.conf",
    "/etc/default/zipl2grub.conf.in",
];

pub(super) fn read(guest: &Guest<'_>, mounts: &Mounts<'_, '_>) -> Boot {
    let mut boot = Boot { esps: esp::find(guest, mounts), ..Boot::default() };
    let places = esp::places(guest, &boot.esps);
    loaders::grub(guest, mounts, &places, &mut boot);
    legacy::read(guest, mounts, &mut boot);
    systemd_boot::read(guest, mounts, &places, &mut boot);
    extlinux::read(guest, mounts, &mut boot);
    loaders::others(guest, &places, &mut boot);
    let mut files: Vec<String> = ARGUMENT_FILES.iter().map(|path| (*path).to_owned()).collect();
    files.extend(guest.files_in("/etc/default/grub.d", ".cfg"));
    files.extend(guest.files_in("/etc/cmdline.d", ".conf"));
    files.retain(|path| guest.is_file(path));
    boot.argument_files = files;
    boot.entry_token = entry_token(guest, &places);
    boot
}

/// kernel-install(8): the file, else the machine id where entries are named by it, else the system's id.
fn entry_token(guest: &Guest<'_>, places: &[String]) -> Option<String> {
    if let Some(token) = guest.line("/etc/kernel/entry-token") {
        return Some(token);
    }
    let named = |token: &String| {
        let folder = |place: &String| guest.is_directory(&join(place, token));
        let directories = places.iter().map(String::as_str).chain(["/boot"]);
        let entries = directories.flat_map(|place| guest.list(&join(place, "loader/entries")));
        let prefix = format!("{token}-");
        places.iter().any(folder) || entries.into_iter().any(|name| name.starts_with(&prefix))
    };
    let id = guest.line("/etc/machine-id").filter(|id| id.len() == 32);
    let release = guest.text("/etc/os-release").unwrap_or_default();
    let system = crate::syntax::assignments::get(&crate::syntax::assignments::assignments(&release), "ID");
    [id, system].into_iter().flatten().find(named)
}

/// How the machine starts: by UEFI where there is an EFI system partition with a loader for it, unless it is known to have started by
/// BIOS and can.
pub(super) fn firmware(guest: &Guest<'_>, boot: &Boot) -> Firmware {
    let has = |firmware| boot.loaders.iter().any(|loader| loader.firmware == firmware);
    let told = guest.facts.map(|facts| facts.firmware);
    match (has(Firmware::Uefi), has(Firmware::Bios), told) {
        (true, true, Some(Firmware::Bios)) => Firmware::Bios,
        (true, ..) => Firmware::Uefi,
        (false, true, _) => Firmware::Bios,
        (false, false, told) => told.unwrap_or_default(),
    }
}

/// One loader starts first: that of the firmware, and of several the one that is also the fallback, or GRUB.
pub(super) fn keep_one_default(boot: &mut Boot, firmware: Firmware) {
    let first = |kinds: &[LoaderKind]| {
        boot.loaders.iter().any(|loader| loader.firmware == firmware && kinds.contains(&loader.kind))
    };
    let grub = first(&[LoaderKind::Grub2]);
    let rank = |style: &str| match style {
        "grub" | "bls" if grub => 0,
        "systemd-boot" | "uki" if firmware == Firmware::Uefi => 1,
        "grub-legacy" | "extlinux" if firmware == Firmware::Bios => 1,
        "grub" | "bls" => 2,
        _ => 3,
    };
    let defaults = boot.entries.iter().enumerate().filter(|(_, entry)| entry.default);
    let chosen = defaults.min_by_key(|(_, entry)| rank(&entry.style)).map(|(index, _)| index);
    for (index, entry) in boot.entries.iter_mut().enumerate() {
        entry.default = Some(index) == chosen;
    }
}

/// Cuts off what no boot loader's configuration has: each entry, and each file of one, costs reading later on.
pub(super) fn bound(guest: &Guest<'_>, boot: &mut Boot) {
    const MOST_ENTRIES: usize = 1000;
    const MOST_FILES: usize = 16;
    if boot.entries.len() > MOST_ENTRIES {
        guest.note(format!(
            "there are {} boot entries: {MOST_ENTRIES} of them are looked at",
            boot.entries.len()
        ));
        // In their order, but for the one that starts when nobody chooses.
        boot.entries.sort_by_key(|entry| !entry.default);
        boot.entries.truncate(MOST_ENTRIES);
    }
    for entry in boot.entries.iter_mut().filter(|entry| entry.initramfs.len() > MOST_FILES) {
        guest.note(format!(
            "the boot entry {:?} loads {} initramfs files: {MOST_FILES} of them are looked at",
            entry.title.chars().take(80).collect::<String>(),
            entry.initramfs.len()
        ));
        entry.initramfs.truncate(MOST_FILES);
    }
}
