// SPDX-License-Identifier: Apache-2.0
//! What drives a piece of hardware, and what must stand on it for a root filesystem.

use unmoor_convert::inspection::Layer;
use unmoor_convert::request::{Part, Purpose};
use unmoor_initramfs::modules::ModuleTree;

/// Drivers of disks that are no SCSI hosts: their disks need no sd_mod.
const NOT_SCSI: [&str; 8] =
    ["virtio_pci", "virtio_mmio", "virtio_blk", "nvme", "xen_blkfront", "mmc_block", "sdhci_pci", "vmd"];

/// Well-known modaliases and the module that drives them, for what is built in: modules.builtin.modinfo (Linux 5.2) tells the
/// aliases that a driver states by hand, but not those of its device table. Debian's 6.12 has virtio_pci built in, and not one alias of
/// a PCI device in there. Patterns as in modules.alias, cut to where they differ.
const WELL_KNOWN: [(&str, &str); 20] = [
    ("scsi:t-0x00", "sd_mod"),
    ("pci:v00001AF4d", "virtio_pci"),
    ("virtio:d00000001", "virtio_net"),
    ("virtio:d00000002", "virtio_blk"),
    ("virtio:d00000003", "virtio_console"),
    ("virtio:d00000008", "virtio_scsi"),
    ("xen:vbd", "xen_blkfront"),
    ("xen:vif", "xen_netfront"),
    // Hyper-V's synthetic SCSI and network, by the GUIDs of include/linux/hyperv.h.
    ("vmbus:d96361baa104294db60572e2ffb1dc7f", "hv_storvsc"),
    ("vmbus:635161f83edfc546913ff2d2f965ed0e", "hv_netvsc"),
    ("pci:v000015ADd000007C0", "vmw_pvscsi"),
    ("pci:v000015ADd000007B0", "vmxnet3"),
    ("pci:v00001000d00000054", "mptsas"),
    ("pci:v00001000d00000030", "mptspi"),
    ("pci:v00001000d00000060", "megaraid_sas"),
    ("pci:v00008086d00007010", "ata_piix"),
    ("pci:v00008086d00007111", "ata_piix"),
    ("pci:v00008086d0000100E", "e1000"),
    ("pci:v00008086d000010D3", "e1000e"),
    ("pci:v000010ECd00008139", "8139cp"),
];

/// A PCI class in a modalias ("bc01sc06i01") and what drives it.
const WELL_KNOWN_CLASSES: [(&str, &str); 4] = [
    ("bc01sc06i01", "ahci"),
    ("bc01sc08i02", "nvme"),
    ("bc0Csc03i30", "xhci_pci"),
    ("bc0Csc03i20", "ehci_pci"),
];

/// A part of the hardware and what a kernel has for it.
#[derive(Debug, Clone)]
pub(crate) struct Driven {
    pub(crate) part: Part,
    /// Names of its drivers, built in or loadable; for virtio those of the bus and those of the device on it.
    pub(crate) drivers: Vec<String>,
    /// The modalias that nothing drives.
    pub(crate) missing: Option<String>,
}

/// What `tree` has for `part`.
pub(crate) fn drive(tree: &ModuleTree, part: &Part) -> Driven {
    let mut driven = Driven { part: part.clone(), drivers: Vec::new(), missing: None };
    for modalias in std::iter::once(part.modalias.clone()).chain(device_on(&part.modalias)) {
        let drivers = drivers_for(tree, &modalias);
        if drivers.is_empty() {
            driven.missing.get_or_insert(modalias);
        }
        driven.drivers.extend(drivers);
    }
    driven
}

/// The drivers of one modalias in a kernel.
pub(crate) fn drivers_for(tree: &ModuleTree, modalias: &str) -> Vec<String> {
    let drivers = tree.drivers_for(modalias);
    if !drivers.is_empty() {
        return drivers;
    }
    well_known(modalias)
        .filter(|name| tree.is_builtin(name))
        .map(|name| vec![name.to_owned()])
        .unwrap_or_default()
}

fn well_known(modalias: &str) -> Option<&'static str> {
    let by_id = WELL_KNOWN.iter().find(|(start, _)| modalias.starts_with(start));
    let by_class = || WELL_KNOWN_CLASSES.iter().find(|(class, _)| modalias.ends_with(class));
    by_id.or_else(by_class).map(|(_, name)| *name)
}

/// The device that a virtio function of PCI carries (virtio 1.2, 4.1.2: ids 0x1040 plus the type, or transitional ones).
pub(crate) fn device_on(modalias: &str) -> Option<String> {
    let id = modalias.strip_prefix("pci:v00001AF4d")?.get(..8)?;
    let kind = match u32::from_str_radix(id, 16).ok()? {
        0x1000 => 1,
        0x1001 => 2,
        0x1002 => 5,
        0x1003 => 3,
        0x1004 => 8,
        0x1005 => 4,
        0x1009 => 9,
        modern @ 0x1040..=0x107f => modern - 0x1040,
        _ => return None,
    };
    Some(format!("virtio:d{kind:08X}v00001AF4"))
}

/// What a disk's driver does not load by itself: the driver of disks on a SCSI host or an MMC slot.
pub(crate) fn on_top(part: &Part, drivers: &[String]) -> Option<&'static str> {
    if part.purpose != Purpose::Disk || drivers.is_empty() {
        return None;
    }
    if drivers.iter().any(|name| name.starts_with("sdhci") || name.contains("mmc")) {
        return Some("mmc_block");
    }
    drivers.iter().any(|name| !NOT_SCSI.contains(&name.as_str())).then_some("sd_mod")
}

/// Modules that the way from the disk to the root filesystem takes, by name or alias.
pub(crate) fn stack(root: &[Layer]) -> Vec<String> {
    let mut names = Vec::new();
    for layer in root {
        match layer {
            Layer::Disk { .. } | Layer::Partition { .. } => {}
            Layer::Md { level, .. } => names.push(match level {
                Some(0) => "raid0".to_owned(),
                Some(1) => "raid1".to_owned(),
                Some(4..=6) => "raid456".to_owned(),
                Some(10) => "raid10".to_owned(),
                _ => "md_mod".to_owned(),
            }),
            Layer::Luks { .. } => names.push("dm_crypt".to_owned()),
            Layer::LogicalVolume { .. } => names.push("dm_mod".to_owned()),
            Layer::Filesystem { kind, .. } => names.push(format!("fs-{kind}")),
        }
    }
    names
}
