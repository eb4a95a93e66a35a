// SPDX-License-Identifier: Apache-2.0
//! Proxmox VE's `qm` (qm(1)).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use unmoor_images::manifest::Firmware;

use super::{Bus, Definition, shell};

impl Definition {
    /// Commands that make the machine with number `id`, its disks on `storage`, its adapters on `bridge`.
    pub fn proxmox(&self, id: u32, storage: &str, bridge: &str) -> Vec<String> {
        let id = id.to_string();
        let mut words: Vec<String> = ["qm", "create", &id].map(str::to_owned).to_vec();
        let mut set = |key: &str, value: String| words.extend([format!("--{key}"), value]);
        set("name", self.name.clone());
        set("ostype", "l26".into());
        set("memory", self.memory_mib.to_string());
        set("cores", self.cpus.to_string());
        set("cpu", "host".into());
        if self.machine == "q35" {
            set("machine", "q35".into());
        }
        if self.firmware == Firmware::Uefi {
            set("bios", "ovmf".into());
            let keys = u8::from(self.secure_boot);
            set("efidisk0", format!("{storage}:1,efitype=4m,pre-enrolled-keys={keys}"));
        }
        let (bus, controller) = self.proxmox_bus();
        if let Some(controller) = controller {
            set("scsihw", controller.into());
        }
        let mut identity = Vec::new();
        identity.extend(self.uuid.as_ref().map(|uuid| format!("uuid={uuid}")));
        identity
            .extend(self.serial_number.as_ref().map(|serial| format!("serial={}", STANDARD.encode(serial))));
        if !identity.is_empty() {
            if self.serial_number.is_some() {
                identity.push("base64=1".into());
            }
            set("smbios1", identity.join(","));
        }
        for (index, nic) in self.nics.iter().enumerate() {
            let model = match nic.model.as_str() {
                "virtio-net-pci" => "virtio",
                "e1000" | "e1000e" | "rtl8139" | "vmxnet3" | "pcnet" => &nic.model,
                _ => "e1000",
            };
            let mac =
                nic.mac.as_ref().map(|mac| format!("={}", mac.to_ascii_uppercase())).unwrap_or_default();
            set(&format!("net{index}"), format!("{model}{mac},bridge={bridge}"));
        }
        if self.serial {
            set("serial0", "socket".into());
        }
        if self.local_clock {
            set("localtime", "1".into());
        }
        let mut commands = vec![shell(&words)];
        for (index, disk) in self.disks.iter().enumerate() {
            let from = format!("{storage}:0,import-from={}", disk.path.display());
            let words = ["qm", "set", &id, &format!("--{bus}{index}"), &from].map(str::to_owned);
            commands.push(shell(&words));
        }
        let words = ["qm", "set", &id, "--boot", &format!("order={bus}0")].map(str::to_owned);
        commands.push(shell(&words));
        commands
    }

    /// (bus, SCSI controller); Proxmox emulates no NVMe.
    fn proxmox_bus(&self) -> (&'static str, Option<&'static str>) {
        match self.bus {
            Bus::VirtioBlk => ("virtio", None),
            Bus::VirtioScsi => ("scsi", Some("virtio-scsi-single")),
            Bus::Ahci | Bus::Nvme | Bus::Usb => ("sata", None),
            Bus::Ide => ("ide", None),
            Bus::Megasas => ("scsi", Some("megasas")),
            Bus::Mptsas | Bus::Lsi53c895a => ("scsi", Some("lsi")),
            Bus::Pvscsi => ("scsi", Some("pvscsi")),
        }
    }
}
