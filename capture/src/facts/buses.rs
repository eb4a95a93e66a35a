// SPDX-License-Identifier: Apache-2.0
//! Devices of buses that are not PCI: a machine whose disk is on virtio or VMBus needs their drivers too.

use std::path::Path;

use unmoor_images::manifest::BusFacts;

use super::Tree;

/// Buses whose devices have a modalias that some driver answers to.
const BUSES: [&str; 6] = ["usb", "virtio", "vmbus", "xen", "scsi", "mmc"];
/// Devices that are listed; each disk of a SAN is one.
const MOST: usize = 1024;

/// All of them that have a modalias: of USB the interfaces.
pub(super) fn list(tree: &Tree) -> Vec<BusFacts> {
    let mut found = Vec::new();
    for bus in BUSES {
        for address in tree.names(&format!("sys/bus/{bus}/devices")) {
            let folder = format!("sys/bus/{bus}/devices/{address}");
            let Some(modalias) = tree.text(&format!("{folder}/modalias")) else { continue };
            if found.len() < MOST {
                let driver = tree.link_name(Path::new(&format!("{folder}/driver")));
                found.push(BusFacts { bus: bus.to_owned(), address, modalias, driver });
            }
        }
    }
    found
}
