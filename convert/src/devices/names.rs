// SPDX-License-Identifier: Apache-2.0
//! Names that udev gives (its rules 60-persistent-storage.rules, 13-dm-disk.rules and 63-md-raid-arrays.rules).

use unmoor_images::layout::Place;
use unmoor_images::manifest::{DiskFacts, MachineFacts};

/// Which of the machine's disks are those with `sizes`, and what they were called. Disks are told by their size; several of the
/// same size are taken in the order in which the machine has them.
pub(super) fn of_disks(sizes: &[u64], facts: Option<&MachineFacts>) -> Vec<Vec<String>> {
    let mut left: Vec<&DiskFacts> = facts.map(|facts| facts.disks.iter().collect()).unwrap_or_default();
    let mut names = Vec::new();
    for size in sizes {
        let at = left.iter().position(|disk| disk.size_bytes == *size);
        names.push(at.map(|at| of_disk(left.remove(at))).unwrap_or_default());
    }
    names
}

fn of_disk(disk: &DiskFacts) -> Vec<String> {
    let mut names = vec![format!("/dev/{}", disk.name)];
    let mut by_id = |name: String| names.push(format!("/dev/disk/by-id/{name}"));
    // udev replaces blanks by "_" and leaves out what is no name's character.
    let clean = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words
            .join("_")
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "#+-.:=@_/".contains(*c))
            .collect::<String>()
    };
    if let Some(wwn) = &disk.wwn {
        match wwn.split_once('.') {
            Some(("naa", number)) => by_id(format!("wwn-0x{}", number.trim_start_matches("0x"))),
            _ if disk.name.starts_with("nvme") => by_id(format!("nvme-{wwn}")),
            _ => {}
        }
    }
    if let Some(serial) = disk.serial.as_deref().map(clean).filter(|serial| !serial.is_empty()) {
        let model = disk.model.as_deref().map(clean).unwrap_or_default();
        match disk.transport.as_deref() {
            Some("virtio") => by_id(format!("virtio-{}", serial.get(..20).unwrap_or(&serial))),
            Some("nvme") => by_id(format!("nvme-{model}_{serial}")),
            Some("sata") => by_id(format!("ata-{}_{serial}", model.trim_start_matches("ATA_"))),
            _ => {}
        }
    }
    if let Some(address) = &disk.pci_address {
        names.push(format!("/dev/disk/by-path/pci-{address}"));
    }
    names
}

/// Names of what lies at `place`; `disk` are those of the disk or array that it is a partition of.
pub(super) fn of_place(place: &Place, disk: &[String]) -> Vec<String> {
    match place {
        Place::Disk { partition: Some(number), .. } => {
            disk.iter().map(|disk| partition(disk, *number)).collect()
        }
        Place::Disk { partition: None, .. } => disk.to_vec(),
        Place::LogicalVolume { vg, lv, .. } => {
            let mapper = mapper_name(vg, lv);
            vec![
                format!("/dev/mapper/{mapper}"),
                format!("/dev/{vg}/{lv}"),
                format!("/dev/disk/by-id/dm-name-{mapper}"),
            ]
        }
        Place::Md { uuid, name, .. } => {
            let mut names = vec![format!("/dev/disk/by-id/md-uuid-{uuid}")];
            if let Some(name) = name {
                let short = name.rsplit_once(':').map_or(name.as_str(), |(_, short)| short);
                names.push(format!("/dev/md/{short}"));
                names.push(format!("/dev/disk/by-id/md-name-{name}"));
                // An array that is named by a number has that number.
                let number = short.strip_prefix("md").unwrap_or(short);
                if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
                    names.push(format!("/dev/md{number}"));
                }
            }
            names
        }
    }
}

/// Device mapper's name of a logical volume: dashes of its own are doubled.
pub fn mapper_name(vg: &str, lv: &str) -> String {
    format!("{}-{}", vg.replace('-', "--"), lv.replace('-', "--"))
}

/// "/dev/sda" 1 -> "/dev/sda1"; "/dev/nvme0n1" 1 -> "/dev/nvme0n1p1"; "/dev/disk/by-id/x" 1 -> "/dev/disk/by-id/x-part1".
pub(super) fn partition(disk: &str, number: u32) -> String {
    if disk.starts_with("/dev/disk/") {
        return format!("{disk}-part{number}");
    }
    // block/partitions/core.c: a "p" between two digits.
    let p = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{p}{number}")
}

/// mdadm writes "aabbccdd:...", blkid "aabbccdd-eeff-...".
pub(crate) fn blkid_uuid(md: &str) -> String {
    let hex: String = md.chars().filter(|c| *c != ':').collect();
    match (hex.get(..8), hex.get(8..12), hex.get(12..16), hex.get(16..20), hex.get(20..)) {
        (Some(a), Some(b), Some(c), Some(d), Some(e)) => format!("{a}-{b}-{c}-{d}-{e}"),
        _ => md.to_owned(),
    }
}

/// A kernel's name of a disk or partition: (family, disk number, partition): "/dev/sdb3" is ("sd", 1, Some(3)).
pub(super) fn kernel_name(path: &str) -> Option<(&'static str, usize, Option<u32>)> {
    let name = path.strip_prefix("/dev/")?;
    for family in ["sd", "hd", "vd", "xvd"] {
        let Some(rest) = name.strip_prefix(family) else { continue };
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        if !(1..=3).contains(&letters) {
            continue;
        }
        let (letters, number) = rest.split_at(letters);
        let disk = letters.bytes().fold(0, |sum, letter| sum * 26 + usize::from(letter - b'a') + 1) - 1;
        return Some((family, disk, part(number)?));
    }
    // A disk that is a card or NVMe has a "p" before its partition's number.
    for (family, within) in [("nvme", Some('n')), ("mmcblk", None), ("pmem", None)] {
        let Some(rest) = name.strip_prefix(family) else { continue };
        let (disk, rest) = number(rest)?;
        let rest = match within {
            Some(letter) => number(rest.strip_prefix(letter)?)?.1,
            None => rest,
        };
        let partition = if rest.is_empty() { None } else { part(rest.strip_prefix('p')?)? };
        return Some((family, disk, partition));
    }
    // Compaq's arrays: /dev/cciss/c0d0p1.
    let rest = name.strip_prefix("cciss/c")?;
    let (_, rest) = number(rest)?;
    let (disk, rest) = number(rest.strip_prefix('d')?)?;
    let partition = if rest.is_empty() { None } else { part(rest.strip_prefix('p')?)? };
    Some(("cciss", disk, partition))
}

fn number(text: &str) -> Option<(usize, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

/// `Some(None)` for the whole disk, `None` for what is no number.
fn part(text: &str) -> Option<Option<u32>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}
