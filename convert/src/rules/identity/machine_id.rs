// SPDX-License-Identifier: Apache-2.0
//! machine-id(5). A new one is written rather than an empty file: "uninitialized" or a missing file means first boot to systemd, which
//! then enables and disables units by presets; and boot entries are named after it.

use unmoor_images::Result;

use super::super::grubenv;
use super::{RULE, uuid_digits};
use crate::files::{Files, Kind};
use crate::inspection::{Inspection, LoaderKind};
use crate::plan::Draft;

const PATH: &str = "/etc/machine-id";
const DBUS: &str = "/var/lib/dbus/machine-id";
const TOKEN: &str = "/etc/kernel/entry-token";

pub(super) fn plan(draft: &mut Draft<'_>, inspection: &Inspection, seed: &[u8; 32]) -> Result<()> {
    let old = draft.read(PATH, 4096)?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    let old = old.filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let new = uuid_digits(seed, "machine-id");
    if draft.exists(PATH)? {
        draft.write(PATH, format!("{new}\n").into_bytes(), RULE, "a clone is another machine")?;
    }
    if draft.link_metadata(DBUS)?.is_some_and(|found| found.kind == Kind::File) {
        draft.write(DBUS, format!("{new}\n").into_bytes(), RULE, "a clone is another machine")?;
    }
    match old {
        Some(old) => entries(draft, inspection, &old, &new),
        None => Ok(()),
    }
}

/// kernel-install(8) names boot entries by the entry token, which is the machine-id unless it is pinned.
fn entries(draft: &mut Draft<'_>, inspection: &Inspection, old: &str, new: &str) -> Result<()> {
    let mut used = false;
    let prefix = format!("{old}-");
    for folder in ["/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries"] {
        let grub = inspection.boot.loaders.iter().any(|loader| loader.kind == LoaderKind::Grub2);
        for name in draft.list(folder)? {
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            used = true;
            // Red Hat's scripts for GRUB go by the machine-id itself, so that their entries are renamed.
            if grub && folder == "/boot/loader/entries" {
                let why = "boot entries are found by the machine-id when a kernel is removed";
                if let Some(content) = draft.read(&format!("{folder}/{name}"), 1 << 20)? {
                    draft.write(&format!("{folder}/{new}-{rest}"), content, RULE, why)?;
                    draft.remove(&format!("{folder}/{name}"), RULE, why)?;
                    let (old, new) = (name.trim_end_matches(".conf"), format!("{new}-{rest}"));
                    saved_entry(draft, old, new.trim_end_matches(".conf"), why)?;
                }
            }
        }
    }
    for folder in ["/boot", "/boot/efi", "/efi"] {
        used |= draft.exists(&format!("{folder}/{old}"))?;
    }
    if used && !draft.exists(TOKEN)? {
        draft.write(
            TOKEN,
            format!("{old}\n").into_bytes(),
            RULE,
            "boot entries keep their names when the machine-id changes",
        )?;
    }
    Ok(())
}

/// GRUB remembers the default entry by its name.
fn saved_entry(draft: &mut Draft<'_>, old: &str, new: &str, why: &str) -> Result<()> {
    for path in ["/boot/grub2/grubenv", "/boot/grub/grubenv"] {
        if draft.text(path)?.is_some_and(|text| text.lines().any(|line| line == format!("saved_entry={old}")))
        {
            grubenv::set(draft, path, "saved_entry", new, RULE, why)?;
            return Ok(());
        }
    }
    Ok(())
}
