// SPDX-License-Identifier: Apache-2.0
//! Network interfaces with hardware behind them.

use std::path::Path;

use unmoor_images::manifest::NicFacts;

use super::Tree;

/// All interfaces that have a device; bridges, bonds, VLANs and tunnels have none.
pub(super) fn list(tree: &Tree) -> Vec<NicFacts> {
    let names = tree.names("sys/class/net");
    names
        .iter()
        .filter(|name| tree.exists(&format!("sys/class/net/{name}/device")))
        .map(|name| read(tree, name))
        .collect()
}

fn read(tree: &Tree, name: &str) -> NicFacts {
    let folder = format!("sys/class/net/{name}");
    let text = |file: &str| tree.text(&format!("{folder}/{file}"));
    let device = format!("{folder}/device");
    NicFacts {
        name: name.to_owned(),
        mac: text("bonding_slave/perm_hwaddr").or_else(|| text("address")),
        driver: tree.link_name(Path::new(&format!("{device}/driver"))),
        pci_address: tree.pci_function(&device).0,
        // -1 where the driver does not know; reading fails with EINVAL while the interface is down.
        speed_mbit: text("speed").and_then(|speed| speed.parse().ok()).filter(|speed| *speed > 0),
        link: text("carrier").as_deref() == Some("1"),
    }
}
