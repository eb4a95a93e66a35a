// SPDX-License-Identifier: Apache-2.0
//! Disks with what identifies them.

use unmoor_images::manifest::DiskFacts;

use super::Tree;

/// Block devices that are no hardware of the machine: made of files, memory or other disks.
const VIRTUAL: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd"];

/// All disks of the machine.
pub(super) fn list(tree: &Tree) -> Vec<DiskFacts> {
    let names = tree.names("sys/block");
    names
        .iter()
        .filter(|name| !VIRTUAL.iter().any(|prefix| name.starts_with(prefix)))
        // The paths of a multipath NVMe namespace are shown as hidden devices of their own.
        .filter(|name| tree.number::<u8>(&format!("sys/block/{name}/hidden")) != Some(1))
        .map(|name| read(tree, name))
        .collect()
}

/// The disk (or the disk of the partition) with the kernel's device number (`st_rdev`), if it is hardware of this
/// machine.
pub fn describe(tree: &Tree, number: u64) -> Option<DiskFacts> {
    let device = format!("sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
    let mut folder = tree.resolved(&device)?;
    if tree.exists(&format!("{device}/partition")) {
        folder.pop();
    }
    let name = folder.file_name()?.to_string_lossy().into_owned();
    list(tree).into_iter().find(|disk| disk.name == name)
}

fn read(tree: &Tree, name: &str) -> DiskFacts {
    let folder = format!("sys/block/{name}");
    let text = |file: &str| tree.text(&format!("{folder}/{file}"));
    let flag = |file: &str| text(file).as_deref() == Some("1");
    let udev = udev_properties(tree, &folder);
    let property = |key: &str| udev.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let transport = transport(tree, name);
    let (pci_address, driver) = tree.pci_function(&folder);
    let sector_size = tree.number(&format!("{folder}/queue/logical_block_size")).unwrap_or(512);
    DiskFacts {
        name: name.to_owned(),
        // Always in units of 512 bytes, whatever the disk's sectors are.
        size_bytes: tree.number::<u64>(&format!("{folder}/size")).unwrap_or(0).saturating_mul(512),
        sector_size,
        physical_sector_size: tree
            .number(&format!("{folder}/queue/physical_block_size"))
            .unwrap_or(sector_size),
        model: model(tree, &folder).or_else(|| property("ID_MODEL")),
        serial: serial(tree, &folder).or_else(|| property("ID_SERIAL_SHORT")),
        wwn: text("wwid").or_else(|| text("device/wwid")).or_else(|| property("ID_WWN")),
        rotational: flag("queue/rotational"),
        removable: flag("removable") || transport.as_deref() == Some("usb"),
        transport,
        pci_address,
        driver,
    }
}

fn model(tree: &Tree, folder: &str) -> Option<String> {
    let model = tree
        .text(&format!("{folder}/device/model"))
        .or_else(|| tree.text(&format!("{folder}/device/name")))?;
    // SCSI keeps the vendor apart; libata fills it with "ATA", and virtio's is a number.
    match tree.text(&format!("{folder}/device/vendor")) {
        Some(vendor) if vendor != "ATA" && !vendor.starts_with("0x") => Some(format!("{vendor} {model}")),
        _ => Some(model),
    }
}

fn serial(tree: &Tree, folder: &str) -> Option<String> {
    tree.text(&format!("{folder}/serial")).or_else(|| tree.text(&format!("{folder}/device/serial"))).or_else(
        || {
            // SCSI VPD page 0x80 (SPC-4, 7.8.15): two bytes of head, a 16-bit length, text.
            let page = tree.bytes(&format!("{folder}/device/vpd_pg80"))?;
            let len = u16::from_be_bytes([*page.get(2)?, *page.get(3)?]);
            let text = String::from_utf8_lossy(page.get(4..4 + usize::from(len))?).trim().to_owned();
            (!text.is_empty()).then_some(text)
        },
    )
}

fn transport(tree: &Tree, name: &str) -> Option<String> {
    let path = tree.resolved(&format!("sys/block/{name}"))?;
    let path = path.to_string_lossy();
    // The device path names every bus on the way; the most telling first. libata disks show "/ata1/host0/".
    let found = if name.starts_with("nvme") {
        "nvme"
    } else if path.contains("/usb") {
        "usb"
    } else if path.contains("/virtio") {
        "virtio"
    } else if name.starts_with("mmcblk") {
        "mmc"
    } else if path.contains("/ata") {
        "sata"
    } else if path.contains("/rport-") {
        "fc"
    } else if path.contains("/session") {
        "iscsi"
    } else if path.contains("/end_device-") {
        "sas"
    } else if path.contains("/vbd-") {
        "xen"
    } else if path.contains("/VMBUS") || path.contains("/vmbus") {
        "hyperv"
    } else if path.contains("/host") {
        "scsi"
    } else {
        return None;
    };
    Some(found.to_owned())
}

/// What udev found, where it runs: lines `E:KEY=value`.
fn udev_properties(tree: &Tree, folder: &str) -> Vec<(String, String)> {
    let Some(number) = tree.text(&format!("{folder}/dev")) else { return Vec::new() };
    let Some(text) = tree.text(&format!("run/udev/data/b{number}")) else { return Vec::new() };
    text.lines()
        .filter_map(|line| line.strip_prefix("E:")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
