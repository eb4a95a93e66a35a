// SPDX-License-Identifier: Apache-2.0
//! A QEMU command line.

use std::path::Path;

use unmoor_images::manifest::Firmware;

use super::{Bus, Definition, Disk};

/// Where Debian and Ubuntu, Fedora and Arch have OVMF: (code, variables), the last for Secure Boot.
const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];
const OVMF_SECURE: [&str; 2] =
    ["/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"];

impl Definition {
    /// The variables that OVMF begins with; the machine has a copy of its own.
    pub fn ovmf_variables(&self) -> Option<&'static str> {
        let [_, variables] = if self.secure_boot { OVMF_SECURE } else { OVMF };
        (self.firmware == Firmware::Uefi).then_some(variables)
    }

    /// The program and its arguments. `variables` is the machine's own copy of [`ovmf_variables`](Self::ovmf_variables), `accelerator`
    /// QEMU's: "kvm", or "tcg,thread=multi" where that does not work. That /dev/kvm is there does not say that it does.
    pub fn qemu(&self, variables: &Path, accelerator: &str) -> Vec<String> {
        let mut all: Vec<String> = vec!["qemu-system-x86_64".into()];
        let mut add = |words: &[&str]| all.extend(words.iter().map(|word| (*word).to_owned()));
        let smm = if self.secure_boot { ",smm=on" } else { "" };
        add(&["-name", &comma(&self.name)]);
        add(&["-machine", &format!("{}{smm}", self.machine), "-accel", accelerator]);
        // "max" is the host's under KVM, and all that can be emulated otherwise: RHEL 9 needs x86-64-v2.
        add(&["-cpu", "max", "-smp", &self.cpus.to_string(), "-m", &format!("{}M", self.memory_mib)]);
        if let Some(uuid) = &self.uuid {
            add(&["-uuid", uuid]);
        }
        if let Some(serial) = &self.serial_number {
            add(&["-smbios", &format!("type=1,serial={}", comma(serial))]);
        }
        if self.local_clock {
            add(&["-rtc", "base=localtime"]);
        }
        if self.firmware == Firmware::Uefi {
            let [code, _] = if self.secure_boot { OVMF_SECURE } else { OVMF };
            add(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={code}")]);
            add(&["-drive", &format!("if=pflash,format=raw,file={}", comma(&variables.to_string_lossy()))]);
            if self.secure_boot {
                add(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
            }
        }
        for device in self.controllers() {
            add(&["-device", &device]);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let file = comma(&disk.path.to_string_lossy());
            add(&["-drive", &format!("if=none,id=disk{index},file={file},format={}", disk.format)]);
            add(&["-device", &self.disk_device(index, disk)]);
        }
        for (index, nic) in self.nics.iter().enumerate() {
            let mac = nic.mac.as_ref().map(|mac| format!(",mac={mac}")).unwrap_or_default();
            add(&["-netdev", &format!("user,id=net{index}")]);
            add(&["-device", &format!("{},netdev=net{index}{mac}", nic.model)]);
        }
        if self.serial {
            add(&["-serial", "mon:stdio"]);
        }
        all
    }

    /// Controllers that the machine type does not have by itself.
    fn controllers(&self) -> Vec<String> {
        let one = |device: &str| vec![format!("{device},id=bus0")];
        match self.bus {
            Bus::VirtioBlk | Bus::Nvme => Vec::new(),
            Bus::VirtioScsi => one("virtio-scsi-pci"),
            Bus::Ahci | Bus::Ide if self.built_in() => Vec::new(),
            Bus::Ahci => one("ich9-ahci"),
            Bus::Ide => one("piix3-ide"),
            Bus::Megasas => one("megasas"),
            Bus::Mptsas => one("mptsas1068"),
            Bus::Lsi53c895a => one("lsi53c895a"),
            Bus::Pvscsi => one("pvscsi"),
            Bus::Usb => one("qemu-xhci"),
        }
    }

    /// q35 has an AHCI controller, pc an IDE controller.
    fn built_in(&self) -> bool {
        matches!((self.bus, self.machine.as_str()), (Bus::Ahci, "q35") | (Bus::Ide, "pc"))
    }

    fn disk_device(&self, index: usize, disk: &Disk) -> String {
        let sectors = match disk.sector_size {
            0 | 512 => String::new(),
            size => format!(",logical_block_size={size},physical_block_size={size}"),
        };
        let rest = format!("drive=disk{index},bootindex={}{sectors}", index + 1);
        // IDE has two channels of two disks, AHCI six of one.
        let ide = (index / 2, index % 2);
        match self.bus {
            Bus::VirtioBlk => format!("virtio-blk-pci,{rest}"),
            Bus::Nvme => format!("nvme,serial=unmoor{index},{rest}"),
            Bus::Ahci if self.built_in() => format!("ide-hd,bus=ide.{index},{rest}"),
            Bus::Ahci => format!("ide-hd,bus=bus0.{index},{rest}"),
            Bus::Ide if self.built_in() => format!("ide-hd,bus=ide.{},unit={},{rest}", ide.0, ide.1),
            Bus::Ide => format!("ide-hd,bus=bus0.{},unit={},{rest}", ide.0, ide.1),
            Bus::Usb => format!("usb-storage,bus=bus0.0,{rest}"),
            Bus::VirtioScsi | Bus::Megasas | Bus::Mptsas | Bus::Lsi53c895a | Bus::Pvscsi => {
                format!("scsi-hd,bus=bus0.0,scsi-id={index},{rest}")
            }
        }
    }
}

/// QEMU takes two commas for one within a value.
fn comma(text: &str) -> String {
    text.replace(',', ",,")
}

/// Arguments as a line for a POSIX shell.
pub fn shell(arguments: &[String]) -> String {
    let quoted = |word: &String| {
        let plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=,+@%".contains(char);
        if !word.is_empty() && word.chars().all(plain) {
            return word.clone();
        }
        format!("'{}'", word.replace('\'', "'\\''"))
    };
    arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")
}
