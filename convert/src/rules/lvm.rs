// SPDX-License-Identifier: Apache-2.0
//! LVM finds physical volumes by itself, unless it was told on what devices of the old machine to look.

use std::ops::Range;

use unmoor_images::Result;

use super::references::names_hardware;
use super::text::{Text, lines, whole_line};
use crate::files::Files;
use crate::inspection::Inspection;
use crate::plan::{Draft, Severity};

const DEVICES: &str = "/etc/lvm/devices/system.devices";
const CONF: &str = "/etc/lvm/lvm.conf";
const LOCAL: &str = "/etc/lvm/lvmlocal.conf";
const RULE: &str = "lvm";

pub(super) fn plan(draft: &mut Draft<'_>, inspection: &Inspection) -> Result<()> {
    if inspection.lvm.devices_file || draft.exists(DEVICES)? {
        devices_file(draft)?;
    }
    draft.remove("/etc/lvm/cache/.cache", RULE, "it lists the old machine's devices; LVM makes it anew")?;
    for path in [CONF, LOCAL] {
        filters(draft, path)?;
    }
    if inspection.lvm.lvmlockd {
        draft.finding(
            Severity::Warning,
            RULE,
            "the guest shares volume groups with other machines (use_lvmlockd): it must not start while they use them",
            Some("set use_lvmlockd = 0 in /etc/lvm/lvm.conf if the new machine stands alone".into()),
        );
    }
    Ok(())
}

/// lvmdevices(8): devices that are not listed are not looked at, and the list has serial numbers and WWIDs of disks. Without the file
/// LVM looks at all. A file cannot be removed from an initramfs by appending to it: there a setting turns the list off.
fn devices_file(draft: &mut Draft<'_>) -> Result<()> {
    let why = "it allows the old machine's disks only; without it LVM looks at all disks (make it anew on the new machine \
               with vgimportdevices)";
    draft.remove(DEVICES, RULE, why)?;
    let mut local = draft.read(LOCAL, 1 << 20)?.unwrap_or_default();
    if !local.is_empty() && !local.ends_with(b"\n") {
        local.push(b'\n');
    }
    local.extend_from_slice(b"devices {\n\tuse_devicesfile = 0\n}\n");
    draft.initramfs_file(LOCAL, local, 0o644);
    Ok(())
}

/// filter = [ "a|/dev/sda|", "r|.*|" ], over several lines too.
fn filters(draft: &mut Draft<'_>, path: &str) -> Result<()> {
    let Some(file) = Text::read(draft, path)? else { return Ok(()) };
    let pieces = pieces(&file.text);
    file.write(
        draft,
        path,
        &pieces,
        RULE,
        "the filter names disks of the old machine; without it LVM looks at all disks",
    )
}

/// Filters that name devices become comments.
pub(super) fn pieces(text: &str) -> Vec<(Range<usize>, String)> {
    let mut pieces = Vec::new();
    let mut done = 0;
    for (start, line) in lines(text) {
        if start < done {
            continue;
        }
        let Some((key, value)) = line.trim_start().split_once('=') else { continue };
        let key = key.trim().trim_start_matches("devices/");
        if !matches!(key, "filter" | "global_filter") {
            continue;
        }
        let from = start + line.len() - value.len();
        let value = Value::scan(text.get(from..).unwrap_or_default(), value.len());
        if !value.strings.iter().any(|pattern| names_devices(pattern)) {
            continue;
        }
        let end = from + value.len;
        for (at, _) in lines(text.get(start..end).unwrap_or_default()) {
            pieces.push((start + at..start + at, "# ".to_owned()));
        }
        done = whole_line(text, end).end;
    }
    pieces
}

/// A setting's value (lvm.conf(5)): a string, or a list of strings in brackets, which may go on over lines and have comments in it.
struct Value<'a> {
    strings: Vec<&'a str>,
    /// Bytes up to its end.
    len: usize,
}

impl<'a> Value<'a> {
    /// `text` begins behind the sign of equality; the line ends after `line` bytes. A list that nobody closes ends with its line.
    fn scan(text: &'a str, line: usize) -> Self {
        let mut value = Self { strings: Vec::new(), len: line };
        let is_list = text.trim_start().starts_with('[');
        let mut chars = text.char_indices();
        while let Some((at, char)) = chars.next() {
            match char {
                ']' => {
                    value.len = at + 1;
                    return value;
                }
                '\n' if !is_list => break,
                '#' => while chars.next().is_some_and(|(_, char)| char != '\n') {},
                '"' => {
                    let start = at + 1;
                    // A backslash takes the next character along.
                    while let Some((at, char)) = chars.next() {
                        match char {
                            '\\' => drop(chars.next()),
                            '"' => {
                                value.strings.extend(text.get(start..at));
                                break;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if is_list {
            let kept = value.strings.len().min(text.get(..line).unwrap_or_default().matches('"').count() / 2);
            value.strings.truncate(kept);
        }
        value
    }
}

/// Whether a pattern such as "a|^/dev/sda2$|" is about names that hardware decides.
fn names_devices(pattern: &str) -> bool {
    pattern.match_indices("/dev/").any(|(at, _)| {
        let name = pattern.get(at..).unwrap_or_default();
        let name: String = name.chars().filter(|c| !matches!(c, '[' | '(' | '\\' | '^')).collect();
        names_hardware(&name)
            || ["/dev/sd", "/dev/vd", "/dev/hd", "/dev/xvd"].iter().any(|family| {
                name.strip_prefix(family)
                    .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() && c != 'a'))
            })
    })
}
