// SPDX-License-Identifier: Apache-2.0
//! What an initramfs is and what made it: by its own files, or else by what the system makes them with.

use std::collections::BTreeMap;

use unmoor_initramfs::archive::{Archive, Limits};

use super::guest::Guest;
use crate::inspection::Initramfs;
use crate::syntax::assignments::{assignments, get};

/// The largest that is read.
const MOST: u64 = 512 << 20;
/// Files of one guest that are looked into: 128 kernels with microcode and one of their own.
const MOST_FILES: usize = 256;
/// Bytes that all of them may unpack to: 64 of the largest that distributions make. Ten seconds' work of one processor.
const MOST_UNPACKED: u64 = 16 << 30;

/// Looks into initramfs files, each once, as long as they do not ask for too much.
pub(super) struct Examiner<'a, 'b> {
    guest: &'a Guest<'b>,
    seen: BTreeMap<String, Initramfs>,
    unpackable: u64,
}

impl<'a, 'b> Examiner<'a, 'b> {
    pub(super) fn new(guest: &'a Guest<'b>) -> Self {
        Self { guest, seen: BTreeMap::new(), unpackable: MOST_UNPACKED }
    }

    pub(super) fn examine(&mut self, path: &str) -> Initramfs {
        if let Some(seen) = self.seen.get(path) {
            return seen.clone();
        }
        if self.seen.len() >= MOST_FILES {
            self.guest
                .note(format!("there are over {MOST_FILES} initramfs files: the rest is not looked into"));
            let because = format!("over {MOST_FILES} others were looked into before it");
            return Initramfs { path: path.to_owned(), broken: Some(because), ..unknown() };
        }
        let found = examine(self.guest, path, &mut self.unpackable);
        self.seen.insert(path.to_owned(), found.clone());
        found
    }
}

fn unknown() -> Initramfs {
    Initramfs {
        path: String::new(),
        made_by: "unknown".to_owned(),
        host_only: false,
        compression: Vec::new(),
        broken: None,
        size: 0,
    }
}

fn examine(guest: &Guest<'_>, path: &str, unpackable: &mut u64) -> Initramfs {
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
            Some(bytes) => {
                let limits = Limits { keep: is_telling, ..Limits::default() };
                let unpacked = limits.unpacked.min(*unpackable);
                let mut read = Archive::empty(&Limits { unpacked, ..limits });
                let done = read.add(&bytes);
                *unpackable -= unpacked - read.unpackable().min(unpacked);
                match done {
                    Ok(()) => archive = Some(read),
                    Err(error) => found.broken = Some(error.chain()),
                }
            }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::devices::Devices;
    use crate::files::Directory;
    use unmoor_initramfs::archive::Writer;

    #[test]
    fn all_initramfs_files_together_unpack_to_no_more_than_a_guest_may_ask_for() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            let mut writer = Writer::new(0);
            writer.file("init", 0o755, &vec![b'x'; 3000]).unwrap();
            std::fs::write(folder.path().join(name), writer.finish().unwrap()).unwrap();
        }
        let (files, devices) = (Directory::open(folder.path()).unwrap(), Devices::default());
        let guest = Guest::new(&files, &devices, None);
        let mut examiner = Examiner { unpackable: 8000, ..Examiner::new(&guest) };
        let broken: Vec<bool> =
            ["/a", "/a", "/b", "/c"].map(|path| examiner.examine(path).broken.is_some()).into();
        // The same file is looked into once.
        assert_eq!(broken, [false, false, false, true]);
        let many: Vec<bool> =
            (0..300).map(|number| examiner.examine(&format!("/none{number}")).made_by == "unknown").collect();
        assert_eq!((examiner.seen.len(), many.len()), (MOST_FILES, 300));
        assert!(guest.into_notes().iter().any(|note| note.contains("over 256 initramfs files")));
    }
}
