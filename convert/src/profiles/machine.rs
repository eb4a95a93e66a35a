// SPDX-License-Identifier: Apache-2.0
//! One machine, by its facts.

use std::path::Path;

use serde::Deserialize;
use unmoor_images::manifest::{MachineFacts, PciFacts};
use unmoor_images::{Error, ErrorKind, Result, ResultExt};

use super::part::{other, purpose_of_class};
use crate::request::{Hardware, Part, Purpose, TargetNic};

/// Reads a file of `unmoor inspect --machine --json`, or a manifest: an object with "machine" in it.
pub(super) fn read(path: &Path) -> Result<Hardware> {
    const MOST: u64 = 64 << 20;
    let doing = || format!("reading the machine {}", path.display());
    if std::fs::metadata(path).doing(doing)?.len() > MOST {
        return Err(Error::malformed(doing(), "it is larger than 64 MiB"));
    }
    let bytes = std::fs::read(path).doing(doing)?;
    let broken = |error| Error::new(ErrorKind::Malformed, doing()).source(error);
    #[derive(Deserialize)]
    struct Document {
        machine: MachineFacts,
    }
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(broken)?;
    let facts: MachineFacts = if value.get("machine").is_some_and(serde_json::Value::is_object) {
        serde_json::from_value::<Document>(value).map_err(broken)?.machine
    } else {
        serde_json::from_value(value).map_err(broken)?
    };
    if facts.pci.is_empty() && facts.buses.is_empty() {
        return Err(Error::malformed(doing(), "it names no device: it is no machine's inventory"));
    }
    Ok(of_machine(&facts))
}

/// What drivers the machine needs. A disk controller without a disk on it is not certain to be needed, where it shows which
/// ones have disks.
pub fn of_machine(facts: &MachineFacts) -> Hardware {
    let with_disks: Vec<&str> = facts.disks.iter().filter_map(|disk| disk.pci_address.as_deref()).collect();
    let mut parts: Vec<Part> = Vec::new();
    for function in &facts.pci {
        let Some(modalias) = &function.modalias else { continue };
        let class = u32::from_str_radix(&function.class, 16).unwrap_or(0);
        let purpose = purpose_of_class(class);
        let idle = !with_disks.is_empty() && !with_disks.contains(&function.address.as_str());
        let certain = match purpose {
            Purpose::Disk => !idle,
            Purpose::Nic | Purpose::Bus => true,
            Purpose::Console | Purpose::Other => false,
        };
        let name = format!("{} at {} ({})", class_name(class), function.address, function.id);
        parts.push(Part { modalias: modalias.clone(), purpose, name, certain });
    }
    for device in &facts.buses {
        let purpose = purpose_of(&device.modalias);
        let certain = matches!(purpose, Purpose::Disk | Purpose::Nic) && device.bus != "usb";
        parts.push(other(
            device.modalias.clone(),
            purpose,
            &format!("{} device {}", device.bus, device.address),
            certain,
        ));
    }
    let modalias = |address: &Option<String>| {
        let at = |function: &&PciFacts| Some(&function.address) == address.as_ref();
        facts.pci.iter().find(at).and_then(|function| function.modalias.clone())
    };
    let nics = facts.nics.iter().map(|nic| TargetNic {
        mac: nic.mac.as_ref().map(|mac| mac.to_ascii_lowercase()),
        modalias: modalias(&nic.pci_address),
        model: None,
    });
    let name = [&facts.vendor, &facts.product].into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
    Hardware {
        name: if name.is_empty() { "machine".into() } else { name },
        parts,
        nics: nics.collect(),
        serial: None,
        hypervisor: hypervisor(facts).map(str::to_owned),
        sector_size: facts.disks.first().map(|disk| disk.sector_size).filter(|size| *size != 0),
    }
}

/// For modaliases of buses that are not PCI.
fn purpose_of(modalias: &str) -> Purpose {
    let starts = |all: &[&str]| all.iter().any(|start| modalias.starts_with(start));
    if starts(&["virtio:d00000001", "vmbus:635161f8", "xen:vif"]) {
        Purpose::Nic
    } else if modalias.contains("ic08isc06")
        || starts(&[
            "virtio:d00000002",
            "virtio:d00000008",
            "vmbus:d96361ba",
            "vmbus:32264132",
            "xen:vbd",
            "scsi:t-0x00",
            "mmc:block",
        ])
    {
        Purpose::Disk
    } else if starts(&["virtio:d00000003", "vmbus:6dad12f9", "xen:vkbd", "xen:console"]) {
        Purpose::Console
    } else {
        Purpose::Other
    }
}

/// By what firmware says of itself (as systemd-detect-virt does).
fn hypervisor(facts: &MachineFacts) -> Option<&'static str> {
    let text = [&facts.vendor, &facts.product, &facts.bios_vendor, &facts.board];
    let text: Vec<&str> = text.into_iter().flatten().map(String::as_str).collect();
    let text = text.join("\n");
    [
        ("VMware", "vmware"),
        ("innotek", "virtualbox"),
        ("VirtualBox", "virtualbox"),
        ("Xen", "xen"),
        ("Microsoft Corporation\nVirtual Machine", "hyperv"),
        ("Parallels", "parallels"),
        ("QEMU", "kvm"),
        ("KVM", "kvm"),
        ("OpenStack", "kvm"),
        ("Amazon EC2", "aws"),
        ("Google", "gcp"),
        ("Nutanix", "nutanix"),
    ]
    .iter()
    .find(|(mark, _)| text.contains(mark))
    .map(|(_, name)| *name)
}

fn class_name(class: u32) -> &'static str {
    match class >> 8 {
        0x0101 => "IDE controller",
        0x0104 => "RAID controller",
        0x0106 => "SATA controller",
        0x0107 => "SAS controller",
        0x0108 => "NVMe controller",
        0x0100..=0x01ff => "disk controller",
        0x0200..=0x02ff => "network adapter",
        0x0300..=0x03ff => "display",
        0x0600..=0x06ff => "bridge",
        0x0c03 => "USB controller",
        _ => "PCI function",
    }
}
