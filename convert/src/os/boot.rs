// SPDX-License-Identifier: Apache-2.0
//! What the machine's disks boot with: code in boot sectors and boot partitions, files on EFI system partitions.

use unmoor_images::filesystem::FilesystemKind;
use unmoor_images::filesystem::files::Tree;
use unmoor_images::layout::{DiskLayout, Place};
use unmoor_images::parse::read_vec;
use unmoor_images::partition::Role;
use unmoor_images::{BlockSource, Result};

use super::{Firmware, Found};

const MOST_ENTRIES: usize = 256;

/// Said by code that starts the active partition's, whatever that is.
const GENERIC: &str = "MBR code of DOS or Windows";
/// Text in boot code that names its program.
const MARKS: [(&[u8], &str); 5] = [
    (b"GRUB \0Geom\0Hard Disk\0Read\0", "GRUB"),
    (b"LILO", "LILO"),
    (b"SYSLINUX", "SYSLINUX"),
    (b"EXTLINUX", "SYSLINUX"),
    (b"Missing operating system", GENERIC),
];

/// (loaders of all disks, how they boot).
pub(super) fn survey(
    layouts: &[DiskLayout],
    sources: &[&dyn BlockSource],
    volumes: &[Found<'_>],
    notes: &mut Vec<String>,
) -> (Vec<String>, Option<Firmware>) {
    let mut loaders = Vec::new();
    let mut add = |name: String| {
        if !loaders.contains(&name) {
            loaders.push(name);
        }
    };
    let (mut bios, mut uefi) = (false, false);
    for source in sources {
        match mbr(*source) {
            Ok(Some(name)) => {
                bios |= name != GENERIC;
                add(format!("{name} (MBR)"));
            }
            Ok(None) => {}
            Err(error) => notes.push(format!("a boot sector could not be read: {}", error.chain())),
        }
    }
    for found in volumes.iter().filter(|found| is_system_partition(layouts, found)) {
        for name in found.look(notes, on_system_partition) {
            uefi = true;
            add(format!("{name} (EFI)"));
        }
    }
    let firmware = match (bios, uefi) {
        // Both: Debian's cloud images, made for either. The machine boots by UEFI if it can.
        (_, true) => Some(Firmware::Uefi),
        (true, false) => Some(Firmware::Bios),
        (false, false) => None,
    };
    (loaders, firmware)
}

/// Whose code is in the first sector. With GRUB it loads the rest from the gap or the BIOS boot partition behind it.
fn mbr(source: &dyn BlockSource) -> Result<Option<&'static str>> {
    let len = source.size().min(512);
    let sector = read_vec(source, 0, len as usize)?;
    let code = sector.get(..440.min(sector.len())).unwrap_or(&[]);
    if code.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    Ok(MARKS.iter().find(|(mark, _)| contains(code, mark)).map(|(_, name)| *name))
}

fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

fn is_system_partition(layouts: &[DiskLayout], found: &Found<'_>) -> bool {
    use FilesystemKind::{Fat12, Fat16, Fat32};
    let Place::Disk { partition: Some(number), .. } = found.place else { return false };
    let role = layouts
        .get(found.disk)
        .and_then(|layout| layout.table.partitions.iter().find(|partition| partition.number == *number))
        .map(|partition| partition.role);
    role == Some(Role::Esp) && matches!(found.facts.kind, Fat12 | Fat16 | Fat32)
}

/// Loaders by the files that they install; the fallback loader only where nothing else is.
fn on_system_partition(tree: &mut Tree<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in tree.list("/EFI", MOST_ENTRIES)? {
        if folder.eq_ignore_ascii_case("boot") {
            continue;
        }
        let files = tree.list(&format!("/EFI/{folder}"), MOST_ENTRIES)?;
        let has = |start: &str| files.iter().any(|file| file.to_ascii_lowercase().starts_with(start));
        let name = if has("systemd-boot") {
            "systemd-boot"
        } else if has("shim") && has("grub") {
            "GRUB with shim"
        } else if has("grub") {
            "GRUB"
        } else if has("refind") {
            "rEFInd"
        } else if folder.eq_ignore_ascii_case("linux") && files.iter().any(|file| file.ends_with(".efi")) {
            "unified kernel image"
        } else if tree.find(&format!("/EFI/{folder}/Boot/bootmgfw.efi"))?.is_some() {
            "Windows Boot Manager"
        } else {
            continue;
        };
        found.push(name.to_owned());
    }
    if found.is_empty() {
        let files = tree.list("/EFI/BOOT", MOST_ENTRIES)?;
        let has = |start: &str| files.iter().any(|file| file.to_ascii_lowercase().starts_with(start));
        if has("grub") {
            found.push("GRUB".to_owned());
        } else if has("boot") {
            found.push("fallback loader".to_owned());
        }
    }
    Ok(found)
}
