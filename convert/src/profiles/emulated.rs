// SPDX-License-Identifier: Apache-2.0
//! "qemu:BUS+NIC": one machine that QEMU emulates, for rehearsals and tests. The ids are those that QEMU's monitor tells ("info
//! pci"), which a test holds against it.

use unmoor_images::{Error, ErrorKind, Result};

use super::part::{Pci, other, pci, scsi_disk};
use super::platforms::{
    ICH9_AHCI, PIIX3_IDE, PVSCSI, VIRTIO_BLK, VIRTIO_NET, VIRTIO_SCSI, VMXNET3, virtio_parts,
};
use crate::request::{Hardware, Part, Purpose, TargetNic};

/// How a disk is attached: (name, QEMU device of the controller or of the disk).
pub const BUSES: [(&str, &str); 12] = [
    ("ide", "ide-hd"),
    ("ahci", "ich9-ahci"),
    ("nvme", "nvme"),
    ("virtio-blk", "virtio-blk-pci"),
    ("virtio-scsi", "virtio-scsi-pci"),
    ("megasas", "megasas"),
    ("megasas-gen2", "megasas-gen2"),
    ("mptsas", "mptsas1068"),
    ("lsi53c895a", "lsi53c895a"),
    ("pvscsi", "pvscsi"),
    ("usb", "qemu-xhci"),
    ("sdhci", "sdhci-pci"),
];

/// Network adapters: (name, QEMU device).
pub const MODELS: [(&str, &str); 8] = [
    ("e1000", "e1000"),
    ("e1000e", "e1000e"),
    ("rtl8139", "rtl8139"),
    ("vmxnet3", "vmxnet3"),
    ("virtio-net", "virtio-net-pci"),
    ("igb", "igb"),
    ("pcnet", "pcnet"),
    ("tulip", "tulip"),
];

/// The function of a controller or adapter. Of virtio the transitional one.
pub(super) fn function(name: &str) -> Option<Pci> {
    Some(match name {
        "ide" => PIIX3_IDE,
        "ahci" => ICH9_AHCI,
        "nvme" => pci(0x1b36, 0x0010, 0x1af4, 0x1100, 0x01_0802),
        "virtio-blk" => VIRTIO_BLK[0],
        "virtio-scsi" => VIRTIO_SCSI[0],
        "megasas" => pci(0x1000, 0x0060, 0x1000, 0x1013, 0x01_0400),
        "megasas-gen2" => pci(0x1000, 0x005b, 0x1000, 0x9285, 0x01_0400),
        "mptsas" => pci(0x1000, 0x0054, 0x1000, 0x8000, 0x01_0000),
        "lsi53c895a" => pci(0x1000, 0x0012, 0x0000, 0x1000, 0x01_0000),
        "pvscsi" => PVSCSI,
        "usb" => pci(0x1b36, 0x000d, 0x1af4, 0x1100, 0x0c_0330),
        "sdhci" => pci(0x1b36, 0x0007, 0x1af4, 0x1100, 0x08_0501),
        "e1000" => pci(0x8086, 0x100e, 0x1af4, 0x1100, 0x02_0000),
        "e1000e" => pci(0x8086, 0x10d3, 0x8086, 0x0000, 0x02_0000),
        "rtl8139" => pci(0x10ec, 0x8139, 0x1af4, 0x1100, 0x02_0000),
        "vmxnet3" => VMXNET3,
        "virtio-net" => VIRTIO_NET[0],
        "igb" => pci(0x8086, 0x10c9, 0x8086, 0xa01c, 0x02_0000),
        "pcnet" => pci(0x1022, 0x2000, 0x1af4, 0x1100, 0x02_0000),
        "tulip" => pci(0x1011, 0x0019, 0x103c, 0x104f, 0x02_0000),
        _ => return None,
    })
}

pub(super) fn hardware(name: &str, devices: &str) -> Result<Hardware> {
    let wrong = |what: &str, given: &str, known: Vec<&str>| {
        Error::new(ErrorKind::Usage, format!("looking up the profile {name}"))
            .because(format!("{given:?} is no {what}; there are {}", known.join(", ")))
    };
    let (bus, nic) = devices.split_once('+').unwrap_or((devices, "none"));
    if !BUSES.iter().any(|(known, _)| *known == bus) {
        return Err(wrong("disk bus", bus, BUSES.iter().map(|(known, _)| *known).collect()));
    }
    let mut parts = disk(bus);
    let mut nics = Vec::new();
    if nic != "none" {
        let Some((_, model)) = MODELS.iter().find(|(known, _)| *known == nic) else {
            return Err(wrong("network adapter", nic, MODELS.iter().map(|(known, _)| *known).collect()));
        };
        if nic == "virtio-net" {
            parts.extend(virtio_parts(VIRTIO_NET, 1, Purpose::Nic, "virtio network adapter", true));
        } else {
            parts.extend(
                function(nic).map(|pci| pci.part(Purpose::Nic, &format!("{nic} network adapter"), true)),
            );
        }
        let modalias = function(nic).map(Pci::modalias);
        nics.push(TargetNic { mac: None, modalias, model: Some((*model).to_owned()) });
    }
    Ok(Hardware {
        name: name.to_owned(),
        parts,
        nics,
        serial: Some("ttyS0".into()),
        hypervisor: Some("kvm".into()),
        sector_size: None,
    })
}

fn disk(bus: &str) -> Vec<Part> {
    match bus {
        "virtio-blk" => virtio_parts(VIRTIO_BLK, 2, Purpose::Disk, "virtio block device", true),
        "virtio-scsi" => {
            let mut parts = virtio_parts(VIRTIO_SCSI, 8, Purpose::Disk, "virtio SCSI controller", true);
            parts.push(scsi_disk(true));
            parts
        }
        _ => {
            let purpose = if matches!(bus, "usb" | "sdhci") { Purpose::Bus } else { Purpose::Disk };
            let mut parts: Vec<Part> = function(bus)
                .map(|pci| pci.part(purpose, &format!("{bus} controller"), true))
                .into_iter()
                .collect();
            match bus {
                "nvme" => {}
                "sdhci" => parts.push(other("mmc:block", Purpose::Disk, "SD card", true)),
                "usb" => {
                    parts.push(other(super::physical::USB_STORAGE, Purpose::Disk, "USB disk", true));
                    parts.push(scsi_disk(true));
                }
                _ => parts.push(scsi_disk(true)),
            }
            parts
        }
    }
}
