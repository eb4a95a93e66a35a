// SPDX-License-Identifier: Apache-2.0
//! Virtual machines of hypervisors, by what their guests are usually given.

use super::part::{Pci, other, pci, scsi_disk, virtio};
use crate::request::{Hardware, Part, Purpose};

pub(super) fn named(name: &str) -> Option<Hardware> {
    match name {
        "kvm" => Some(kvm()),
        "vmware" => Some(vmware()),
        "hyperv" => Some(hyperv()),
        "xen" => Some(xen()),
        _ => None,
    }
}

/// Transitional devices have ids from 0x1000, modern ones 0x1040 + type (Virtual I/O Device 1.2, section 4.1.2).
pub(super) const VIRTIO_BLK: [Pci; 2] =
    [pci(0x1af4, 0x1001, 0x1af4, 0x0002, 0x01_0000), pci(0x1af4, 0x1042, 0x1af4, 0x1100, 0x01_0000)];
pub(super) const VIRTIO_SCSI: [Pci; 2] =
    [pci(0x1af4, 0x1004, 0x1af4, 0x0008, 0x01_0000), pci(0x1af4, 0x1048, 0x1af4, 0x1100, 0x01_0000)];
pub(super) const VIRTIO_NET: [Pci; 2] =
    [pci(0x1af4, 0x1000, 0x1af4, 0x0001, 0x02_0000), pci(0x1af4, 0x1041, 0x1af4, 0x1100, 0x02_0000)];
pub(super) const VIRTIO_CONSOLE: [Pci; 2] =
    [pci(0x1af4, 0x1003, 0x1af4, 0x0003, 0x07_8000), pci(0x1af4, 0x1043, 0x1af4, 0x1100, 0x07_8000)];
/// Machine q35's and pc's own controllers.
pub(super) const ICH9_AHCI: Pci = pci(0x8086, 0x2922, 0x1af4, 0x1100, 0x01_0601);
pub(super) const PIIX3_IDE: Pci = pci(0x8086, 0x7010, 0x1af4, 0x1100, 0x01_0180);
pub(super) const PVSCSI: Pci = pci(0x15ad, 0x07c0, 0x15ad, 0x07c0, 0x01_0700);
pub(super) const VMXNET3: Pci = pci(0x15ad, 0x07b0, 0x15ad, 0x07b0, 0x02_0000);

/// Both kinds of a virtio device, and what its driver binds to.
pub(super) fn virtio_parts(
    kinds: [Pci; 2],
    device: u32,
    purpose: Purpose,
    name: &str,
    certain: bool,
) -> Vec<Part> {
    let [transitional, modern] = kinds;
    vec![
        transitional.part(purpose, name, certain),
        modern.part(purpose, name, certain),
        virtio(device, purpose, name, certain),
    ]
}

fn kvm() -> Hardware {
    let mut parts = virtio_parts(VIRTIO_BLK, 2, Purpose::Disk, "virtio block device", true);
    parts.extend(virtio_parts(VIRTIO_NET, 1, Purpose::Nic, "virtio network adapter", true));
    parts.extend(virtio_parts(VIRTIO_SCSI, 8, Purpose::Disk, "virtio SCSI controller", false));
    parts.push(scsi_disk(false));
    parts.extend(virtio_parts(VIRTIO_CONSOLE, 3, Purpose::Console, "virtio console", false));
    parts.push(ICH9_AHCI.part(Purpose::Disk, "AHCI controller of q35", false));
    parts.push(PIIX3_IDE.part(Purpose::Disk, "IDE controller of i440FX", false));
    for (id, device, name) in [(0x1045, 5, "virtio balloon"), (0x1044, 4, "virtio random numbers")] {
        parts.push(pci(0x1af4, id, 0x1af4, 0x1100, 0x00_ff00).part(Purpose::Other, name, false));
        parts.push(virtio(device, Purpose::Other, name, false));
    }
    hardware("kvm", parts, Some("kvm"))
}

fn vmware() -> Hardware {
    let disk = |pci: Pci, name, certain| pci.part(Purpose::Disk, name, certain);
    let nic = |pci: Pci, name, certain| pci.part(Purpose::Nic, name, certain);
    let parts = vec![
        disk(PVSCSI, "VMware paravirtual SCSI controller", true),
        scsi_disk(true),
        nic(VMXNET3, "vmxnet3 network adapter", true),
        disk(pci(0x1000, 0x0054, 0x15ad, 0x1976, 0x01_0700), "LSI Logic SAS controller", false),
        disk(pci(0x1000, 0x0030, 0x15ad, 0x1976, 0x01_0000), "LSI Logic parallel SCSI controller", false),
        disk(pci(0x15ad, 0x07e0, 0x15ad, 0x07e0, 0x01_0601), "VMware SATA controller", false),
        disk(pci(0x15ad, 0x07f0, 0x15ad, 0x07f0, 0x01_0802), "VMware NVMe controller", false),
        disk(pci(0x8086, 0x7111, 0x15ad, 0x1976, 0x01_018a), "PIIX4 IDE controller", false),
        nic(pci(0x8086, 0x10d3, 0x15ad, 0x07d0, 0x02_0000), "e1000e network adapter", false),
        nic(pci(0x8086, 0x100f, 0x15ad, 0x0750, 0x02_0000), "e1000 network adapter", false),
        pci(0x15ad, 0x0740, 0x15ad, 0x0740, 0x08_8000).part(Purpose::Other, "VMCI", false),
    ];
    hardware("vmware", parts, Some("vmware"))
}

/// Devices are found by GUID on VMBus; their bytes stand as in memory (scripts/mod/file2alias.c, `do_vmbus_entry`).
fn hyperv() -> Hardware {
    let parts = vec![
        // ba6163d9-04a1-4d29-b605-72e2ffb1dc7f
        other("vmbus:d96361baa104294db60572e2ffb1dc7f", Purpose::Disk, "Hyper-V SCSI controller", true),
        scsi_disk(true),
        // f8615163-df3e-46c5-913f-f2d2f965ed0e
        other("vmbus:635161f83edfc546913ff2d2f965ed0e", Purpose::Nic, "Hyper-V network adapter", true),
        // 32412632-86cb-44a2-9b5c-50d1417354f5: generation 1's disks on IDE
        other("vmbus:32264132cb86a2449b5c50d1417354f5", Purpose::Disk, "Hyper-V IDE controller", false),
        // f912ad6d-2b17-48ea-bd65-f927a61c7684: generation 2 has no other keyboard
        other("vmbus:6dad12f9172bea48bd65f927a61c7684", Purpose::Console, "Hyper-V keyboard", false),
        // The bus itself; its ACPI name was spelled otherwise before Linux 5.6.
        other("acpi:VMBUS:", Purpose::Bus, "Hyper-V VMBus", false),
        other("acpi:VMBus:", Purpose::Bus, "Hyper-V VMBus", false),
        pci(0x8086, 0x7111, 0, 0, 0x01_0180).part(Purpose::Disk, "PIIX4 IDE controller", false),
    ];
    hardware("hyperv", parts, Some("hyperv"))
}

fn xen() -> Hardware {
    let parts = vec![
        other("xen:vbd", Purpose::Disk, "Xen block device", true),
        other("xen:vif", Purpose::Nic, "Xen network adapter", true),
        other("xen:vkbd", Purpose::Console, "Xen keyboard", false),
        pci(0x5853, 0x0001, 0x5853, 0x0001, 0xff_8000).part(Purpose::Bus, "Xen platform device", false),
        PIIX3_IDE.part(Purpose::Disk, "PIIX3 IDE controller", false),
    ];
    Hardware { serial: Some("hvc0".into()), ..hardware("xen", parts, Some("xen")) }
}

fn hardware(name: &str, parts: Vec<Part>, hypervisor: Option<&str>) -> Hardware {
    Hardware {
        name: name.to_owned(),
        parts,
        nics: Vec::new(),
        serial: Some("ttyS0".into()),
        hypervisor: hypervisor.map(str::to_owned),
        sector_size: None,
    }
}
