// SPDX-License-Identifier: Apache-2.0
//! A FAT16 image with files in /EFI/BOOT, for firmware to start from (Microsoft, "FAT: General Overview of On-Disk Format" 1.03).

use unmoor_images::{Error, Result};

const SECTOR: usize = 512;
const SECTORS_PER_CLUSTER: usize = 4;
const CLUSTER: usize = SECTOR * SECTORS_PER_CLUSTER;
const ROOT_ENTRIES: usize = 512;
/// FAT16 has at least this many clusters, and fewer than 65525.
const LEAST_CLUSTERS: usize = 4200;
const DIRECTORY: u8 = 0x10;
const FILE: u8 = 0x20;
/// 2001-09-09.
const DATE: u16 = (21 << 9) | (9 << 5) | 9;

/// Files by their 8.3 names, padded with blanks to 11 bytes.
pub(super) fn image(files: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let needed: usize = files.iter().map(|(_, content)| content.len().div_ceil(CLUSTER)).sum();
    let clusters = (needed + 16).max(LEAST_CLUSTERS);
    if clusters >= 65_525 {
        return Err(Error::unsupported(
            "making an EFI system partition",
            "the boot loaders have over 128 MiB",
        ));
    }
    let fat_sectors = ((clusters + 2) * 2).div_ceil(SECTOR);
    let root_sectors = ROOT_ENTRIES * 32 / SECTOR;
    let first_data = 1 + 2 * fat_sectors + root_sectors;
    let sectors = first_data + clusters * SECTORS_PER_CLUSTER;

    // Cluster 2 is /EFI, 3 is /EFI/BOOT, files follow.
    let mut fat: Vec<u16> = vec![0xfff8, 0xffff, 0xffff, 0xffff];
    let mut efi = [entry(".          ", DIRECTORY, 2, 0), entry("..         ", DIRECTORY, 0, 0)].concat();
    efi.extend(entry("BOOT       ", DIRECTORY, 3, 0));
    let mut boot = [entry(".          ", DIRECTORY, 3, 0), entry("..         ", DIRECTORY, 2, 0)].concat();
    let mut data = Vec::new();
    for (name, content) in files {
        // An empty file has no cluster.
        let count = content.len().div_ceil(CLUSTER);
        let first = if count == 0 { 0 } else { fat.len() };
        fat.extend((1..=count).map(|number| if number == count { 0xffff } else { (first + number) as u16 }));
        boot.extend(entry(name, FILE, first as u16, content.len() as u32));
        data.extend_from_slice(content);
        data.resize(data.len().next_multiple_of(CLUSTER), 0);
    }
    if boot.len() > CLUSTER {
        return Err(Error::unsupported("making an EFI system partition", "there are too many files"));
    }
    efi.resize(CLUSTER, 0);
    boot.resize(CLUSTER, 0);

    let mut image = boot_sector(sectors, fat_sectors);
    let table: Vec<u8> = fat.iter().flat_map(|value| value.to_le_bytes()).collect();
    for copy in 0..2 {
        image.extend_from_slice(&table);
        image.resize((1 + (copy + 1) * fat_sectors) * SECTOR, 0);
    }
    image.extend(entry("UNMOOR     ", 0x08, 0, 0));
    image.extend(entry("EFI        ", DIRECTORY, 2, 0));
    image.resize(first_data * SECTOR, 0);
    image.extend(efi);
    image.extend(boot);
    image.extend(data);
    image.resize(sectors * SECTOR, 0);
    Ok(image)
}

fn boot_sector(sectors: usize, fat_sectors: usize) -> Vec<u8> {
    let mut sector = vec![0xeb, 0x3c, 0x90];
    sector.extend_from_slice(b"UNMOOR  ");
    sector.extend_from_slice(&(SECTOR as u16).to_le_bytes());
    sector.push(SECTORS_PER_CLUSTER as u8);
    sector.extend_from_slice(&1_u16.to_le_bytes());
    sector.push(2);
    sector.extend_from_slice(&(ROOT_ENTRIES as u16).to_le_bytes());
    sector.extend_from_slice(&u16::try_from(sectors).unwrap_or(0).to_le_bytes());
    sector.push(0xf8);
    sector.extend_from_slice(&(fat_sectors as u16).to_le_bytes());
    // Sectors per track, heads, hidden sectors.
    sector.extend_from_slice(&[32, 0, 64, 0, 0, 0, 0, 0]);
    let large = if sectors > usize::from(u16::MAX) { sectors as u32 } else { 0 };
    sector.extend_from_slice(&large.to_le_bytes());
    sector.extend_from_slice(&[0x80, 0, 0x29]);
    sector.extend_from_slice(b"UNMR");
    sector.extend_from_slice(b"UNMOOR     FAT16   ");
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    sector
}

/// A directory entry.
fn entry(name: &str, attributes: u8, cluster: u16, size: u32) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(11, b' ');
    bytes.push(attributes);
    bytes.resize(24, 0);
    bytes.extend_from_slice(&DATE.to_le_bytes());
    bytes.extend_from_slice(&cluster.to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_checker_finds_nothing_and_another_reader_finds_the_files() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let files = [
            ("BOOTX64 EFI", content.clone()),
            ("GRUB    CFG", b"set x=y\n".to_vec()),
            ("EMPTY   TXT", Vec::new()),
        ];
        for more in [0, 20 << 20] {
            let mut files = files.to_vec();
            files.push(("LARGE   BIN", vec![7; more]));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("esp");
            std::fs::write(&path, image(&files).unwrap()).unwrap();
            let run = |program: &str, arguments: &[&str]| {
                let done = Command::new(program).args(arguments).output();
                done.unwrap_or_else(|error| unreachable!("{program} is needed for this test: {error}"))
            };
            let path = path.to_str().unwrap();
            let checked = run("fsck.fat", &["-n", "-v", path]);
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
            let read = run("mtype", &["-i", path, "::/EFI/BOOT/BOOTX64.EFI"]);
            assert!(read.stdout == content, "{}", String::from_utf8_lossy(&read.stderr));
        }
    }
}
