// SPDX-License-Identifier: Apache-2.0
//! Definitions of the virtual machine that a guest fits: libvirt, QEMU, Proxmox.
//!
//! ```text
//!   Capabilities (what the guest can use) + MachineFacts + images --Definition::new--> libvirt() | qemu() | proxmox()
//! ```
//!
//! The definition follows what the guest can use, never the other way round.

mod libvirt;
mod proxmox;
mod qemu;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unmoor_images::manifest::{Firmware, MachineFacts};

use crate::plan::Capabilities;

pub use qemu::shell;

/// Of a guest of which nothing is known, in MiB.
const DEFAULT_MEMORY: u64 = 2048;

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Bus {
    VirtioBlk,
    VirtioScsi,
    Ahci,
    Nvme,
    Ide,
    Megasas,
    Mptsas,
    Lsi53c895a,
    Pvscsi,
    Usb,
}

impl Bus {
    /// By the names that [`Capabilities::disk_buses`] and profiles have; `None` for those that QEMU does not emulate.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "virtio" | "virtio-blk" => Self::VirtioBlk,
            "virtio-scsi" => Self::VirtioScsi,
            "ahci" => Self::Ahci,
            "nvme" => Self::Nvme,
            "ide" => Self::Ide,
            "megasas" | "megasas-gen2" => Self::Megasas,
            "mptsas" => Self::Mptsas,
            "lsi53c895a" => Self::Lsi53c895a,
            "pvscsi" => Self::Pvscsi,
            "usb" => Self::Usb,
            _ => return None,
        })
    }
}

/// An image of a disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its file.
    pub path: PathBuf,
    /// "qcow2", "raw", as QEMU names formats.
    pub format: String,
    /// Logical sector in bytes.
    pub sector_size: u32,
}

/// A network adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// QEMU's name of the model.
    pub model: String,
    /// Hardware address; the hypervisor chooses where there is none.
    pub mac: Option<String>,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// SMBIOS UUID, lower case.
    pub uuid: Option<String>,
    /// SMBIOS serial number of the system.
    pub serial_number: Option<String>,
    /// In MiB.
    pub memory_mib: u64,
    /// Processors.
    pub cpus: u32,
    /// QEMU's machine type.
    pub machine: String,
    /// How it starts.
    pub firmware: Firmware,
    /// Signatures are enforced, with Microsoft's keys.
    pub secure_boot: bool,
    /// How the disks are attached.
    pub bus: Bus,
    /// The disks, that with the boot loader first.
    pub disks: Vec<Disk>,
    /// Its adapters.
    pub nics: Vec<Nic>,
    /// It has a serial console.
    pub serial: bool,
    /// The real-time clock runs in local time.
    pub local_clock: bool,
}

impl Definition {
    /// The machine for a guest with these `capabilities` which was captured from a machine with these `facts`.
    pub fn new(
        name: &str,
        capabilities: &Capabilities,
        facts: Option<&MachineFacts>,
        disks: Vec<Disk>,
    ) -> Self {
        let bus = capabilities.disk_buses.iter().find_map(|name| Bus::named(name)).unwrap_or(Bus::Ahci);
        let model = capabilities.nic_models.first().map_or("e1000", String::as_str);
        let nic = |mac: Option<String>| Nic { model: model.to_owned(), mac };
        let known = facts.map(|facts| facts.nics.as_slice()).unwrap_or_default();
        // By addresses that were told the guest was made to know its adapters, else by those that it had.
        let told = &capabilities.nic_addresses;
        let mut nics: Vec<Nic> = if told.iter().any(Option::is_some) {
            told.iter().cloned().map(nic).collect()
        } else {
            known.iter().map(|old| old.mac.clone()).map(nic).collect()
        };
        if nics.is_empty() {
            nics.push(nic(None));
        }
        let uefi = capabilities.uefi;
        // i440FX where a guest knows no modern virtio or needs IDE; Secure Boot needs q35's system management mode.
        let old = bus == Bus::Ide || (bus == Bus::VirtioBlk && !capabilities.virtio_modern);
        let memory = facts.map_or(0, |facts| facts.memory_bytes) >> 20;
        Self {
            name: clean(name),
            uuid: facts.and_then(|facts| facts.uuid.clone()).filter(|uuid| is_uuid(uuid)),
            serial_number: facts.and_then(|facts| facts.serial.clone()),
            // The kernel counts what firmware and itself left over.
            memory_mib: if memory == 0 { DEFAULT_MEMORY } else { memory.next_multiple_of(256).max(512) },
            cpus: facts.map_or(1, |facts| facts.cpu_count).clamp(1, 255),
            machine: if old && !capabilities.secure_boot { "pc" } else { "q35" }.to_owned(),
            firmware: if uefi { Firmware::Uefi } else { Firmware::Bios },
            // What ran with UEFI and without checks may have modules and kernels that no check would pass.
            secure_boot: uefi
                && capabilities.secure_boot
                && facts
                    .is_none_or(|facts| facts.firmware != Firmware::Uefi || facts.secure_boot != Some(false)),
            bus,
            disks,
            nics,
            serial: capabilities.serial.as_deref().is_none_or(|name| name == "ttyS0"),
            local_clock: false,
        }
    }
}

/// What every manager takes as a name.
fn clean(name: &str) -> String {
    let keep = |char: char| if char.is_ascii_alphanumeric() || "-_.".contains(char) { char } else { '-' };
    let name: String = name.chars().map(keep).take(63).collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    if name.is_empty() { "guest".to_owned() } else { name }
}

fn is_uuid(text: &str) -> bool {
    let lens: Vec<usize> = text.split('-').map(str::len).collect();
    lens == [8, 4, 4, 4, 12] && text.chars().all(|char| char == '-' || char.is_ascii_hexdigit())
}
