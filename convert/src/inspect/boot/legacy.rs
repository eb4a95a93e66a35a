// SPDX-License-Identifier: Apache-2.0
//! GRUB legacy (0.97): menu.lst, or Red Hat's grub.conf.

use unmoor_images::layout::Place;
use unmoor_images::manifest::Firmware;

use super::super::guest::Guest;
use super::super::mounts::Mounts;
use crate::inspection::{Boot, BootEntry, Loader, LoaderKind};
use crate::syntax::keywords::parse;

const CONFIGS: [&str; 3] = ["/boot/grub/grub.conf", "/boot/grub/menu.lst", "/etc/grub.conf"];
const MOST_ENTRIES: usize = 256;

pub(super) fn read(guest: &Guest<'_>, mounts: &Mounts<'_, '_>, boot: &mut Boot) {
    // What was left behind by an upgrade to GRUB 2 starts nothing.
    if boot.loaders.iter().any(|loader| loader.firmware == Firmware::Bios) {
        return;
    }
    let Some(config) = CONFIGS.iter().find(|path| guest.is_file(path)) else { return };
    let Some(text) = guest.text(config) else { return };
    let mut entries: Vec<BootEntry> = Vec::new();
    let mut default = 0;
    let mut root = None;
    for line in parse(&text) {
        let value = line.value.as_str();
        let room = entries.len() < MOST_ENTRIES;
        match (line.key.as_str(), entries.last_mut()) {
            ("default", None) => default = value.parse().unwrap_or(0),
            ("title", _) if room => {
                root = None;
                entries.push(BootEntry {
                    file: (*config).to_owned(),
                    lines: Some((line.line, line.line)),
                    style: "grub-legacy".into(),
                    title: value.to_owned(),
                    kernel: None,
                    initramfs: Vec::new(),
                    arguments: Vec::new(),
                    default: false,
                });
                continue;
            }
            ("root" | "rootnoverify", _) => root = device(guest, value),
            ("uuid", _) => root = guest.devices.resolve(&format!("UUID={value}")),
            ("kernel", Some(entry)) => {
                let mut words = value.split_whitespace().skip_while(|word| word.starts_with("--"));
                entry.kernel = words.next().map(|path| place(guest, mounts, root, path));
                entry.arguments = words.map(str::to_owned).collect();
            }
            ("module", Some(entry)) => {
                // A hypervisor's kernel and initramfs.
                let mut words = value.split_whitespace();
                let path = words.next().map(|path| place(guest, mounts, root, path));
                if entry.kernel.as_ref().is_some_and(|kernel| kernel.contains("xen")) {
                    entry.kernel = path;
                    entry.arguments = words.map(str::to_owned).collect();
                } else {
                    entry.initramfs.extend(path);
                }
            }
            ("initrd", Some(entry)) => {
                let files = value.split_whitespace();
                entry.initramfs = files.map(|path| place(guest, mounts, root, path)).collect();
            }
            _ => {}
        }
        if let Some(lines) = entries.last_mut().and_then(|entry| entry.lines.as_mut()) {
            lines.1 = line.line;
        }
    }
    if let Some(entry) = entries.get_mut(default) {
        entry.default = true;
    }
    boot.entries.append(&mut entries);
    boot.loaders.push(Loader {
        kind: LoaderKind::GrubLegacy,
        firmware: Firmware::Bios,
        config: guest.real_path(config),
        binaries: Vec::new(),
        shim: false,
    });
}

/// "(hd0,0)": partitions count from 0.
fn device(guest: &Guest<'_>, name: &str) -> Option<usize> {
    let (disk, partition) = name.trim().strip_prefix("(hd")?.split_once(')')?.0.split_once(',')?;
    let (disk, partition): (usize, u32) = (disk.parse().ok()?, partition.parse().ok()?);
    let wanted = partition.checked_add(1)?;
    guest.devices.devices.iter().position(|device| {
        let here = matches!(device.place, Place::Disk { partition: Some(here), .. } if here == wanted);
        device.disk == disk && here
    })
}

fn place(guest: &Guest<'_>, mounts: &Mounts<'_, '_>, root: Option<usize>, path: &str) -> String {
    match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((name, path)) => mounts.locate(device(guest, &format!("({name})")), path),
        None => mounts.locate(root, path),
    }
}
