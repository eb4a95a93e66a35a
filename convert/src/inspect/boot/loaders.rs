// SPDX-License-Identifier: Apache-2.0
//! GRUB 2 for either firmware, and loaders that are only named.

use unmoor_images::manifest::Firmware;

use super::super::grub::carry_out;
use super::super::guest::{Guest, join};
use super::super::mounts::Mounts;
use crate::inspection::{Boot, Loader, LoaderKind};

/// GRUB's own directory: Debian, Arch, Alpine; Red Hat, SUSE.
const DIRECTORIES: [&str; 2] = ["/boot/grub", "/boot/grub2"];

pub(super) fn grub(guest: &Guest<'_>, mounts: &Mounts<'_, '_>, places: &[String], boot: &mut Boot) {
    let mut read: Vec<String> = Vec::new();
    let mut carry = |config: &str, prefix: &str, firmware: Firmware, boot: &mut Boot| -> Option<String> {
        let carried = carry_out(guest, mounts, config, prefix, firmware);
        // The last file that has entries or that was asked for.
        let real = carried
            .files
            .iter()
            .rev()
            .find(|file| file.ends_with("grub.cfg"))
            .or(carried.files.last())
            .cloned()?;
        if !read.contains(&real) {
            read.push(real.clone());
            boot.entries.extend(carried.entries);
        }
        Some(real)
    };
    for place in places {
        for binary in binaries(guest, place) {
            let directory = binary.rsplit_once('/').map_or("", |(directory, _)| directory);
            let names = guest.list(directory);
            let is_shim = |name: &&String| name.to_ascii_lowercase().starts_with("shim");
            let shims: Vec<String> = names.iter().filter(is_shim).map(|name| join(directory, name)).collect();
            let own = guest.any_case(&join(directory, "grub.cfg"));
            let config = match &own {
                Some(stub) => carry(stub, directory, Firmware::Uefi, boot),
                None => DIRECTORIES.iter().find_map(|prefix| {
                    let config = join(prefix, "grub.cfg");
                    guest.is_file(&config).then(|| carry(&config, prefix, Firmware::Uefi, boot)).flatten()
                }),
            };
            boot.loaders.push(Loader {
                kind: LoaderKind::Grub2,
                firmware: Firmware::Uefi,
                config,
                shim: !shims.is_empty(),
                binaries: [binary].into_iter().chain(shims).collect(),
            });
        }
    }
    let uefi = !boot.loaders.is_empty();
    for prefix in DIRECTORIES {
        let config = join(prefix, "grub.cfg");
        if !guest.is_file(&config) {
            continue;
        }
        // A configuration without a platform's modules is the EFI loader's, where there is one.
        let modules = guest.is_directory(&join(prefix, "i386-pc"));
        if !modules && uefi {
            continue;
        }
        let config = carry(&config, prefix, Firmware::Bios, boot);
        boot.loaders.push(Loader {
            kind: LoaderKind::Grub2,
            firmware: Firmware::Bios,
            config,
            binaries: Vec::new(),
            shim: false,
        });
    }
}

/// GRUB's EFI programs on an ESP, one a vendor's directory. In the fallback's directory it counts only where no vendor has one:
/// Debian's removable installation.
fn binaries(guest: &Guest<'_>, place: &str) -> Vec<String> {
    let Some(efi) = guest.any_case(&join(place, "EFI")) else { return Vec::new() };
    let mut found = Vec::new();
    let mut fallback = Vec::new();
    for vendor in guest.list(&efi) {
        let directory = join(&efi, &vendor);
        let names = guest.list(&directory);
        let is_grub = |name: &&String| {
            let name = name.to_ascii_lowercase();
            name.starts_with("grub") && name.ends_with(".efi")
        };
        let grub = names.iter().find(is_grub).map(|name| join(&directory, name));
        if vendor.eq_ignore_ascii_case("boot") {
            let has_config = names.iter().any(|name| name.eq_ignore_ascii_case("grub.cfg"));
            let boot = names.iter().find(|name| name.to_ascii_lowercase().starts_with("boot"));
            fallback.extend(grub.or_else(|| boot.filter(|_| has_config).map(|name| join(&directory, name))));
        } else {
            found.extend(grub);
        }
    }
    if found.is_empty() { fallback } else { found }
}

/// Loaders whose configuration is not read: their names make a refusal that says what it is.
pub(super) fn others(guest: &Guest<'_>, places: &[String], boot: &mut Boot) {
    // A package that left its configuration behind is no loader: another one that is there counts.
    let alone = boot.loaders.is_empty();
    let mut add = |kind, firmware, config: &str, name: &str| {
        if !guest.is_file(config) {
            return;
        }
        if kind == LoaderKind::Unknown {
            guest.note(format!("{config} configures {name}, a boot loader that is not read"));
        }
        boot.loaders.push(Loader {
            kind,
            firmware,
            config: Some(config.to_owned()),
            binaries: Vec::new(),
            shim: false,
        });
    };
    if alone {
        add(LoaderKind::Lilo, Firmware::Bios, "/etc/lilo.conf", "LILO");
        add(LoaderKind::Unknown, Firmware::Bios, "/etc/zipl.conf", "zipl");
        add(LoaderKind::Unknown, Firmware::Bios, "/boot/limine.conf", "Limine");
    }
    for place in places {
        add(LoaderKind::Unknown, Firmware::Uefi, &join(place, "EFI/refind/refind.conf"), "rEFInd");
        add(LoaderKind::Unknown, Firmware::Uefi, &join(place, "limine.conf"), "Limine");
        add(LoaderKind::Unknown, Firmware::Uefi, &join(place, "EFI/debian/elilo.conf"), "ELILO");
    }
}
