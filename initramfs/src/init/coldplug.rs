// SPDX-License-Identifier: Apache-2.0
//! Drivers for the hardware that is there at start, and for what comes later.

use std::sync::Arc;

use unmoor_images::Result;

use super::console::say;
use super::load::Loader;
use crate::sys::uevent::Uevents;

/// Rounds in which drivers show new devices: a bridge, a controller, a bus, a disk.
const ROUNDS: usize = 16;

/// Which devices get their drivers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wave {
    /// Disks, networks, and the buses that they hang on.
    First,
    /// All.
    Rest,
}

/// Loads drivers until no new device shows up.
pub(super) fn all(loader: &Loader, wave: Wave) {
    for _ in 0..ROUNDS {
        if loader
            .load_all(modaliases().into_iter().filter(|modalias| wave == Wave::Rest || is_first(modalias)))
            == 0
        {
            break;
        }
    }
}

/// Modaliases of all devices on all buses.
fn modaliases() -> Vec<String> {
    let mut found = Vec::new();
    let Ok(buses) = std::fs::read_dir("/sys/bus") else { return found };
    for bus in buses.filter_map(std::result::Result::ok) {
        let Ok(devices) = std::fs::read_dir(bus.path().join("devices")) else { continue };
        for device in devices.filter_map(std::result::Result::ok) {
            if let Ok(modalias) = std::fs::read_to_string(device.path().join("modalias")) {
                found.extend(Some(modalias.trim().to_owned()).filter(|modalias| !modalias.is_empty()));
            }
        }
    }
    found
}

/// By PCI base class (PCI Code and ID Assignment Specification): 01 storage, 02 network, 06 bridges (VMD is one), 0c serial buses
/// such as USB. Virtio's other functions are 00 and 07. Other buses: those that disks and networks are on.
fn is_first(modalias: &str) -> bool {
    if let Some(pci) = modalias.strip_prefix("pci:") {
        let class = pci.split_once("bc").map(|(_, rest)| rest.get(..2).unwrap_or(rest)).unwrap_or_default();
        return matches!(class, "01" | "02" | "06" | "0C")
            || pci.starts_with("v00001AF4")
            || pci.starts_with("v000015AD");
    }
    let buses = ["virtio:", "scsi:", "vmbus:", "xen:", "usb:", "mmc:", "sdio:", "nvme:", "ide:", "dmi:"];
    buses.iter().any(|bus| modalias.starts_with(bus))
}

/// Loads drivers for devices as they come, in a thread of its own for as long as the machine runs.
pub(super) fn watch(events: Uevents, loader: Arc<Loader>) -> Result<()> {
    let watch = move || {
        loop {
            match events.next() {
                // The kernel drops events when they come faster than they are read: then everything is looked at again.
                Ok(None) => all(&loader, Wave::Rest),
                Ok(Some(event)) => {
                    let modalias = event.value("MODALIAS").filter(|_| event.value("ACTION") == Some("add"));
                    if let Some(modalias) = modalias {
                        loader.load_all([modalias.to_owned()]);
                    }
                }
                Err(error) => {
                    say(&format!(
                        "{}: devices that are plugged in later stay without drivers",
                        error.chain()
                    ));
                    return;
                }
            }
        }
    };
    super::spawn("uevents", watch)
}

#[cfg(test)]
mod tests {
    use super::is_first;

    #[test]
    fn disks_networks_and_their_buses_come_first() {
        for first in [
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
            "pci:v00001AF4d00001003sv00001AF4sd00000003bc07sc80i00",
            "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00",
            "pci:v00001033d00000194sv00001AF4sd00001100bc0Csc03i30",
            "virtio:d00000002v00001AF4",
            "scsi:t-0x00",
        ] {
            assert!(is_first(first), "{first}");
        }
        for later in [
            "pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00",
            "cpu:type:x86,ven0002",
            "platform:pcspkr",
        ] {
            assert!(!is_first(later), "{later}");
        }
    }
}
