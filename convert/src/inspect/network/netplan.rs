// SPDX-License-Identifier: Apache-2.0
//! netplan's YAML (netplan(5)).

use serde_json::{Map, Value};

use super::{Collector, Found, hardware_address};
use crate::inspection::Stack;
use crate::syntax::glob;

/// Kinds of definitions, and what they are if they have no hardware.
const KINDS: [(&str, Option<&str>); 9] = [
    ("ethernets", None),
    ("wifis", None),
    ("modems", None),
    ("bonds", Some("bond")),
    ("bridges", Some("bridge")),
    ("vlans", Some("vlan")),
    ("tunnels", Some("tunnel")),
    ("dummy-devices", Some("dummy")),
    ("vrfs", Some("vrf")),
];

pub(super) fn read(found: &mut Collector<'_, '_>) {
    for directory in ["/usr/lib/netplan", "/etc/netplan"] {
        for path in found.guest.files_in(directory, ".yaml") {
            let text = found.guest.text(&path).unwrap_or_default();
            match definitions(&text) {
                Ok(all) => all.into_iter().for_each(|config| found.add(Stack::Netplan, &path, config)),
                Err(why) => found.guest.note(format!("{path} cannot be read: {why}")),
            }
        }
    }
}

/// What a file defines, or why it cannot be read.
pub(crate) fn definitions(text: &str) -> Result<Vec<Found>, String> {
    let document: Option<Value> = serde_saphyr::from_str(text).map_err(|error| {
        // The first line says what; the rest shows the source.
        error.to_string().lines().next().unwrap_or_default().chars().take(200).collect::<String>()
    })?;
    let document = document.unwrap_or_default();
    let network = document.get("network").unwrap_or(&document);
    let mut found = Vec::new();
    for (key, kind) in KINDS {
        for (id, definition) in network.get(key).and_then(Value::as_object).into_iter().flatten() {
            let none = Map::new();
            let definition = definition.as_object().unwrap_or(&none);
            found.push(interface(id, definition, kind));
        }
    }
    Ok(found)
}

fn interface(id: &str, definition: &Map<String, Value>, kind: Option<&str>) -> Found {
    let mut config = Found { virtual_kind: kind.map(str::to_owned), ..Found::default() };
    let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    match definition.get("match").and_then(Value::as_object) {
        Some(by) => {
            for (key, name) in [("name", "name"), ("macaddress", "mac"), ("driver", "driver")] {
                if let Some(value) = text(by, key) {
                    config.matches.insert(name.into(), value);
                }
            }
            config.mac = text(by, "macaddress").as_deref().and_then(hardware_address);
            let by_name = text(by, "name").filter(|name| !glob::is_pattern(name));
            config.name = text(definition, "set-name").or(by_name);
        }
        None => {
            config.matches.insert("name".into(), id.to_owned());
            config.name = Some(id.to_owned());
        }
    }
    let is_on = |key: &str| match definition.get(key) {
        Some(Value::Bool(on)) => *on,
        // YAML 1.1's words, which netplan takes.
        Some(Value::String(word)) => {
            matches!(word.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "y")
        }
        _ => false,
    };
    for (key, name) in [("dhcp4", "dhcp"), ("dhcp6", "dhcp6")] {
        if is_on(key) {
            config.addresses.push(name.into());
        }
    }
    for address in definition.get("addresses").and_then(Value::as_array).into_iter().flatten() {
        match address {
            Value::String(address) => config.addresses.push(address.clone()),
            // With options: "192.0.2.7/24: {label: x}".
            Value::Object(one) => config.addresses.extend(one.keys().cloned()),
            _ => {}
        }
    }
    for key in ["gateway4", "gateway6"] {
        config.gateways.extend(text(definition, key));
    }
    for route in definition.get("routes").and_then(Value::as_array).into_iter().flatten() {
        let Some(route) = route.as_object() else { continue };
        if matches!(text(route, "to").as_deref(), Some("default" | "0.0.0.0/0" | "::/0")) {
            config.gateways.extend(text(route, "via"));
        }
    }
    config
}
