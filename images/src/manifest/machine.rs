// SPDX-License-Identifier: Apache-2.0
//! Facts of the captured machine. What a machine does not tell is absent, never guessed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the source machine was: enough to judge what its guest expects, and to fit it to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MachineFacts {
    /// `x86_64`, `aarch64`, ...: as `uname -m` prints it.
    pub architecture: String,
    /// Host name at the capture; in the rescue environment, not the guest's own.
    pub hostname: Option<String>,
    /// Vendor of the system (DMI type 1).
    pub vendor: Option<String>,
    /// Product name of the system.
    pub product: Option<String>,
    /// Serial number of the system.
    pub serial: Option<String>,
    /// UUID of the system, lower case.
    pub uuid: Option<String>,
    /// Vendor and name of the main board (DMI type 2).
    pub board: Option<String>,
    /// Vendor of the firmware (DMI type 0).
    pub bios_vendor: Option<String>,
    /// Version of the firmware.
    pub bios_version: Option<String>,
    /// Date of the firmware, as it writes it.
    pub bios_date: Option<String>,
    /// How the running system was started.
    pub firmware: Firmware,
    /// Whether the firmware enforces signatures; absent with BIOS.
    pub secure_boot: Option<bool>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Processors that the kernel schedules on.
    pub cpu_count: u32,
    /// Usable memory in bytes.
    pub memory_bytes: u64,
    /// All disks, captured or not, ordered by name.
    pub disks: Vec<DiskFacts>,
    /// Network interfaces with hardware behind them, ordered by name.
    pub nics: Vec<NicFacts>,
    /// PCI functions, ordered by address.
    pub pci: Vec<PciFacts>,
    /// Devices of other buses that need drivers: USB, virtio, VMBus, Xen, SCSI, MMC.
    pub buses: Vec<BusFacts>,
}

/// How a machine starts its operating system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PC BIOS, or UEFI in compatibility mode.
    #[default]
    Bios,
    /// UEFI.
    Uefi,
}

/// One disk as the kernel shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DiskFacts {
    /// The kernel's name: `sda`.
    pub name: String,
    /// Size in bytes; 0 without a medium.
    pub size_bytes: u64,
    /// Bytes per logical sector.
    pub sector_size: u32,
    /// Bytes per physical sector.
    pub physical_sector_size: u32,
    /// Vendor and model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name: `naa.…`, `eui.…`, `nvme.…`.
    pub wwn: Option<String>,
    /// How it is attached: `sata`, `sas`, `nvme`, `usb`, `virtio`, `fc`, `iscsi`, `mmc`, `xen`, `hyperv`, `scsi`.
    pub transport: Option<String>,
    /// True for a disk that turns, as far as it says.
    pub rotational: bool,
    /// True for a medium that can be taken out, or a disk on USB.
    pub removable: bool,
    /// Address of the PCI function that it hangs on.
    pub pci_address: Option<String>,
    /// Kernel driver of that function: `ahci`, `megaraid_sas`.
    pub driver: Option<String>,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NicFacts {
    /// The kernel's name: `eth0`, `enp3s0`.
    pub name: String,
    /// Hardware address, lower case with colons; the permanent one where a bond has replaced it.
    pub mac: Option<String>,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Address of the PCI function.
    pub pci_address: Option<String>,
    /// Negotiated speed in Mbit/s; absent without a link.
    pub speed_mbit: Option<u32>,
    /// True with a link.
    pub link: bool,
}

/// One PCI function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PciFacts {
    /// `0000:00:1f.2`.
    pub address: String,
    /// Vendor and device: `8086:2922`.
    pub id: String,
    /// Subsystem vendor and device.
    pub subsystem: Option<String>,
    /// Class, subclass and programming interface, six hex digits: `010601`.
    pub class: String,
    /// What kernel modules are matched against.
    pub modalias: Option<String>,
    /// Kernel driver.
    pub driver: Option<String>,
}

/// One device of a bus that is not PCI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BusFacts {
    /// The kernel's name of the bus: `usb`, `virtio`, `vmbus`, `xen`, `scsi`, `mmc`.
    pub bus: String,
    /// The device's name on it: `1-1:1.0`.
    pub address: String,
    /// What kernel modules are matched against.
    pub modalias: String,
    /// Kernel driver.
    pub driver: Option<String>,
}
