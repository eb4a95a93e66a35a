// SPDX-License-Identifier: Apache-2.0
//! Operating systems for people.

use unmoor_convert::inspection::Inspection;
use unmoor_convert::os::{Firmware, OsFacts};

use super::guests;
use crate::output::table::plain;

/// A few lines for each, with what was found inside; fstab only with `verbose`.
pub(super) fn lines(systems: &[OsFacts], guests: &[Option<Inspection>], verbose: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for (system, guest) in systems.iter().zip(guests) {
        let unknown = || "an operating system".to_owned();
        let mut head = vec![system.name.clone().unwrap_or_else(unknown)];
        head.extend(system.architecture.clone());
        head.extend(system.hostname.as_ref().map(|name| format!("hostname {name}")));
        head.extend(system.subvolume.clone());
        head.extend(system.firmware.map(|firmware| match firmware {
            Firmware::Bios => "boots by BIOS".to_owned(),
            Firmware::Uefi => "boots by UEFI".to_owned(),
        }));
        lines.push(plain(&head.join(", ")));
        let mut list = |what: &str, items: &[String]| {
            if !items.is_empty() {
                lines.push(plain(&format!("  {what}: {}", items.join(", "))));
            }
        };
        match guest {
            Some(guest) => lines.extend(guests::lines(guest, verbose)),
            None => {
                list("boot loaders", &system.boot_loaders);
                list("kernels", &system.kernels);
            }
        }
        if verbose {
            let rows = system.fstab.iter().map(|row| {
                format!("  fstab: {} on {} type {} ({})", row.spec, row.mountpoint, row.kind, row.options)
            });
            lines.extend(rows.map(|row| plain(&row)));
        }
        let told = |note: &&String| guest.as_ref().is_some_and(|guest| guest.notes.contains(*note));
        lines.extend(
            system.notes.iter().filter(|note| !told(note)).map(|note| plain(&format!("  note     {note}"))),
        );
    }
    lines
}
