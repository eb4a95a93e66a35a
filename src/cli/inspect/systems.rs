// SPDX-License-Identifier: Apache-2.0
//! Operating systems for people.

use unmoor_convert::os::{Firmware, OsFacts};

use crate::output::table::plain;

/// A few lines for each; fstab only with `verbose`.
pub(super) fn lines(systems: &[OsFacts], verbose: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for system in systems {
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
        list("boot loaders", &system.boot_loaders);
        list("kernels", &system.kernels);
        if verbose {
            let rows = system.fstab.iter().map(|row| {
                format!("  fstab: {} on {} type {} ({})", row.spec, row.mountpoint, row.kind, row.options)
            });
            lines.extend(rows.map(|row| plain(&row)));
        }
        lines.extend(system.notes.iter().map(|note| plain(&format!("  {note}"))));
    }
    lines
}
