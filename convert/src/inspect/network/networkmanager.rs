// SPDX-License-Identifier: Apache-2.0
//! NetworkManager's keyfiles (nm-settings-keyfile(5)).

use super::{Collector, Found, hardware_address};
use crate::inspection::Stack;
use crate::syntax::ini::{self, Ini};

const DIRECTORIES: [&str; 2] =
    ["/etc/NetworkManager/system-connections", "/usr/lib/NetworkManager/system-connections"];

pub(super) fn read(found: &mut Collector<'_, '_>) {
    for directory in DIRECTORIES {
        for path in found.guest.files_in(directory, "") {
            if path.ends_with('~') || path.ends_with(".bak") {
                continue;
            }
            let text = found.guest.text(&path).unwrap_or_default();
            let file = ini::parse(&text);
            if let Some(config) = connection(&file) {
                found.add(Stack::NetworkManager, &path, config);
            }
            // A VLAN's parent needs no connection of its own; it may be named by the UUID of one, too.
            let parent = file.get("vlan", "parent").filter(|parent| parent.len() < 16);
            if let Some(parent) =
                parent.filter(|parent| !parent.starts_with("bond") && !parent.starts_with("br"))
            {
                let matches = [("name".to_owned(), parent.to_owned())].into();
                let config = Found { name: Some(parent.to_owned()), matches, ..Found::default() };
                found.add(Stack::NetworkManager, &path, config);
            }
        }
    }
}

fn connection(file: &Ini) -> Option<Found> {
    let kind = file.get("connection", "type")?;
    let mut config =
        Found { name: file.get("connection", "interface-name").map(str::to_owned), ..Found::default() };
    match kind {
        "ethernet" | "802-3-ethernet" | "infiniband" | "wifi" | "802-11-wireless" => {}
        "loopback" | "gsm" | "cdma" | "bluetooth" | "vpn" | "adsl" | "pppoe" => return None,
        other => config.virtual_kind = Some(other.to_owned()),
    }
    config.matches.insert("type".into(), kind.to_owned());
    if let Some(name) = &config.name {
        config.matches.insert("name".into(), name.clone());
    }
    for section in ["ethernet", "802-3-ethernet", "infiniband"] {
        if let Some(mac) = file.get(section, "mac-address") {
            config.matches.insert("mac".into(), mac.to_owned());
            config.mac = hardware_address(mac);
        }
    }
    for (key, name) in [("path", "path"), ("driver", "driver"), ("interface-name", "name")] {
        if let Some(value) = file.get("match", key) {
            config.matches.insert(name.into(), value.to_owned());
        }
    }
    // A port of a bond or bridge asks for nothing. Without a method the default is to ask.
    let is_port = ["master", "controller"].iter().any(|key| file.get("connection", key).is_some());
    if !is_port && file.get("ipv4", "method").unwrap_or("auto") == "auto" {
        config.addresses.push("dhcp".into());
    }
    if file.get("ipv6", "method") == Some("dhcp") {
        config.addresses.push("dhcp6".into());
    }
    for section in ["ipv4", "ipv6"] {
        let entries =
            file.sections.iter().filter(|found| found.name == section).flat_map(|found| &found.entries);
        for entry in entries {
            let numbered = entry
                .key
                .strip_prefix("address")
                .filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
            if numbered.is_some() {
                // address1=192.0.2.7/24,192.0.2.1
                let (address, gateway) = match entry.value.split_once(',') {
                    Some((address, gateway)) => (address, Some(gateway)),
                    None => (entry.value.as_str(), None),
                };
                config.addresses.push(address.trim().to_owned());
                config.gateways.extend(gateway.map(|gateway| gateway.trim().to_owned()));
            } else if entry.key == "addresses" {
                let all = entry.value.split([',', ';']).map(str::trim).filter(|address| !address.is_empty());
                config.addresses.extend(all.map(str::to_owned));
            } else if entry.key == "gateway" {
                config.gateways.push(entry.value.clone());
            }
        }
    }
    Some(config)
}
