// SPDX-License-Identifier: Apache-2.0
//! systemd-networkd: systemd.network(5), systemd.netdev(5).

use super::{Collector, Found, hardware_address};
use crate::inspection::Stack;
use crate::syntax::glob;
use crate::syntax::ini::{self, Ini};

const DIRECTORY: &str = "/etc/systemd/network";

pub(super) fn read(found: &mut Collector<'_, '_>) {
    for path in found.guest.files_in(DIRECTORY, ".netdev") {
        let file = ini::parse(&found.guest.text(&path).unwrap_or_default());
        let (Some(name), Some(kind)) = (file.get("NetDev", "Name"), file.get("NetDev", "Kind")) else {
            continue;
        };
        let config =
            Found { name: Some(name.to_owned()), virtual_kind: Some(kind.to_owned()), ..Found::default() };
        found.add(Stack::Networkd, &path, config);
    }
    for path in found.guest.files_in(DIRECTORY, ".network") {
        let file = ini::parse(&found.guest.text(&path).unwrap_or_default());
        if file.has("Match") {
            found.add(Stack::Networkd, &path, network(&file));
        }
    }
}

fn network(file: &Ini) -> Found {
    let mut config = Found::default();
    for (key, name) in [
        ("Name", "name"),
        ("MACAddress", "mac"),
        ("PermanentMACAddress", "mac"),
        ("Path", "path"),
        ("Driver", "driver"),
        ("Type", "type"),
        ("Kind", "kind"),
    ] {
        let values: Vec<&str> = file.entries("Match", key).map(|entry| entry.value.as_str()).collect();
        if !values.is_empty() {
            config.matches.insert(name.into(), values.join(" "));
        }
    }
    let words = |key: &str| config.matches.get(key).map(|text| text.split_whitespace().collect::<Vec<_>>());
    let plain = |word: &&&str| !glob::is_pattern(word) && !word.starts_with('!');
    config.name = match words("name").as_deref() {
        Some([name]) => Some(name).filter(plain).map(|name| (*name).to_owned()),
        _ => None,
    };
    config.mac = match words("mac").as_deref() {
        Some([mac]) => hardware_address(mac),
        _ => None,
    };
    match file.get("Network", "DHCP").map(str::to_ascii_lowercase).as_deref() {
        Some("yes" | "true" | "both" | "1" | "on") => {
            config.addresses.extend(["dhcp".to_owned(), "dhcp6".to_owned()]);
        }
        Some("ipv4" | "v4") => config.addresses.push("dhcp".into()),
        Some("ipv6" | "v6") => config.addresses.push("dhcp6".into()),
        _ => {}
    }
    let all = |section: &str, key: &str| -> Vec<String> {
        let values = file.entries(section, key).map(|entry| entry.value.clone());
        values.filter(|value| !value.is_empty()).collect()
    };
    config.addresses.extend(all("Network", "Address"));
    config.addresses.extend(all("Address", "Address"));
    config.gateways.extend(all("Network", "Gateway"));
    for section in file.sections.iter().filter(|section| section.name == "Route") {
        let value = |key: &str| {
            section.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
        };
        // A route to somewhere else is no default gateway.
        if matches!(value("Destination"), None | Some("0.0.0.0/0" | "::/0" | "default")) {
            config.gateways.extend(value("Gateway").map(str::to_owned));
        }
    }
    config
}
