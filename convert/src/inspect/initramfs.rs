// SPDX-License-Identifier: Apache-2.0
//! What an initramfs is and what made it: by its own files, or else by what the system makes them with.

use unmoor_initramfs::archive::{self, Archive, Limits};

use super::guest::Guest;
use crate::inspection::Initramfs;
use crate::syntax::assignments::{assignments, get};

/// The largest that is read.
const MOST: u64 = 512 << 20;

pub(super) fn examine(guest: &Guest<'_>, path: &str) -> Initramfs {
    let size = guest.size(path);
    let mut found = Initramfs {
        path: path.to_owned(),
        made_by: tool(guest, path).to_owned(),
        host_only: false,
        compression: Vec::new(),
        broken: None,
        size: size.unwrap_or(0),
    };
    let mut archive = None;
    match size {
        None => found.broken = Some("there is no such file".into()),
        Some(0) => found.broken = Some("it is empty".into()),
        Some(_) if found.made_by == "uki" => {}
        Some(_) => match guest.bytes(path, MOST) {
            Some(bytes) => match archive::read(&bytes, &Limits { keep: is_telling, ..Limits::default() }) {
                Ok(read) => archive = Some(read),
                Err(error) => found.broken = Some(error.chain()),
            },
            None => found.broken = Some(format!("it could not be read, or has more than {MOST} bytes")),
        },
    }
    if let Some(archive) = &archive {
        found.compression =
            archive.segments.iter().map(|segment| segment.compression.name().to_owned()).collect();
        if let Some(tool) = tool_by_files(archive) {
            found.made_by = tool.to_owned();
        }
    }
    found.host_only = host_only(guest, path, &found.made_by, archive.as_ref());
    found
}

/// Files that say how an image was made.
fn is_telling(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    matches!(name, "initramfs.conf" | "build-parameter.txt" | "buildconfig") || path.contains("conf/conf.d/")
}

fn tool_by_files(archive: &Archive) -> Option<&'static str> {
    let has = |path: &str| archive.tree.node(path).is_some();
    for (path, tool) in [
        ("scripts/functions", "initramfs-tools"),
        ("conf/initramfs.conf", "initramfs-tools"),
        ("usr/lib/dracut", "dracut"),
        ("lib/dracut", "dracut"),
        ("init_functions", "mkinitcpio"),
        ("etc/booster.init.yaml", "booster"),
    ] {
        if has(path) {
            return Some(tool);
        }
    }
    let microcode = has("kernel/x86/microcode") || has("kernel/firmware/acpi");
    (microcode && !has("init")).then_some("microcode")
}

/// By its name, or else by what the system makes them with.
fn tool(guest: &Guest<'_>, path: &str) -> &'static str {
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

fn host_only(guest: &Guest<'_>, path: &str, made_by: &str, archive: Option<&Archive>) -> bool {
    let text = |path: &str| guest.text(path).unwrap_or_default();
    let inner = |path: &str| {
        let bytes = archive.and_then(|archive| archive.tree.read(path))?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    match made_by {
        // initramfs.conf(5): "most" and "netboot" are for any machine. The image has a copy of what it was made with.
        "initramfs-tools" => {
            let own = inner("conf/initramfs.conf").and_then(|text| get(&assignments(&text), "MODULES"));
            let configured = || {
                let mut value = get(&assignments(&text("/etc/initramfs-tools/initramfs.conf")), "MODULES");
                for file in guest.files_in("/etc/initramfs-tools/conf.d", "") {
                    value = get(&assignments(&text(&file)), "MODULES").or(value);
                }
                value
            };
            own.or_else(configured).is_some_and(|value| value == "dep" || value == "list")
        }
        "dracut" => {
            let words = inner("usr/lib/dracut/build-parameter.txt")
                .or_else(|| inner("lib/dracut/build-parameter.txt"));
            let words = words.unwrap_or_default();
            let given =
                |options: &[&str]| words.split([' ', '\'', '"', '\n']).any(|word| options.contains(&word));
            // The command line wins; the generic image of a rescue entry is made with --no-hostonly.
            if given(&["--no-hostonly", "-N"]) || path.contains("rescue") {
                return false;
            }
            given(&["--hostonly", "-H"]) || dracut_setting(guest).is_some_and(|value| value.trim() == "yes")
        }
        "mkinitcpio" => {
            let config = inner("buildconfig").unwrap_or_else(|| text("/etc/mkinitcpio.conf"));
            let mut lines = config.lines().filter(|line| line.trim_start().starts_with("HOOKS"));
            !path.contains("fallback") && lines.any(|line| line.contains("autodetect"))
        }
        // Made for the machine, unless told otherwise.
        "booster" => !text("/etc/booster.yaml").lines().any(|line| line.trim() == "universal: true"),
        _ => false,
    }
}

/// dracut.conf(5): later files win, in the order of their names, and those of /etc over those of the package.
fn dracut_setting(guest: &Guest<'_>) -> Option<String> {
    let mut named: Vec<(String, String)> = Vec::new();
    for directory in ["/usr/lib/dracut/dracut.conf.d", "/etc/dracut.conf.d"] {
        for file in guest.files_in(directory, ".conf") {
            let name = file.rsplit('/').next().unwrap_or_default().to_owned();
            named.retain(|(known, _)| *known != name);
            named.push((name, file));
        }
    }
    named.sort();
    let mut files = vec!["/etc/dracut.conf".to_owned()];
    files.extend(named.into_iter().map(|(_, file)| file));
    let setting = |file: &String| get(&assignments(&guest.text(file).unwrap_or_default()), "hostonly");
    files.iter().rev().find_map(setting)
}
