// SPDX-License-Identifier: Apache-2.0
//! How an initramfs loads its modules, and what makes it load the disk's driver for sure.
//!
//! With udev, each device's modalias is handed to kmod (udev's rules.d/80-drivers.rules), and nothing need be done: this is so
//! in what dracut makes, in initramfs-tools' images unless udev is not installed, and in mkinitcpio's with the hook `udev` or
//! `systemd`. Alpine's nlplug-findfs does the same by itself. Without either, only what is listed is loaded.

use unmoor_initramfs::archive::{Addition, Kind, Tree};

/// How modules get loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loading {
    /// By the hardware that is found.
    ByModalias,
    /// By initramfs-tools' list conf/modules.
    ConfModules,
    /// By the variable MODULES in mkinitcpio's /config.
    MkinitcpioConfig,
    /// By dracut's argument rd.driver.pre.
    DracutArguments,
    /// In a way that is not known.
    Unknown,
}

/// Programs that load by modalias.
const UDEV: [&str; 7] = [
    "usr/lib/systemd/systemd-udevd",
    "lib/systemd/systemd-udevd",
    "usr/lib/udev/udevd",
    "lib/udev/udevd",
    "sbin/udevd",
    "usr/sbin/udevd",
    "usr/bin/udevadm",
];
const RULES: [&str; 4] = [
    "usr/lib/udev/rules.d/80-drivers.rules",
    "lib/udev/rules.d/80-drivers.rules",
    "etc/udev/rules.d/80-drivers.rules",
    "usr/lib/udev/rules.d/80-mod_autoload.rules",
];

/// Finds out by the files of an initramfs.
pub(crate) fn of(tree: &Tree) -> Loading {
    let has = |path: &&str| tree.node(path).is_some();
    if (UDEV.iter().any(has) && RULES.iter().any(has))
        || has(&"sbin/nlplug-findfs")
        || has(&"usr/sbin/nlplug-findfs")
    {
        return Loading::ByModalias;
    }
    if has(&"config") && has(&"init_functions") {
        return Loading::MkinitcpioConfig;
    }
    if has(&"scripts/functions") || has(&"conf/initramfs.conf") {
        return Loading::ConfModules;
    }
    if has(&"usr/lib/dracut-lib.sh") || has(&"lib/dracut-lib.sh") || has(&"usr/lib/dracut") {
        return Loading::DracutArguments;
    }
    Loading::Unknown
}

/// Files that make the initramfs load `names`, in this order, where it loads nothing by modalias. A file that cannot be extended
/// because it was not read is left.
pub(crate) fn files(tree: &Tree, loading: Loading, names: &[String]) -> Vec<Addition> {
    let mode = |path: &str, otherwise| tree.node(path).map_or(otherwise, |node| node.mode);
    let text = |path: &str| -> Option<String> {
        match tree.node(path).map(|node| &node.kind) {
            None => Some(String::new()),
            Some(Kind::File(content)) => {
                content.bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            }
            Some(_) => None,
        }
    };
    let file = |path: &str, content: String| {
        vec![Addition::File { path: path.to_owned(), mode: mode(path, 0o644), content: content.into_bytes() }]
    };
    match loading {
        Loading::ByModalias | Loading::Unknown => Vec::new(),
        Loading::ConfModules => {
            let path = "conf/modules";
            let Some(mut old) = text(path) else { return Vec::new() };
            let known: Vec<String> =
                old.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
            if !old.is_empty() && !old.ends_with('\n') {
                old.push('\n');
            }
            for name in names.iter().filter(|name| !known.contains(name)) {
                old.push_str(name);
                old.push('\n');
            }
            file(path, old)
        }
        Loading::MkinitcpioConfig => {
            let path = "config";
            let Some(old) = text(path) else { return Vec::new() };
            // The last assignment counts; a list keeps what it had.
            let assigned = old.lines().rev().find_map(|line| line.trim().strip_prefix("MODULES="));
            let before: Vec<&str> =
                assigned.unwrap_or_default().trim_matches(['"', '\'', '(', ')']).split_whitespace().collect();
            let missing: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| !before.contains(name)).collect();
            if missing.is_empty() {
                return Vec::new();
            }
            let all: Vec<&str> = before.iter().copied().chain(missing).collect();
            let end = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
            file(path, format!("{old}{end}MODULES=\"{}\"\n", all.join(" ")))
        }
        Loading::DracutArguments => {
            let line: Vec<String> = names.iter().map(|name| format!("rd.driver.pre={name}")).collect();
            file("etc/cmdline.d/90-unmoor.conf", format!("{}\n", line.join(" ")))
        }
    }
}

/// Names among `names` that the initramfs' modprobe configuration keeps from being loaded, with the file that says so.
pub(crate) fn forbidden(tree: &Tree, names: &[String]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["etc/modprobe.d", "lib/modprobe.d", "usr/lib/modprobe.d", "run/modprobe.d"] {
        for name in tree.list(folder) {
            let path = format!("{folder}/{name}");
            let Some(text) = tree.read(&path) else { continue };
            for line in String::from_utf8_lossy(text).lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let module = match words.as_slice() {
                    ["blacklist", module, ..] => module,
                    ["install", module, program, ..]
                        if matches!(
                            *program,
                            "/bin/false" | "/bin/true" | "/usr/bin/false" | "/usr/bin/true"
                        ) =>
                    {
                        module
                    }
                    _ => continue,
                };
                let module = unmoor_initramfs::modules::normal(module);
                if names.contains(&module) && !found.iter().any(|(known, _)| *known == module) {
                    found.push((module, path.clone()));
                }
            }
        }
    }
    found
}
