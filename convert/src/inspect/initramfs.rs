// SPDX-License-Identifier: Apache-2.0
//! What an initramfs is and what made it.

use super::guest::Guest;
use crate::inspection::Initramfs;
use crate::syntax::assignments::{assignments, get};

/// The largest that is read.
const MOST: u64 = 1 << 30;

/// First bytes of what the kernel can decompress (lib/decompress.c), and of newc archives.
const MAGICS: [(&[u8], &str); 9] = [
    (b"070701", "none"),
    (b"070702", "none"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x5d\0\0", "lzma"),
    (b"BZh", "bzip2"),
    (b"\x89LZO", "lzo"),
];

pub(super) fn examine(guest: &Guest<'_>, path: &str) -> Initramfs {
    let size = guest.size(path);
    let mut found = Initramfs {
        path: path.to_owned(),
        made_by: made_by(guest, path).to_owned(),
        host_only: false,
        compression: Vec::new(),
        broken: None,
        size: size.unwrap_or(0),
    };
    found.host_only = host_only(guest, path, &found.made_by);
    match size {
        None => found.broken = Some("there is no such file".into()),
        Some(0) => found.broken = Some("it is empty".into()),
        Some(_) if found.made_by == "uki" => {}
        Some(_) => {
            let bytes = guest.bytes(path, MOST).unwrap_or_default();
            match MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
                Some((_, name)) => found.compression.push((*name).to_owned()),
                None => found.broken = Some("it begins with no archive that the kernel knows".into()),
            }
        }
    }
    found
}

/// By its name, or else by what the system makes them with.
fn made_by(guest: &Guest<'_>, path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    if name.to_ascii_lowercase().ends_with(".efi") {
        return "uki";
    }
    if name.contains("ucode") || name.contains("microcode") {
        return "microcode";
    }
    for (paths, tool) in [
        (&["/usr/sbin/update-initramfs", "/etc/initramfs-tools/initramfs.conf"][..], "initramfs-tools"),
        (&["/etc/mkinitcpio.conf"], "mkinitcpio"),
        (&["/usr/bin/dracut", "/usr/sbin/dracut", "/usr/lib/dracut", "/sbin/dracut"], "dracut"),
        (&["/usr/bin/booster", "/etc/booster.yaml"], "booster"),
        (&["/etc/mkinitfs/mkinitfs.conf", "/sbin/mkinitfs"], "mkinitfs"),
        (&["/sbin/mkinitrd"], "mkinitrd"),
    ] {
        if guest.any(paths) {
            return tool;
        }
    }
    "unknown"
}

fn host_only(guest: &Guest<'_>, path: &str, made_by: &str) -> bool {
    let text = |path: &str| guest.text(path).unwrap_or_default();
    match made_by {
        // initramfs.conf(5): "most" and "netboot" are for any machine.
        "initramfs-tools" => {
            let mut value = get(&assignments(&text("/etc/initramfs-tools/initramfs.conf")), "MODULES");
            for file in guest.files_in("/etc/initramfs-tools/conf.d", "") {
                value = get(&assignments(&text(&file)), "MODULES").or(value);
            }
            value.is_some_and(|value| value == "dep" || value == "list")
        }
        // dracut.conf(5): later files win, in the order of their names.
        "dracut" => {
            let mut files = vec!["/etc/dracut.conf".to_owned()];
            let mut named: Vec<(String, String)> = Vec::new();
            for directory in ["/usr/lib/dracut/dracut.conf.d", "/etc/dracut.conf.d"] {
                for file in guest.files_in(directory, ".conf") {
                    let name = file.rsplit('/').next().unwrap_or_default().to_owned();
                    named.retain(|(known, _)| *known != name);
                    named.push((name, file));
                }
            }
            named.sort();
            files.extend(named.into_iter().map(|(_, file)| file));
            let value = files.iter().rev().find_map(|file| get(&assignments(&text(file)), "hostonly"));
            let rescue = path.contains("rescue");
            !rescue && value.is_some_and(|value| value.trim() == "yes")
        }
        "mkinitcpio" => {
            let hooks = text("/etc/mkinitcpio.conf");
            let mut lines = hooks.lines().filter(|line| line.trim_start().starts_with("HOOKS"));
            !path.contains("fallback") && lines.any(|line| line.contains("autodetect"))
        }
        // Alpine's and booster's are made for the machine, unless told otherwise.
        "booster" => !text("/etc/booster.yaml").lines().any(|line| line.trim() == "universal: true"),
        _ => false,
    }
}
