// SPDX-License-Identifier: Apache-2.0
//! /etc/fstab and /etc/crypttab: devices by UUID. Columns, comments and blanks stay as they are.

use std::ops::Range;

use unmoor_images::Result;

use super::references::{Verdict, judge};
use super::text::{Text, lines, words};
use crate::devices::Devices;
use crate::plan::{Draft, Severity};

const FSTAB: &str = "/etc/fstab";
const CRYPTTAB: &str = "/etc/crypttab";

/// Mount points that a system does not start without.
pub(crate) fn is_needed(mountpoint: &str) -> bool {
    matches!(mountpoint, "/" | "/usr" | "/var" | "/boot" | "/etc")
}

pub(super) fn plan(draft: &mut Draft<'_>, devices: &Devices) -> Result<()> {
    fstab(draft, devices)?;
    crypttab(draft, devices)
}

fn fstab(draft: &mut Draft<'_>, devices: &Devices) -> Result<()> {
    let Some(file) = Text::read(draft, FSTAB)? else { return Ok(()) };
    let mut pieces = Vec::new();
    let mut lost = Vec::new();
    for (start, line) in lines(&file.text).filter(|(_, line)| !line.trim_start().starts_with('#')) {
        let fields = words(line, start);
        let [(place, spec), (_, mountpoint), (_, kind), rest @ ..] = fields.as_slice() else { continue };
        let options = rest.first();
        let mut new_options = options.map(|(_, options)| with_journal_by_uuid(devices, options));
        match judge(devices, spec) {
            Verdict::Becomes(name) => pieces.push(replace_field(&file.text, place, quoted(spec, &name))),
            Verdict::Lost => {
                let asked = |wanted: &str| {
                    options.is_some_and(|(_, options)| options.split(',').any(|option| option == wanted))
                };
                if !asked("noauto") && !asked("nofail") {
                    lost.push(((*spec).to_owned(), (*mountpoint).to_owned(), (*kind).to_owned()));
                    if let Some(options) = new_options.as_mut().filter(|_| !is_needed(mountpoint)) {
                        options.push_str(",nofail");
                    }
                }
            }
            Verdict::Holds => {}
        }
        if let (Some((place, old)), Some(new)) = (options, new_options)
            && new != **old
        {
            pieces.push((place.clone(), new));
        }
    }
    let what = "names of disks depend on the machine; UUIDs and \"nofail\" do not";
    file.write(draft, FSTAB, &pieces, "fstab", what)?;
    for (spec, mountpoint, kind) in lost {
        let (severity, text, remedy) = if is_needed(&mountpoint) {
            (
                Severity::Error,
                format!("{mountpoint} is mounted from {spec}, which is not on the captured disks"),
                "capture all disks of the machine, or correct /etc/fstab on it first".to_owned(),
            )
        } else {
            (
                Severity::Warning,
                format!(
                    "{spec} ({mountpoint}, {kind}) is not on the captured disks: it gets \"nofail\", and will be missing"
                ),
                format!("capture its disk too, or remove the line of {mountpoint} from /etc/fstab"),
            )
        };
        draft.finding(severity, "fstab", text, Some(remedy));
    }
    Ok(())
}

/// The journal of ext3 and ext4 may lie on another device.
fn with_journal_by_uuid(devices: &Devices, options: &str) -> String {
    const KEY: &str = "journal_path=";
    let each = options.split(',').map(|option| {
        let name = option.strip_prefix(KEY)?;
        let Verdict::Becomes(new) = judge(devices, name) else { return None };
        let path = new.replace("PARTUUID=", "/dev/disk/by-partuuid/").replace("UUID=", "/dev/disk/by-uuid/");
        Some(format!("{KEY}{path}"))
    });
    let old = options.split(',');
    old.zip(each).map(|(old, new)| new.unwrap_or_else(|| old.to_owned())).collect::<Vec<_>>().join(",")
}

fn crypttab(draft: &mut Draft<'_>, devices: &Devices) -> Result<()> {
    let Some(file) = Text::read(draft, CRYPTTAB)? else { return Ok(()) };
    let mut pieces = Vec::new();
    let mut lost = Vec::new();
    for (start, line) in lines(&file.text).filter(|(_, line)| !line.trim_start().starts_with('#')) {
        let fields = words(line, start);
        let [(_, name), (place, spec), rest @ ..] = fields.as_slice() else { continue };
        match judge(devices, spec) {
            Verdict::Becomes(new) => pieces.push(replace_field(&file.text, place, quoted(spec, &new))),
            Verdict::Lost
                if !rest.iter().any(|(_, field)| {
                    field.split(',').any(|option| matches!(option, "noauto" | "nofail"))
                }) =>
            {
                lost.push(((*name).to_owned(), (*spec).to_owned()));
            }
            _ => {}
        }
        // A key file on another filesystem: PATH:DEVICE (crypttab(5)).
        if let Some((place, key)) = rest.first()
            && let Some((path, device)) = key.split_once(":/dev/")
            && let Verdict::Becomes(new) = judge(devices, &format!("/dev/{device}"))
        {
            pieces.push((place.clone(), format!("{path}:{new}")));
        }
    }
    file.write(draft, CRYPTTAB, &pieces, "crypttab", "names of disks depend on the machine, UUIDs do not")?;
    for (name, spec) in lost {
        draft.finding(
            Severity::Warning,
            "crypttab",
            format!("{name} is opened from {spec}, which is not on the captured disks"),
            Some("capture its disk too, or remove its line from /etc/crypttab".into()),
        );
    }
    Ok(())
}

/// A spec in quotes stays in quotes.
fn quoted(old: &str, new: &str) -> String {
    if old.starts_with('"') { format!("\"{new}\"") } else { new.to_owned() }
}

/// A field that grows takes from the blanks behind it, so that the next column stays where it is if it can.
pub(super) fn replace_field(text: &str, place: &Range<usize>, new: String) -> (Range<usize>, String) {
    let more = new.len().saturating_sub(place.len());
    let behind = text.get(place.end..).unwrap_or_default();
    let blanks = behind.len() - behind.trim_start_matches(' ').len();
    (place.start..place.end + more.min(blanks.saturating_sub(1)), new)
}
