// SPDX-License-Identifier: Apache-2.0
//! Names that are bound to adapters: udev rules, systemd.link(5), nameif's /etc/mactab.

use super::hardware_address;
use crate::inspect::guest::Guest;
use crate::inspection::PinnedName;
use crate::syntax::{ini, rows, udev};

const MOST: usize = 1000;

pub(super) fn read(guest: &Guest<'_>) -> Vec<PinnedName> {
    let mut found = Vec::new();
    for path in guest.files_in("/etc/udev/rules.d", ".rules") {
        for rule in udev::parse(&guest.text(&path).unwrap_or_default()) {
            let name = rule.get("NAME", "=").or_else(|| rule.get("NAME", ":="));
            let (Some(name), Some("net")) = (name, rule.get("SUBSYSTEM", "==")) else { continue };
            let mac = ["ATTR{address}", "ATTRS{address}", "SYSFS{address}"]
                .iter()
                .find_map(|key| rule.get(key, "=="));
            let by = ["KERNELS", "ENV{ID_PATH}", "ID", "BUSID"].iter().find_map(|key| rule.get(key, "=="));
            if mac.is_some() || by.is_some() {
                found.push(PinnedName {
                    file: path.clone(),
                    mac: mac.and_then(hardware_address),
                    path: by.map(str::to_owned),
                    name: name.to_owned(),
                });
            }
        }
    }
    for path in guest.files_in("/etc/systemd/network", ".link") {
        let file = ini::parse(&guest.text(&path).unwrap_or_default());
        let Some(name) = file.get("Link", "Name") else { continue };
        let mac = file.get("Match", "PermanentMACAddress").or_else(|| file.get("Match", "MACAddress"));
        found.push(PinnedName {
            mac: mac.and_then(hardware_address),
            path: file.get("Match", "Path").map(str::to_owned),
            name: name.to_owned(),
            file: path,
        });
    }
    for row in rows::rows(&guest.text("/etc/mactab").unwrap_or_default()) {
        if let (Some(name), Some(mac)) = (row.text(0), row.text(1).and_then(hardware_address)) {
            let file = "/etc/mactab".to_owned();
            found.push(PinnedName { file, mac: Some(mac), path: None, name: name.to_owned() });
        }
    }
    found.truncate(MOST);
    found
}
