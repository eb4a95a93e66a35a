// SPDX-License-Identifier: Apache-2.0
//! Modaliases as the kernel writes them (drivers/pci/pci-sysfs.c, drivers/virtio/virtio.c, drivers/hv/vmbus_drv.c).

use crate::request::{Part, Purpose};

/// A PCI function: vendor, device, subsystem vendor and device, class with subclass and interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pci {
    pub(super) id: (u16, u16),
    pub(super) subsystem: (u16, u16),
    pub(super) class: u32,
}

pub(super) const fn pci(vendor: u16, device: u16, subvendor: u16, subdevice: u16, class: u32) -> Pci {
    Pci { id: (vendor, device), subsystem: (subvendor, subdevice), class }
}

impl Pci {
    pub(super) fn modalias(self) -> String {
        let ((vendor, device), (subvendor, subdevice)) = (self.id, self.subsystem);
        let [_, class, subclass, interface] = self.class.to_be_bytes();
        format!(
            "pci:v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}bc{class:02X}sc{subclass:02X}i{interface:02X}"
        )
    }

    pub(super) fn part(self, purpose: Purpose, name: &str, certain: bool) -> Part {
        let name = format!("{name} ({:04x}:{:04x})", self.id.0, self.id.1);
        Part { modalias: self.modalias(), purpose, name, certain }
    }
}

pub(super) fn other(modalias: impl Into<String>, purpose: Purpose, name: &str, certain: bool) -> Part {
    Part { modalias: modalias.into(), purpose, name: name.to_owned(), certain }
}

/// Disks behind SCSI or libata need the SCSI disk driver as well: peripheral type 0.
pub(super) fn scsi_disk(certain: bool) -> Part {
    other("scsi:t-0x00", Purpose::Disk, "SCSI disk", certain)
}

/// A device on virtio's bus (Virtual I/O Device 1.2, section 5).
pub(super) fn virtio(device: u32, purpose: Purpose, name: &str, certain: bool) -> Part {
    other(format!("virtio:d{device:08X}v00001AF4"), purpose, name, certain)
}

/// What libvirt, VMware and others call the classes: (class, purpose).
pub(super) fn purpose_of_class(class: u32) -> Purpose {
    match class >> 8 {
        0x0100..=0x01ff => Purpose::Disk,
        0x0200..=0x02ff => Purpose::Nic,
        0x0700..=0x0702 | 0x0780 => Purpose::Console,
        // FireWire, USB, Fibre Channel, SMBus are buses; so is an SD host.
        0x0c00..=0x0cff | 0x0805 => Purpose::Bus,
        _ => Purpose::Other,
    }
}
