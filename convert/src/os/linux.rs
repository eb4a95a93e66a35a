// SPDX-License-Identifier: Apache-2.0
//! A Linux root filesystem, and the /boot that belongs to it.

use unmoor_images::Result;
use unmoor_images::filesystem::FilesystemKind;
use unmoor_images::filesystem::files::Tree;
use unmoor_images::layout::Place;

use super::release::{architecture, first_line, fstab, text_of, value};
use super::{Found, FstabEntry, MOST_FILE, OsFacts};

/// Kernels that are listed.
const MOST_KERNELS: usize = 64;
/// Entries of a directory that are looked at.
const MOST_ENTRIES: usize = 4096;

/// Any of them makes a directory a system's root; the first that is there names it.
const RELEASES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// Programs that every system has, for what they are compiled for.
const PROGRAMS: [&str; 6] =
    ["/usr/bin/bash", "/bin/sh", "/usr/bin/env", "/usr/bin/ls", "/bin/busybox", "/sbin/init"];

/// The system whose root is on `found`, if there is one.
pub(super) fn examine(found: &Found<'_>, all: &[Found<'_>], notes: &mut Vec<String>) -> Option<OsFacts> {
    let mut system: OsFacts = found.look(notes, |tree| choose_root(found, tree))?;
    if let Some(boot) = boot_volume(&system.fstab, all) {
        let kernels = boot.look(&mut system.notes, |tree| kernels_in(tree, "/"));
        if !kernels.is_empty() {
            system.kernels = kernels;
        }
    }
    Some(system)
}

/// The default root first, then btrfs' subvolumes in the order in which they are listed.
fn choose_root(found: &Found<'_>, tree: &mut Tree<'_>) -> Result<Option<OsFacts>> {
    if let Some(system) = system_in(found, tree)? {
        return Ok(Some(system));
    }
    if found.facts.kind != FilesystemKind::Btrfs {
        return Ok(None);
    }
    for (option, root) in tree.other_roots()? {
        tree.set_root(root);
        if let Some(mut system) = system_in(found, tree)? {
            system.subvolume = Some(option);
            return Ok(Some(system));
        }
    }
    Ok(None)
}

fn system_in(found: &Found<'_>, tree: &mut Tree<'_>) -> Result<Option<OsFacts>> {
    let mut release = String::new();
    for path in RELEASES {
        if release.is_empty() {
            release = text(tree, path)?.unwrap_or_default();
        }
    }
    // Older systems and those made by hand have no os-release; an init with an fstab is a system too.
    if release.is_empty() && (tree.find("/etc/fstab")?.is_none() || tree.find("/sbin/init")?.is_none()) {
        return Ok(None);
    }
    let mut program = None;
    for path in PROGRAMS {
        if program.is_none() {
            program = tree.read(path, 64)?.as_deref().and_then(architecture);
        }
    }
    let line = |text: Option<String>| text.as_deref().and_then(first_line);
    let mut kernels = kernels_in(tree, "/boot")?;
    for path in ["/usr/lib/modules", "/lib/modules"] {
        if kernels.is_empty() {
            kernels = shown(tree.list(path, MOST_ENTRIES)?.iter().map(String::as_str));
        }
    }
    Ok(Some(OsFacts {
        place: found.place.clone(),
        disk: found.disk,
        filesystem: found.facts.kind.name().to_owned(),
        subvolume: None,
        name: value(&release, "PRETTY_NAME").or_else(|| value(&release, "NAME")),
        id: value(&release, "ID"),
        version_id: value(&release, "VERSION_ID"),
        architecture: program,
        hostname: line(text(tree, "/etc/hostname")?),
        machine_id: line(text(tree, "/etc/machine-id")?),
        kernels,
        init: init(tree)?,
        boot_loaders: Vec::new(),
        fstab: fstab(&text(tree, "/etc/fstab")?.unwrap_or_default()),
        firmware: None,
        notes: tree.note().map(|note| format!("{}: {note}", found.name())).into_iter().collect(),
    }))
}

fn text(tree: &mut Tree<'_>, path: &str) -> Result<Option<String>> {
    Ok(tree.read(path, MOST_FILE)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Names that a kernel's file has before its release (Debian, Fedora, SUSE on arm64 and s390x).
const PREFIXES: [&str; 4] = ["vmlinuz-", "vmlinux-", "Image-", "image-"];

fn kernels_in(tree: &mut Tree<'_>, directory: &str) -> Result<Vec<String>> {
    let names = tree.list(directory, MOST_ENTRIES)?;
    let releases =
        names.iter().filter_map(|name| PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)));
    Ok(shown(releases.filter(|release| !release.contains("rescue"))))
}

fn shown<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.filter_map(text_of).take(MOST_KERNELS).collect()
}

/// Which program is process 1, by files that only it has.
fn init(tree: &mut Tree<'_>) -> Result<Option<String>> {
    for (path, name) in [
        ("/usr/lib/systemd/systemd", "systemd"),
        ("/lib/systemd/systemd", "systemd"),
        ("/sbin/openrc", "openrc"),
        ("/usr/sbin/openrc", "openrc"),
        ("/sbin/initctl", "upstart"),
        ("/etc/inittab", "sysvinit"),
    ] {
        if tree.find(path)?.is_none() {
            continue;
        }
        // Alpine's inittab is read by busybox.
        let busybox = name == "sysvinit"
            && tree.find("/bin/busybox")?.is_some()
            && tree.find("/sbin/telinit")?.is_none();
        return Ok(Some(if busybox { "busybox" } else { name }.to_owned()));
    }
    Ok(None)
}

/// The filesystem that fstab mounts on /boot.
fn boot_volume<'a, 'b>(fstab: &[FstabEntry], all: &'a [Found<'b>]) -> Option<&'a Found<'b>> {
    let entry = fstab.iter().find(|entry| entry.mountpoint.trim_end_matches('/') == "/boot")?;
    let quoted = |text: &str| text.trim_matches('"').to_owned();
    all.iter().find(|found| {
        let same = |mine: &Option<String>, theirs: &str| {
            mine.as_ref().is_some_and(|mine| mine.eq_ignore_ascii_case(&quoted(theirs)))
        };
        if let Some(uuid) = entry.spec.strip_prefix("UUID=") {
            return same(&found.facts.uuid, uuid);
        }
        if let Some(uuid) = entry.spec.strip_prefix("/dev/disk/by-uuid/") {
            return same(&found.facts.uuid, uuid);
        }
        if let Some(label) = entry.spec.strip_prefix("LABEL=") {
            return same(&found.facts.label, label);
        }
        match found.place {
            // device-mapper doubles hyphens within names.
            Place::LogicalVolume { vg, lv, .. } => {
                let mapper = format!("/dev/mapper/{}-{}", vg.replace('-', "--"), lv.replace('-', "--"));
                entry.spec == mapper || entry.spec == format!("/dev/{vg}/{lv}")
            }
            _ => false,
        }
    })
}
