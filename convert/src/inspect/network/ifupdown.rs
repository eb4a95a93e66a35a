// SPDX-License-Identifier: Apache-2.0
//! Debian's and Alpine's /etc/network/interfaces.

use std::collections::BTreeMap;

use super::{Collector, Found, derived, with_prefix};
use crate::inspect::guest::join;
use crate::inspection::Stack;
use crate::syntax::glob;
use crate::syntax::interfaces::{Stanza, parse};

/// Files that include each other.
const MOST_FILES: usize = 256;
const DEEPEST: u32 = 16;
/// Ports of one stanza.
const MOST_PORTS: usize = 64;

pub(super) fn read(found: &mut Collector<'_, '_>) {
    let mut seen = Vec::new();
    file(found, "/etc/network/interfaces", &mut seen, 0);
}

fn file(found: &mut Collector<'_, '_>, path: &str, seen: &mut Vec<String>, depth: u32) {
    let Some(real) = found.guest.real_path(path) else { return };
    if seen.contains(&real) {
        return;
    }
    if seen.len() >= MOST_FILES || depth > DEEPEST {
        found.guest.note(format!("{path} is not followed: files of ifupdown include each other too often"));
        return;
    }
    seen.push(real);
    let text = found.guest.text(path).unwrap_or_default();
    for stanza in parse(&text) {
        match stanza.keyword.as_str() {
            "iface" => interface(found, path, &stanza),
            "source" => {
                for word in &stanza.words {
                    for path in expand(found, &word.text) {
                        file(found, &path, seen, depth + 1);
                    }
                }
            }
            "source-directory" => {
                for word in &stanza.words {
                    let directory = absolute(&word.text);
                    for path in found.guest.files_in(&directory, "") {
                        // run-parts(8): other names are left out.
                        let name = path.rsplit('/').next().unwrap_or_default();
                        if name
                            .bytes()
                            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
                        {
                            file(found, &path, seen, depth + 1);
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { join("/etc/network", path) }
}

/// A pattern in the last part of a path.
fn expand(found: &Collector<'_, '_>, pattern: &str) -> Vec<String> {
    let pattern = absolute(pattern);
    if !glob::is_pattern(&pattern) {
        return vec![pattern];
    }
    let (directory, last) = pattern.rsplit_once('/').unwrap_or(("", &pattern));
    let fits = |path: &String| path.rsplit('/').next().is_some_and(|name| glob::matches(last, name));
    found.guest.files_in(directory, "").into_iter().filter(fits).collect()
}

fn interface(found: &mut Collector<'_, '_>, path: &str, stanza: &Stanza) {
    let Some(full) = stanza.word(0) else { return };
    let (name, by_name) = derived(full);
    let method = stanza.word(2).unwrap_or_default();
    let mut config = Found::default();
    config.matches.insert("name".into(), full.to_owned());
    // A pattern of interfaces: "/eth*".
    if !full.starts_with('/') && !glob::is_pattern(full) {
        config.name = Some(name.to_owned());
    }
    match (method, stanza.word(1)) {
        ("dhcp", Some("inet6")) => config.addresses.push("dhcp6".into()),
        ("dhcp", _) => config.addresses.push("dhcp".into()),
        _ => {}
    }
    let mask = stanza.get("netmask");
    for address in stanza.all("address") {
        config.addresses.push(with_prefix(&address, mask.as_deref()));
    }
    config.gateways.extend(stanza.all("gateway"));
    for (keys, kind) in [
        (&["bridge-ports"][..], "bridge"),
        (&["bond-slaves", "bond-mode", "bond-primary"], "bond"),
        (&["vlan-raw-device", "vlan-id"], "vlan"),
        (&["wireguard-config-path"], "wireguard"),
    ] {
        if keys.iter().any(|key| stanza.get(key).is_some()) {
            config.virtual_kind.get_or_insert_with(|| kind.to_owned());
        }
    }
    // A port that says "bond-master" has hardware; "bond-mode" may stand beside it.
    if stanza.get("bond-master").is_some() {
        config.virtual_kind = None;
    }
    if matches!(method, "ppp" | "tunnel" | "wvdial") {
        config.virtual_kind.get_or_insert_with(|| method.to_owned());
    }
    if let Some(kind) = by_name {
        config.virtual_kind.get_or_insert_with(|| kind.to_owned());
    }
    found.add(Stack::Ifupdown, path, config);
    let raw = by_name.and_then(|_| name.rsplit_once('.')).map(|(parent, _)| parent.to_owned());
    for port in ports(stanza).into_iter().chain(raw) {
        let mut matches = BTreeMap::new();
        matches.insert("name".to_owned(), port.clone());
        found.add(Stack::Ifupdown, path, Found { name: Some(port), matches, ..Found::default() });
    }
}

/// Adapters that a bridge, bond or VLAN stands on, as far as they are named: they need no stanza of their own.
fn ports(stanza: &Stanza) -> Vec<String> {
    let keys = ["bridge-ports", "bond-slaves", "bond-primary", "vlan-raw-device"];
    let words = keys.into_iter().flat_map(|key| stanza.all(key));
    let words: Vec<String> =
        words.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    // "regex" and what follows it are patterns (bridge-utils-interfaces(5)).
    let named = words.into_iter().take_while(|word| word != "regex");
    named.filter(|word| is_adapter(word)).take(MOST_PORTS).collect()
}

/// Not "none" or "all", not a pattern, and nothing that only software makes.
fn is_adapter(name: &str) -> bool {
    let made = ["tap", "tun", "veth", "vnet", "dummy", "bond", "br", "wg", "vlan", "docker", "virbr"];
    let numbered = |kind: &&str| {
        name.strip_prefix(*kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    plain && !matches!(name, "none" | "all" | "lo") && !made.iter().any(numbered)
}
