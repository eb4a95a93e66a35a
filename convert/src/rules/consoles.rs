// SPDX-License-Identifier: Apache-2.0
//! Logins on serial consoles: enabled units, /etc/inittab, securetty. What kernel arguments name is [`super::boot`]'s; systemd starts a
//! login there by itself.

use std::ops::Range;

use unmoor_images::Result;

use super::arguments::{is_paravirtual, is_serial};
use super::text::{Text, lines, whole_line};
use crate::files::Files;
use crate::plan::Draft;
use crate::request::Hardware;

const RULE: &str = "consoles";

pub(super) fn plan(draft: &mut Draft<'_>, hardware: &Hardware) -> Result<()> {
    units(draft, hardware.serial.as_deref())?;
    inittab(draft, hardware.serial.as_deref())
}

/// Whether a login on `device` has to go, given the new machine's console.
fn is_gone(device: &str, serial: Option<&str>) -> bool {
    match serial {
        Some(serial) => is_serial(device) && device != serial,
        None => is_paravirtual(device),
    }
}

fn units(draft: &mut Draft<'_>, serial: Option<&str>) -> Result<()> {
    const WANTS: &str = "/etc/systemd/system/getty.target.wants";
    for name in draft.list(WANTS)? {
        let device = name.strip_prefix("serial-getty@").and_then(|rest| rest.strip_suffix(".service"));
        let Some(device) = device.filter(|device| is_gone(device, serial)) else { continue };
        let link = format!("{WANTS}/{name}");
        let Some(target) = draft.read_link(&link)? else { continue };
        let why = format!("the new machine has no {device}");
        draft.remove(&link, RULE, why.clone())?;
        if let Some(serial) = serial {
            draft.link(&format!("{WANTS}/serial-getty@{serial}.service"), &target, RULE, why)?;
        }
    }
    Ok(())
}

/// "S0:2345:respawn:/sbin/agetty -L ttyS0 9600 vt102" (inittab(5)).
fn inittab(draft: &mut Draft<'_>, serial: Option<&str>) -> Result<()> {
    const PATH: &str = "/etc/inittab";
    let Some(file) = Text::read(draft, PATH)? else { return Ok(()) };
    let mut pieces: Vec<(Range<usize>, String)> = Vec::new();
    let mut there = false;
    for (start, line) in lines(&file.text).filter(|(_, line)| !line.trim_start().starts_with('#')) {
        let mut words = line.rsplit([' ', '\t', ':']).map(|word| word.trim_start_matches("/dev/"));
        let Some(device) = words.find(|word| is_serial(word)) else { continue };
        there |= Some(device) == serial;
        if !is_gone(device, serial) {
            continue;
        }
        match serial.filter(|_| !there) {
            Some(serial) => {
                there = true;
                let base = line.as_ptr() as usize;
                let at = start + (device.as_ptr() as usize - base);
                pieces.push((at..at + device.len(), serial.to_owned()));
            }
            None => {
                let range = whole_line(&file.text, start);
                pieces.push((range.start..range.start, "#".to_owned()));
            }
        }
    }
    file.write(draft, PATH, &pieces, RULE, "the new machine has its serial console elsewhere")
}
