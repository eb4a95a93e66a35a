// SPDX-License-Identifier: Apache-2.0
//! libvirt's domain XML (libvirt.org, "Domain XML format").

use std::fmt::Write;

use unmoor_images::manifest::Firmware;

use super::{Bus, Definition};

impl Definition {
    /// The domain, for `virsh define`. Firmware is chosen by libvirt among what the host has.
    pub fn libvirt(&self) -> String {
        let mut xml = String::from("<domain type='kvm'>\n");
        // Writing to a string does not fail.
        let mut line = |text: String| {
            let _ = writeln!(xml, "  {text}");
        };
        line(format!("<name>{}</name>", text(&self.name)));
        if let Some(uuid) = &self.uuid {
            line(format!("<uuid>{}</uuid>", text(uuid)));
        }
        line(format!("<memory unit='MiB'>{}</memory>", self.memory_mib));
        line(format!("<vcpu>{}</vcpu>", self.cpus));
        if let Some(serial) = &self.serial_number {
            line("<sysinfo type='smbios'>".into());
            line(format!("  <system><entry name='serial'>{}</entry></system>", text(serial)));
            line("</sysinfo>".into());
        }
        let uefi = self.firmware == Firmware::Uefi;
        line(if uefi { "<os firmware='efi'>".into() } else { "<os>".into() });
        line(format!("  <type arch='x86_64' machine='{}'>hvm</type>", text(&self.machine)));
        if uefi {
            let word = if self.secure_boot { "yes" } else { "no" };
            line("  <firmware>".into());
            line(format!("    <feature enabled='{word}' name='secure-boot'/>"));
            line(format!("    <feature enabled='{word}' name='enrolled-keys'/>"));
            line("  </firmware>".into());
        }
        if self.serial_number.is_some() {
            line("  <smbios mode='sysinfo'/>".into());
        }
        line("</os>".into());
        let smm = if self.secure_boot { "<smm state='on'/>" } else { "" };
        line(format!("<features><acpi/><apic/>{smm}</features>"));
        line("<cpu mode='host-passthrough'/>".into());
        let offset = if self.local_clock { "localtime" } else { "utc" };
        line(format!("<clock offset='{offset}'/>"));
        line("<devices>".into());
        let (bus, prefix, controller) = self.libvirt_bus();
        if let Some(model) = controller {
            line(format!("  <controller type='scsi' index='0' model='{model}'/>"));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            line("  <disk type='file' device='disk'>".into());
            line(format!("    <driver name='qemu' type='{}'/>", text(&disk.format)));
            line(format!("    <source file='{}'/>", text(&disk.path.to_string_lossy())));
            if disk.sector_size > 512 {
                let size = disk.sector_size;
                line(format!("    <blockio logical_block_size='{size}' physical_block_size='{size}'/>"));
            }
            line(format!("    <target dev='{prefix}{}' bus='{bus}'/>", letters(index)));
            line(format!("    <boot order='{}'/>", index + 1));
            line("  </disk>".into());
        }
        for nic in &self.nics {
            line("  <interface type='network'>".into());
            if let Some(mac) = &nic.mac {
                line(format!("    <mac address='{}'/>", text(mac)));
            }
            line("    <source network='default'/>".into());
            let model = if nic.model.starts_with("virtio") { "virtio" } else { &nic.model };
            line(format!("    <model type='{}'/>", text(model)));
            line("  </interface>".into());
        }
        if self.serial {
            line("  <serial type='pty'/>".into());
            line("  <console type='pty'/>".into());
        }
        line("  <video><model type='vga'/></video>".into());
        line("  <graphics type='vnc'/>".into());
        line("</devices>".into());
        xml.push_str("</domain>\n");
        xml
    }

    /// (bus, prefix of disk names, model of the SCSI controller). NVMe is attached as SATA: libvirt emulates it from 11.5 on only, and
    /// every guest with an NVMe driver has one for AHCI.
    fn libvirt_bus(&self) -> (&'static str, &'static str, Option<&'static str>) {
        match self.bus {
            Bus::VirtioBlk => ("virtio", "vd", None),
            Bus::VirtioScsi => ("scsi", "sd", Some("virtio-scsi")),
            Bus::Ahci | Bus::Nvme => ("sata", "sd", None),
            Bus::Ide => ("ide", "hd", None),
            Bus::Megasas => ("scsi", "sd", Some("lsisas1078")),
            Bus::Mptsas => ("scsi", "sd", Some("lsisas1068")),
            Bus::Lsi53c895a => ("scsi", "sd", Some("lsilogic")),
            Bus::Pvscsi => ("scsi", "sd", Some("vmpvscsi")),
            Bus::Usb => ("usb", "sd", None),
        }
    }
}

/// 0 is "a", 26 is "aa".
fn letters(index: usize) -> String {
    let mut number = index + 1;
    let mut out = Vec::new();
    while number > 0 {
        number -= 1;
        out.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    out.iter().rev().collect()
}

/// As text or attribute value; control characters are none of XML's.
fn text(value: &str) -> String {
    let mut out = String::new();
    for char in value.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            char if char.is_control() => {}
            char => out.push(char),
        }
    }
    out
}
