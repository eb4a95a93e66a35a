// SPDX-License-Identifier: Apache-2.0
//! Will root be found, and can it be opened?

use unmoor_images::Result;

use crate::devices::Devices;
use crate::inspection::{Inspection, Layer};
use crate::plan::{Change, Draft, Severity};

const RULE: &str = "root";

pub(super) fn lint(draft: &mut Draft<'_>, inspection: &Inspection, devices: &Devices) -> Result<()> {
    let mut locked = false;
    for layer in &inspection.root {
        let Layer::Luks { uuid, unlock, .. } = layer else { continue };
        locked = true;
        let device =
            uuid.as_ref().map_or_else(|| "DEVICE".to_owned(), |uuid| format!("/dev/disk/by-uuid/{uuid}"));
        if unlock.passphrase == 0 && unlock.bound.is_empty() {
            draft.finding(
                Severity::Warning,
                RULE,
                "root is on LUKS, and its key slots could not be read: keep a passphrase at hand",
                None,
            );
        } else if unlock.passphrase == 0 {
            draft.finding(
                Severity::Error,
                RULE,
                format!("root is on LUKS, and only {} of the old machine opens it", unlock.bound.join(", ")),
                Some(format!("add a recovery key on the machine: systemd-cryptenroll --recovery-key {device} (or: cryptsetup luksAddKey {device})")),
            );
        } else if !unlock.bound.is_empty() {
            draft.finding(
                Severity::Warning,
                RULE,
                format!("{} of the old machine no longer opens root: its passphrase or recovery key will be asked for", unlock.bound.join(", ")),
                Some(format!("bind it to the new machine after the first start: systemd-cryptenroll --wipe-slot=tpm2 --tpm2-device=auto {device}")),
            );
        }
    }
    if locked
        && draft
            .edits()
            .any(|edit| edit.path == "/etc/crypttab" && matches!(edit.change, Change::Write { .. }))
    {
        draft.finding(
            Severity::Warning,
            RULE,
            "the initramfs has a copy of /etc/crypttab, which may still name the container by the old machine's disk",
            Some("name it by UUID in /etc/crypttab on the machine, run update-initramfs -u (or dracut -f), and capture it again".into()),
        );
    }
    arguments(draft, inspection, devices);
    Ok(())
}

/// root= of boot entries; what names hardware is the boot rule's to judge, and what lies in a container cannot be seen.
fn arguments(draft: &mut Draft<'_>, inspection: &Inspection, devices: &Devices) {
    if devices.devices.iter().any(|device| device.kind == "crypto_LUKS") {
        return;
    }
    for entry in &inspection.boot.entries {
        let Some(root) = entry.arguments.iter().find_map(|argument| argument.strip_prefix("root=")) else {
            continue;
        };
        let told =
            ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/disk/by-uuid/", "/dev/disk/by-label/"];
        if !told.iter().any(|tag| root.starts_with(tag)) || devices.resolve(root).is_some() {
            continue;
        }
        // btrfs on several devices and copies have one UUID more than once: something is there.
        let value = root.rsplit(['=', '/']).next().unwrap_or(root);
        let several = devices.devices.iter().any(|device| {
            [&device.uuid, &device.label, &device.partuuid]
                .into_iter()
                .flatten()
                .any(|id| id.eq_ignore_ascii_case(value))
        });
        if several {
            continue;
        }
        let severity = if entry.default { Severity::Error } else { Severity::Warning };
        draft.finding(
            severity,
            RULE,
            format!(
                "the boot entry \"{}\" ({}) looks for root={root}, which is on none of the captured disks",
                entry.title, entry.file
            ),
            Some("capture all disks of the machine, or correct the entry on it first".into()),
        );
    }
}
