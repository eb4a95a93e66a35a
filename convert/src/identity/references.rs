// SPDX-License-Identifier: Apache-2.0
//! Every file of the guest that names something by an identity that changes.
//!
//! A UUID is what it is wherever it stands, so text is searched for it as a whole; what is known to be configuration of storage or booting
//! is changed, and of anything else that has one a finding tells.

use unmoor_images::Result;

use super::RULE;
use super::kept::{MOST_PROGRAM, programs};
use super::names::Names;
use crate::files::{Files, Kind};
use crate::inspection::Inspection;
use crate::plan::{Draft, Severity};
use crate::rules::packages;

const WHY: &str = "it names filesystems, volumes or partitions by identities that the clone has others of";
/// The largest text file that is looked into, in bytes: a grub.cfg has some ten KiB, LVM's metadata some hundred.
const MOST_TEXT: u64 = 1 << 20;
/// The largest file of debconf's answers, in bytes: a desktop's has half a MiB.
const MOST_ANSWERS: u64 = 16 << 20;
/// Files that are looked into: /etc has one to two thousand.
const MOST_FILES: usize = 50_000;
const DEEPEST: usize = 12;

/// Paths that are storage's or booting's to change, by how they begin. What ends with a slash is a folder.
const KNOWN: &[&str] = &[
    "/boot/",
    "/efi/",
    "/etc/auto.",
    "/etc/autofs",
    "/etc/cmdline.d/",
    "/etc/cryptsetup-initramfs/",
    "/etc/crypttab",
    "/etc/default/grub",
    "/etc/default/kexec",
    "/etc/default/u-boot",
    "/etc/dracut.conf",
    "/etc/fstab",
    "/etc/grub.d/",
    "/etc/initcpio/",
    "/etc/initramfs-tools/",
    "/etc/kernel/",
    "/etc/lilo.conf",
    "/etc/lvm/",
    "/etc/mdadm",
    "/etc/mkinitcpio",
    "/etc/multipath",
    "/etc/securetty",
    "/etc/sysconfig/bootloader",
    "/etc/sysconfig/grub",
    "/etc/sysconfig/kernel",
    "/etc/systemd/",
    "/etc/udev/",
    "/etc/uswsusp.conf",
    "/var/lib/grub/",
];
/// Looked through in vain: keys, certificates, and what other rules change.
const PASSED: &[&str] =
    &["/etc/ssl/", "/etc/pki/", "/etc/ca-certificates/", "/etc/selinux/", "/etc/alternatives/", "/etc/ssh/"];
/// Names of binaries beside a boot loader's text.
const BINARIES: &[&str] =
    &[".mod", ".img", ".efi", ".pf2", ".mo", ".lst", ".png", ".jpg", ".tga", ".signed", ".gz", ".o"];
const BOOT_BINARIES: &[&str] = &["vmlinu", "initr", "System.map", "config-", "bzImage", "kernel-", "Image"];

pub(super) fn plan(draft: &mut Draft<'_>, inspection: &Inspection, names: &Names) -> Result<()> {
    let mut todo: Vec<(String, usize)> =
        vec![("/etc".to_owned(), 0), ("/boot".to_owned(), 0), ("/var/lib/grub".to_owned(), 0)];
    todo.extend(inspection.boot.esps.iter().filter_map(|esp| Some((esp.mountpoint.clone()?, 0))));
    todo.extend(["/efi".to_owned()].map(|path| (path, 0)));
    let mut seen: Vec<String> = Vec::new();
    let (mut count, mut unknown) = (0, Vec::new());
    while let Some((folder, depth)) = todo.pop() {
        let folder = folder.trim_end_matches('/').to_owned();
        // A mount point below another one is met twice.
        if depth == 0 && seen.contains(&folder) {
            continue;
        }
        for name in draft.list(&folder)? {
            let path = format!("{folder}/{name}");
            if PASSED.iter().any(|passed| format!("{path}/").starts_with(passed)) {
                continue;
            }
            match draft.link_metadata(&path)?.map(|found| (found.kind, found.size)) {
                Some((Kind::Directory, _)) if depth < DEEPEST => {
                    seen.push(path.clone());
                    todo.push((path, depth + 1));
                }
                Some((Kind::Link, _)) => link(draft, names, &path)?,
                Some((Kind::File, size)) if size <= MOST_TEXT && count < MOST_FILES && is_text(&path) => {
                    count += 1;
                    file(draft, names, &path, &mut unknown)?;
                }
                _ => {}
            }
        }
    }
    links(draft, names)?;
    for (path, old) in unknown {
        draft.finding(
            Severity::Warning,
            RULE,
            format!("{path} has the old identity {old}, and is of no kind that is changed"),
            Some(names.get(&old).map_or_else(String::new, |new| format!("see whether {new} belongs there"))),
        );
    }
    for path in programs(draft, inspection)? {
        let Some(bytes) = draft.read(&path, MOST_PROGRAM)? else { continue };
        // A signed one has none that changes: what it names keeps its identity.
        if let Some(new) = names.replaced(&bytes) {
            draft.write(&path, new, RULE, "the program finds a filesystem by its UUID")?;
        }
    }
    Ok(())
}

/// The boot loader's package finds its disk by a link that [`packages`] names by the partition table's identity, in files that have no
/// other word of UUIDs: link, rule and answer change together, whatever the search above has changed of them.
fn links(draft: &mut Draft<'_>, names: &Names) -> Result<()> {
    for path in packages::LINKS {
        let Some(bytes) = draft.read(path, MOST_ANSWERS)? else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let mut changed = text.clone();
        for (old, new) in names.pairs().map(|(old, new)| (old.to_ascii_lowercase(), new.to_ascii_lowercase()))
        {
            changed = changed
                .replace(&format!("by-id/unmoor-{old}"), &format!("by-id/unmoor-{new}"))
                .replace(&format!("==\"{old}\""), &format!("==\"{new}\""));
        }
        if changed != text {
            draft.write(path, changed.into_bytes(), RULE, WHY)?;
        }
    }
    Ok(())
}

/// Whether a file may be text, by its name.
fn is_text(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let in_boot = path.starts_with("/boot/") || path.starts_with("/efi/");
    !(BINARIES.iter().any(|end| name.to_ascii_lowercase().ends_with(end))
        || in_boot && BOOT_BINARIES.iter().any(|begin| name.starts_with(begin)))
}

fn file(draft: &mut Draft<'_>, names: &Names, path: &str, unknown: &mut Vec<(String, String)>) -> Result<()> {
    let Some(old) = draft.read(path, MOST_TEXT)? else { return Ok(()) };
    let new = names.replaced(&old);
    let moved = names.renamed(path);
    if new.is_none() && moved.is_none() {
        return Ok(());
    }
    if !KNOWN.iter().any(|known| path.starts_with(known)) {
        let mentioned = names.mentioned(&old).first().map(|old| (*old).to_owned());
        unknown.extend(mentioned.map(|old| (path.to_owned(), old)));
        return Ok(());
    }
    let content = new.unwrap_or(old);
    match moved {
        // systemd's units are named by what they are about.
        Some(to) => {
            let mode = draft.metadata(path)?.map_or(0o644, |found| found.mode);
            draft.write_mode(&to, content, mode, RULE, WHY)?;
            draft.remove(path, RULE, WHY)
        }
        None => draft.write(path, content, RULE, WHY),
    }
}

fn link(draft: &mut Draft<'_>, names: &Names, path: &str) -> Result<()> {
    let Some(target) = draft.read_link(path)? else { return Ok(()) };
    let (moved, new) = (names.renamed(path), names.renamed(&target));
    if moved.is_none() && new.is_none() || !KNOWN.iter().any(|known| path.starts_with(known)) {
        return Ok(());
    }
    draft.link(moved.as_deref().unwrap_or(path), new.as_deref().unwrap_or(&target), RULE, WHY)?;
    if moved.is_some() { draft.remove(path, RULE, WHY) } else { Ok(()) }
}
