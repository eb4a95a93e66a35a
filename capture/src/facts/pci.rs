// SPDX-License-Identifier: Apache-2.0
//! PCI functions: what decides which drivers a machine needs.

use std::path::Path;

use unmoor_images::manifest::PciFacts;

use super::Tree;

/// All PCI functions.
pub(super) fn list(tree: &Tree) -> Vec<PciFacts> {
    let addresses = tree.names("sys/bus/pci/devices");
    addresses.iter().map(|address| read(tree, address)).collect()
}

fn read(tree: &Tree, address: &str) -> PciFacts {
    let folder = format!("sys/bus/pci/devices/{address}");
    let hex = |file: &str| {
        let text = tree.text(&format!("{folder}/{file}"))?;
        Some(text.strip_prefix("0x").unwrap_or(&text).to_owned())
    };
    let pair = |vendor: Option<String>, device: Option<String>| Some(format!("{}:{}", vendor?, device?));
    PciFacts {
        address: address.to_owned(),
        id: pair(hex("vendor"), hex("device")).unwrap_or_default(),
        subsystem: pair(hex("subsystem_vendor"), hex("subsystem_device")).filter(|id| id != "0000:0000"),
        class: hex("class").unwrap_or_default(),
        modalias: tree.text(&format!("{folder}/modalias")),
        driver: tree.link_name(Path::new(&format!("{folder}/driver"))),
    }
}
