// SPDX-License-Identifier: Apache-2.0
//! systemd-boot: loader.conf(5), entries on the ESP and on the extended boot loader partition, unified kernel images.

use std::collections::BTreeMap;

use unmoor_images::manifest::Firmware;

use super::super::guest::{Guest, join};
use super::super::mounts::Mounts;
use super::{bls, uki};
use crate::inspection::{Boot, BootEntry, Loader, LoaderKind};
use crate::syntax::glob;
use crate::syntax::keywords::{get, parse};

pub(super) fn read(guest: &Guest<'_>, mounts: &Mounts<'_, '_>, places: &[String], boot: &mut Boot) {
    let mut binaries = Vec::new();
    let mut config = None;
    for place in places {
        let directory = join(place, "EFI/systemd");
        let names = guest.any_case(&directory).map(|directory| (guest.list(&directory), directory));
        if let Some((names, directory)) = names {
            let is_loader = |name: &String| name.to_ascii_lowercase().starts_with("systemd-boot");
            binaries.extend(names.into_iter().filter(is_loader).map(|name| join(&directory, &name)));
        }
        config = config.or_else(|| guest.any_case(&join(place, "loader/loader.conf")));
    }
    // The extended boot loader partition is mounted on /boot.
    let mut boots: Vec<String> = places.to_vec();
    if !boots.iter().any(|place| place == "/boot") {
        boots.push("/boot".to_owned());
    }
    let ukis: Vec<(String, BootEntry)> = boots.iter().flat_map(|place| uki::entries(guest, place)).collect();
    if !ukis.is_empty() {
        boot.loaders.push(Loader {
            kind: LoaderKind::Uki,
            firmware: Firmware::Uefi,
            config: None,
            binaries: ukis.iter().map(|(_, entry)| entry.file.clone()).collect(),
            shim: false,
        });
    }
    let mut entries = Vec::new();
    if !binaries.is_empty() || config.is_some() {
        for place in &boots {
            let directory = join(place, "loader/entries");
            // GRUB's entries lie there too: they are its own where it is the only loader.
            if let Some(directory) = guest.any_case(&directory) {
                entries.extend(bls::entries(guest, mounts, &directory, &BTreeMap::new(), "systemd-boot"));
            }
        }
        boot.loaders.push(Loader {
            kind: LoaderKind::SystemdBoot,
            firmware: Firmware::Uefi,
            config: config.clone(),
            binaries,
            shim: false,
        });
    }
    entries.extend(ukis);
    let wanted = config.and_then(|path| guest.text(&path));
    let wanted = wanted.and_then(|text| get(&parse(&text), "default").map(str::to_owned));
    let chosen =
        wanted.and_then(|pattern| entries.iter().position(|(id, entry)| is_meant(&pattern, id, entry)));
    if let Some((_, entry)) = entries.get_mut(chosen.unwrap_or(0)) {
        entry.default = true;
    }
    boot.entries.extend(entries.into_iter().map(|(_, entry)| entry));
}

/// Ids have their file's ending; older versions took the pattern without it.
fn is_meant(pattern: &str, id: &str, entry: &BootEntry) -> bool {
    let ending = if entry.style == "uki" { "" } else { ".conf" };
    let (pattern, id) = (pattern.to_ascii_lowercase(), id.to_ascii_lowercase());
    glob::matches(&pattern, &format!("{id}{ending}")) || glob::matches(&pattern, &id)
}
