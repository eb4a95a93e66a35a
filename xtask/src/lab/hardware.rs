// SPDX-License-Identifier: Apache-2.0
//! The hardware that the lab's machines are made of: boards, firmware, disk controllers, network adapters.

use crate::lab::qemu::{Disk, Machine, Writes};
use std::path::Path;

/// How disks are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Bus {
    /// SATA on an AHCI controller
    Ahci,
    /// virtio-blk on PCI
    Virtio,
    /// virtio-scsi on PCI
    VirtioScsi,
    /// NVMe
    Nvme,
    /// LSI MegaRAID SAS
    Megasas,
    /// LSI Fusion MPT SAS 1068
    Mptsas,
    /// VMware paravirtual SCSI
    Pvscsi,
    /// USB mass storage
    Usb,
    /// IDE on the PIIX3 that only the i440FX board has
    Ide,
    /// LSI 53C895A, a parallel SCSI controller of 1999
    Lsi,
}

impl Bus {
    /// The controller that disks of this bus hang on, where the board has none.
    pub(crate) fn controller(self) -> Option<&'static str> {
        match self {
            Self::Lsi => Some("lsi53c895a,id=bus"),
            Self::Ahci => Some("ich9-ahci,id=bus"),
            Self::VirtioScsi => Some("virtio-scsi-pci,id=bus"),
            Self::Megasas => Some("megasas,id=bus"),
            Self::Mptsas => Some("mptsas1068,id=bus"),
            Self::Pvscsi => Some("pvscsi,id=bus"),
            Self::Usb => Some("qemu-xhci,id=bus"),
            Self::Virtio | Self::Nvme | Self::Ide => None,
        }
    }

    /// unmoor's word for it, in the names of profiles.
    fn profile(self) -> &'static str {
        match self {
            Self::Ahci => "ahci",
            Self::Virtio => "virtio-blk",
            Self::VirtioScsi => "virtio-scsi",
            Self::Nvme => "nvme",
            Self::Megasas => "megasas",
            Self::Mptsas => "mptsas",
            Self::Pvscsi => "pvscsi",
            Self::Usb => "usb",
            Self::Ide => "ide",
            Self::Lsi => "lsi53c895a",
        }
    }

    /// QEMU's device for the disk of this number.
    pub(crate) fn device(self, index: usize) -> String {
        match self {
            Self::Ide => format!("ide-hd,bus=ide.{},unit={}", index / 2, index % 2),
            Self::Ahci => format!("ide-hd,bus=bus.{index}"),
            Self::Virtio => "virtio-blk-pci".to_owned(),
            Self::Nvme => "nvme".to_owned(),
            Self::Usb => "usb-storage,bus=bus.0".to_owned(),
            Self::VirtioScsi | Self::Megasas | Self::Mptsas | Self::Pvscsi | Self::Lsi => {
                format!("scsi-hd,bus=bus.0,scsi-id={index}")
            }
        }
    }
}

/// A board of QEMU's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Chipset {
    /// i440FX of 1996
    Pc,
    /// Q35 of 2009, with PCI Express
    Q35,
}

/// What the machine boots with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Firmware {
    /// SeaBIOS
    Bios,
    /// OVMF without Secure Boot, with empty variables
    Uefi,
    /// OVMF with Secure Boot enforced and Microsoft's keys
    SecureBoot,
}

impl Firmware {
    /// OVMF's code and the variables of a new machine, for UEFI.
    pub(crate) fn files(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bios => None,
            Self::Uefi => Some(("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")),
            Self::SecureBoot => {
                Some(("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"))
            }
        }
    }

    /// As a guest that runs on it says: `bios` or `uefi`.
    pub(crate) fn said(self) -> &'static str {
        if self == Self::Bios { "bios" } else { "uefi" }
    }
}

/// A network adapter.
#[derive(Clone, Debug)]
pub(crate) struct Nic {
    /// QEMU's name of its model.
    pub(crate) model: String,
    /// Its address; QEMU's default where there is none.
    pub(crate) mac: Option<&'static str>,
    /// Its PCI slot, fixed so that its name in the guest stays the same from build to boot.
    pub(crate) slot: u32,
}

impl Nic {
    /// An adapter in slot 3.
    pub(crate) fn new(model: &str) -> Self {
        Self { model: model.to_owned(), mac: None, slot: 3 }
    }

    /// QEMU's device, without its network.
    pub(crate) fn device(&self) -> String {
        let mac = self.mac.map_or_else(String::new, |mac| format!(",mac={mac}"));
        format!("{}{mac},addr={:#x}", self.model, self.slot)
    }
}

/// A machine without its disks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hardware {
    pub(crate) chipset: Chipset,
    pub(crate) firmware: Firmware,
    pub(crate) bus: Bus,
    /// QEMU's name of the network adapter.
    pub(crate) nic: &'static str,
    /// The adapter's address; QEMU's default where there is none.
    pub(crate) mac: Option<&'static str>,
    /// The adapter's PCI slot.
    pub(crate) slot: u32,
}

impl Hardware {
    /// The machine, with `disk` in it.
    pub(crate) fn machine(&self, disk: &Path, writes: Writes) -> Machine {
        let disks = vec![Disk::new(disk, "SYSTEM0", writes)];
        let mut machine = Machine::new(self.chipset, self.firmware, self.bus, disks);
        machine.nics.push(Nic { model: self.nic.to_owned(), mac: self.mac, slot: self.slot });
        machine
    }

    /// Its part of a guest's recipe.
    pub(crate) fn recipe(&self, disk_size: u64) -> String {
        let Self { chipset, firmware, bus, nic, mac, slot } = self;
        let usual = format!("{disk_size} {chipset:?} {firmware:?} {bus:?} {nic}");
        match (mac, slot) {
            (None, 3) => usual,
            (mac, slot) => format!("{usual} {mac:?} {slot}"),
        }
    }

    /// unmoor's profile of it: `qemu:virtio-blk+virtio-net`.
    pub(crate) fn profile(&self) -> String {
        let nic = self.nic.strip_suffix("-pci").unwrap_or(self.nic);
        format!("qemu:{}+{nic}", self.bus.profile())
    }
}
