// SPDX-License-Identifier: Apache-2.0
//! Which loader a boot entry is to start: found on the disk itself, as firmware will see it.

use unmoor_images::adapt::Window;
use unmoor_images::filesystem::fat::Volume;
use unmoor_images::partition::{self, Partition, PartitionTable, Role, TableKind};
use unmoor_images::{BlockSource, Result};

use super::{Entry, Signature};

/// First loaders of a chain, best first: shim (SUSE's name too), then what is started without it.
const LOADERS: [&str; 5] = ["shimx64.efi", "shim.efi", "grubx64.efi", "systemd-bootx64.efi", "elilo.efi"];
/// What firmware starts by itself (UEFI 2.10, section 3.5.1.1).
const FALLBACK: &str = "BOOTX64.EFI";
/// Characters of a vendor's directory that a description keeps.
const LONGEST: usize = 60;

/// The boot entry for the system on `disk`: of the first EFI system partition with a loader the distribution's own, in the directory
/// `vendor` if there is one of that name; else the fallback. `None` where there is no loader.
///
/// # Errors
///
/// `Io` where the table cannot be read. A volume that is broken is one without a loader.
pub fn entry(disk: &dyn BlockSource, vendor: Option<&str>) -> Result<Option<Entry>> {
    let table = partition::read(disk)?;
    let system = table.partitions.iter().filter(|partition| partition.role == Role::Esp);
    for partition in system {
        let Some(signature) = signature(&table, partition) else { continue };
        let Some((description, path)) = loader(disk, partition, vendor) else { continue };
        let sector = u64::from(table.sector_size.max(512));
        return Ok(Some(Entry {
            description,
            partition: partition.number,
            start: partition.start / sector,
            sectors: partition.len / sector,
            signature,
            path,
        }));
    }
    Ok(None)
}

fn signature(table: &PartitionTable, partition: &Partition) -> Option<Signature> {
    match table.kind {
        TableKind::Gpt => Some(Signature::Gpt(uuid_bytes(partition.partuuid.as_deref()?)?)),
        TableKind::Mbr => u32::from_str_radix(table.disk_id.as_deref()?, 16).ok().map(Signature::Mbr),
        TableKind::None => None,
    }
}

/// What to call it, and its path.
fn loader(disk: &dyn BlockSource, partition: &Partition, vendor: Option<&str>) -> Option<(String, String)> {
    let window = Window::new(disk, partition.start, partition.len).ok()?;
    let volume = Volume::read(&window).ok()??;
    let mut folders = volume.list("EFI");
    let is_own = |name: &str| vendor.is_some_and(|vendor| name.eq_ignore_ascii_case(vendor));
    // In order of their names otherwise: the same disk gives the same entry.
    folders.sort_by_key(|name| (!is_own(name), name.to_ascii_lowercase()));
    let named = |folder: &str, wanted: &str| {
        let mut names = volume.list(&format!("EFI/{folder}")).into_iter();
        names.find(|name| name.eq_ignore_ascii_case(wanted)).map(|name| format!("\\EFI\\{folder}\\{name}"))
    };
    let is_fallback = |name: &&String| name.eq_ignore_ascii_case("BOOT");
    let vendors = folders.iter().filter(|name| !is_fallback(name));
    let mut own = vendors.filter_map(|folder| {
        LOADERS.iter().find_map(|wanted| named(folder, wanted)).map(|path| (folder, path))
    });
    if let Some((folder, path)) = own.next() {
        return Some((folder.chars().take(LONGEST).collect(), path));
    }
    let folder = folders.iter().find(is_fallback)?;
    Some((vendor.unwrap_or("unmoor").to_owned(), named(folder, FALLBACK)?))
}

/// "0ad62e5a-8d35-..." as bytes in the order of the text.
fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect();
    (digits.len() == 32).then(|| bytes.try_into().ok())?
}
