// SPDX-License-Identifier: Apache-2.0
//! Networks: every stack's configuration, and names that are bound to adapters.

mod ifcfg;
mod ifupdown;
mod netplan;
mod networkd;
mod networkmanager;
mod pinned;

use std::collections::BTreeMap;

use super::guest::Guest;
use crate::inspection::{Boot, ConfiguredBy, Interface, Network, Stack};

/// Interfaces of one guest.
const MOST: usize = 1000;

pub(super) fn read(guest: &Guest<'_>, boot: &Boot) -> Network {
    let mut found = Collector { guest, interfaces: Vec::new() };
    ifupdown::read(&mut found);
    networkmanager::read(&mut found);
    networkd::read(&mut found);
    netplan::read(&mut found);
    ifcfg::read(&mut found);
    let mut interfaces = found.interfaces;
    let nics = guest.facts.map(|facts| facts.nics.as_slice()).unwrap_or_default();
    let pinned_names = pinned::read(guest);
    for interface in interfaces.iter_mut().filter(|interface| interface.virtual_kind.is_none()) {
        if let (None, Some(name)) = (&interface.mac, &interface.name) {
            // A name that is bound to an address says whose it is; the machine that captured may have called it otherwise.
            let bound = pinned_names
                .iter()
                .filter(|pinned| pinned.name == *name)
                .find_map(|pinned| pinned.mac.clone());
            let nic = nics.iter().find(|nic| nic.name == *name);
            let told = || nic.and_then(|nic| nic.mac.as_deref()).and_then(hardware_address);
            interface.mac = bound.or_else(told);
        }
    }
    Network { interfaces, pinned_names, kernel_names: kernel_names(guest, boot) }
}

/// Whether interfaces are called as the kernel calls them: by argument, by masked rules, or since nothing renames them.
fn kernel_names(guest: &Guest<'_>, boot: &Boot) -> bool {
    let entry = boot.entries.iter().find(|entry| entry.default);
    let has =
        |argument: &str| entry.is_some_and(|entry| entry.arguments.iter().any(|given| given == argument));
    let masked = ["/etc/udev/rules.d/80-net-setup-link.rules", "/etc/systemd/network/99-default.link"]
        .iter()
        .any(|path| guest.read_link(path).as_deref() == Some("/dev/null"));
    let udev = guest.any(&[
        "/usr/lib/systemd/systemd-udevd",
        "/lib/systemd/systemd-udevd",
        "/usr/bin/udevadm",
        "/bin/udevadm",
    ]);
    has("net.ifnames=0") || masked || !udev
}

/// What one piece of configuration says.
#[derive(Default)]
pub(super) struct Found {
    pub(super) name: Option<String>,
    pub(super) mac: Option<String>,
    pub(super) addresses: Vec<String>,
    pub(super) gateways: Vec<String>,
    pub(super) virtual_kind: Option<String>,
    pub(super) matches: BTreeMap<String, String>,
}

pub(super) struct Collector<'a, 'b> {
    pub(super) guest: &'a Guest<'b>,
    interfaces: Vec<Interface>,
}

impl Collector<'_, '_> {
    /// Adds it to the interface of the same name or address, or as a new one.
    pub(super) fn add(&mut self, stack: Stack, file: &str, found: Found) {
        if found.name.as_deref() == Some("lo") {
            return;
        }
        if self.interfaces.len() >= MOST {
            return;
        }
        let known = self.interfaces.iter().position(|known| match (&found.name, &known.name) {
            (Some(name), Some(known)) => name == known,
            _ => found.mac.is_some() && found.mac == known.mac,
        });
        let index = known.unwrap_or_else(|| {
            self.interfaces.push(Interface::default());
            self.interfaces.len() - 1
        });
        let Some(interface) = self.interfaces.get_mut(index) else { return };
        interface.name = interface.name.take().or(found.name);
        interface.mac = interface.mac.take().or(found.mac);
        interface.virtual_kind = interface.virtual_kind.take().or(found.virtual_kind);
        for (list, more) in
            [(&mut interface.addresses, found.addresses), (&mut interface.gateways, found.gateways)]
        {
            for text in more {
                if !list.contains(&text) && list.len() < MOST {
                    list.push(text);
                }
            }
        }
        let by = ConfiguredBy { stack, file: file.to_owned(), matches: found.matches };
        if !interface.configured_by.contains(&by) {
            interface.configured_by.push(by);
        }
    }
}

/// Lower case with colons, where it is an Ethernet address: "52-54-00-AA-BB-CC", "52:54:00:aa:bb:cc".
pub(super) fn hardware_address(text: &str) -> Option<String> {
    let text = text.trim().trim_matches(['"', '\'']).to_ascii_lowercase().replace('-', ":");
    let parts: Vec<&str> = text.split(':').collect();
    let good = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(good)).then_some(text)
}

/// "192.0.2.7" and "255.255.255.0" or "24" as "192.0.2.7/24".
pub(super) fn with_prefix(address: &str, mask: Option<&str>) -> String {
    if address.contains('/') {
        return address.to_owned();
    }
    let prefix = match mask.map(str::parse::<std::net::Ipv4Addr>) {
        Some(Ok(mask)) => Some(mask.to_bits().count_ones().to_string()),
        _ => mask.map(str::to_owned),
    };
    match prefix {
        Some(prefix) => format!("{address}/{prefix}"),
        None if address.contains(':') => format!("{address}/128"),
        None => format!("{address}/32"),
    }
}

/// Names that stand for a VLAN or an alias of another interface: (that one, kind).
pub(super) fn derived(name: &str) -> (&str, Option<&'static str>) {
    if let Some((base, _)) = name.split_once(':') {
        return (base, None);
    }
    match name.rsplit_once('.') {
        Some((_, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some("vlan")),
        _ => (name, None),
    }
}
