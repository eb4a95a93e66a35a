// SPDX-License-Identifier: Apache-2.0
//! ifcfg files: of Red Hat (initscripts' sysconfig.txt, nm-settings-ifcfg-rh(5)) and of SUSE (ifcfg(5), read by wicked).

use super::{Collector, Found, derived, hardware_address, with_prefix};
use crate::inspect::guest::join;
use crate::inspection::Stack;
use crate::syntax::assignments::{Assignment, assignments, get};
use crate::syntax::rows::rows;

const RED_HAT: &str = "/etc/sysconfig/network-scripts";
const SUSE: &str = "/etc/sysconfig/network";

pub(super) fn read(found: &mut Collector<'_, '_>) {
    let wicked = found.guest.any(&["/usr/sbin/wicked", "/etc/wicked"]);
    let suse = if wicked { Stack::Wicked } else { Stack::Ifcfg };
    for (directory, stack) in [(RED_HAT, Stack::Ifcfg), (SUSE, suse)] {
        for path in found.guest.files_in(directory, "") {
            let name = path.rsplit('/').next().unwrap_or_default();
            let Some(name) = name.strip_prefix("ifcfg-").filter(|name| *name != "lo") else { continue };
            // Copies that editors and packages leave.
            if [".bak", ".orig", ".rpmsave", ".rpmnew", "~", ".template", ".old"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                continue;
            }
            let all = assignments(&found.guest.text(&path).unwrap_or_default());
            let mut config = interface(name, &all);
            let routes =
                [join(directory, &format!("route-{name}")), join(directory, &format!("ifroute-{name}"))];
            for route in routes {
                config.gateways.extend(default_routes(&found.guest.text(&route).unwrap_or_default()));
            }
            found.add(stack, &path, config);
        }
    }
    // A gateway for all: it is the one interface's that has addresses.
    let red_hat = assignments(&found.guest.text("/etc/sysconfig/network").unwrap_or_default());
    let mut gateways: Vec<String> = get(&red_hat, "GATEWAY").into_iter().collect();
    gateways.extend(default_routes(&found.guest.text(&join(SUSE, "routes")).unwrap_or_default()));
    let mut fixed: Vec<_> = found
        .interfaces
        .iter_mut()
        .filter(|interface| {
            let here =
                |by: &crate::inspection::ConfiguredBy| matches!(by.stack, Stack::Ifcfg | Stack::Wicked);
            interface.configured_by.iter().any(here)
                && interface.addresses.iter().any(|text| text.contains('/'))
        })
        .collect();
    if let [interface] = fixed.as_mut_slice() {
        interface.gateways.extend(gateways);
    }
}

/// "default 192.0.2.1 - -" of SUSE, "default via 192.0.2.1 dev eth0" of Red Hat.
fn default_routes(text: &str) -> Vec<String> {
    let gateway = |row: &crate::syntax::rows::Row| {
        let first = row.text(0)?;
        if !matches!(first, "default" | "0.0.0.0/0" | "::/0") {
            return None;
        }
        let second = row.text(1)?;
        let gateway = if second == "via" { row.text(2)? } else { second };
        (gateway != "-").then(|| gateway.to_owned())
    };
    rows(text).iter().filter_map(gateway).collect()
}

fn interface(file_name: &str, all: &[Assignment]) -> Found {
    let value = |key: &str| get(all, key).filter(|value| !value.is_empty());
    let is = |key: &str| {
        value(key).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "yes" | "true"))
    };
    let mut config = Found::default();
    // SLES 10: ifcfg-eth-id-00:11:22:33:44:55
    let by_id = file_name.strip_prefix("eth-id-").and_then(hardware_address);
    let mac = value("HWADDR").as_deref().and_then(hardware_address);
    if let Some(mac) = &mac {
        config.matches.insert("mac".into(), mac.clone());
    }
    config.mac = mac.or(by_id.clone());
    let device = value("DEVICE").or_else(|| (config.mac.is_none()).then(|| file_name.to_owned()));
    if let Some(device) = device {
        config.matches.insert("name".into(), device.clone());
        let (base, kind) = derived(&device);
        config.virtual_kind = kind.map(str::to_owned);
        config.name = Some(base.to_owned());
    }
    let kind = value("TYPE").or_else(|| value("DEVICETYPE")).unwrap_or_default().to_ascii_lowercase();
    if !matches!(kind.as_str(), "" | "ethernet" | "infiniband" | "wireless") {
        config.virtual_kind = Some(kind.trim_start_matches("ovs").to_owned());
    }
    for (on, kind) in [
        (is("VLAN") || value("ETHERDEVICE").is_some(), "vlan"),
        (is("BONDING_MASTER") || value("BONDING_OPTS").is_some(), "bond"),
        // Red Hat's BRIDGE names the bridge that it is a port of.
        (is("BRIDGE") || value("BRIDGE_PORTS").is_some(), "bridge"),
        (value("TEAM_CONFIG").is_some(), "team"),
    ] {
        if on {
            config.virtual_kind.get_or_insert_with(|| kind.to_owned());
        }
    }
    match value("BOOTPROTO").unwrap_or_default().to_ascii_lowercase().as_str() {
        "dhcp" => config.addresses.push("dhcp".into()),
        "dhcp4" | "bootp" => config.addresses.push("dhcp".into()),
        "dhcp6" => config.addresses.push("dhcp6".into()),
        "dhcp4+dhcp6" | "dhcp+autoip" => {
            config.addresses.extend(["dhcp".to_owned(), "dhcp6".to_owned()]);
        }
        _ => {}
    }
    if is("DHCPV6C") {
        config.addresses.push("dhcp6".into());
    }
    for assignment in all {
        let number = assignment
            .key
            .strip_prefix("IPADDR")
            .filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_'));
        if let Some(number) = number.filter(|_| !assignment.value.is_empty()) {
            let masks = ["PREFIX", "PREFIXLEN", "NETMASK"];
            let mask = masks.iter().find_map(|key| value(&format!("{key}{number}")));
            config.addresses.push(with_prefix(&assignment.value, mask.as_deref()));
        }
    }
    if let Some(address) = value("IPV6ADDR") {
        config.addresses.push(address);
    }
    config.addresses.extend(
        value("IPV6ADDR_SECONDARIES").iter().flat_map(|text| text.split_whitespace()).map(str::to_owned),
    );
    config
        .gateways
        .extend([value("GATEWAY"), value("GATEWAY0"), value("IPV6_DEFAULTGW")].into_iter().flatten());
    config
}
