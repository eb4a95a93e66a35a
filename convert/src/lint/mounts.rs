// SPDX-License-Identifier: Apache-2.0
//! Will everything in fstab be found? systemd waits 90 s for what is not there and then stops at a shell, unless it is "nofail".

use unmoor_images::Result;

use crate::devices::Devices;
use crate::files::Files;
use crate::plan::{Draft, Severity};
use crate::rules::{is_needed, names_hardware};

const RULE: &str = "mounts";

pub(super) fn lint(draft: &mut Draft<'_>, devices: &Devices) -> Result<()> {
    let Some(text) = draft.text("/etc/fstab")? else { return Ok(()) };
    // What lies in a container cannot be seen from outside.
    let hidden = devices.devices.iter().any(|device| device.kind == "crypto_LUKS");
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let mut fields = line.split_whitespace();
        let (Some(spec), Some(mountpoint), Some(_)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let options = fields.next().unwrap_or_default();
        if options.split(',').any(|option| matches!(option, "noauto" | "nofail")) || hidden {
            continue;
        }
        let tag = [
            "UUID=",
            "LABEL=",
            "PARTUUID=",
            "PARTLABEL=",
            "/dev/disk/by-uuid/",
            "/dev/disk/by-label/",
            "/dev/disk/by-partuuid/",
        ];
        if !tag.iter().any(|tag| spec.starts_with(tag)) || names_hardware(spec) {
            continue;
        }
        let value =
            spec.split_once('=').map_or_else(|| spec.rsplit('/').next().unwrap_or(spec), |(_, value)| value);
        let value = value.trim_matches('"');
        let there = devices.resolve(spec).is_some()
            || devices.devices.iter().any(|device| {
                let ids = [&device.uuid, &device.label, &device.partuuid, &device.partlabel];
                ids.into_iter().flatten().any(|id| id.eq_ignore_ascii_case(value))
            });
        if there || draft.disk_edits().iter().any(|edit| !edit.writes.is_empty()) {
            continue;
        }
        let (severity, remedy) = if is_needed(mountpoint) {
            (Severity::Error, "capture all disks of the machine, or correct /etc/fstab on it first")
        } else {
            (
                Severity::Warning,
                "add \"nofail\" to its options in /etc/fstab on the machine, or remove the line",
            )
        };
        draft.finding(
            severity,
            RULE,
            format!("{mountpoint} is mounted from {spec}, which is on none of the captured disks: the guest would wait for it and stop"),
            Some(remedy.into()),
        );
    }
    Ok(())
}
