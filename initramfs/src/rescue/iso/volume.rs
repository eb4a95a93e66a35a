// SPDX-License-Identifier: Apache-2.0
//! ISO 9660 (ECMA-119) with El Torito boot entries, and an MBR in its unused first sectors.
//!
//! Names are written as they are, in capitals, without Rock Ridge or Joliet: GRUB, isolinux and Linux show them in small letters.

use std::collections::{BTreeMap, BTreeSet};

use unmoor_images::{Error, Result};

const SECTOR: usize = 2048;
/// Sectors before the descriptors (ECMA-119, 6.2.1).
const SYSTEM_AREA: u32 = 16;
/// Primary volume descriptor, boot record, terminator; then both path tables and the boot catalogue.
const PATH_TABLE_LITTLE: u32 = SYSTEM_AREA + 3;
const PATH_TABLE_BIG: u32 = PATH_TABLE_LITTLE + 1;
const CATALOGUE: u32 = PATH_TABLE_BIG + 1;
const FIRST_DIRECTORY: u32 = CATALOGUE + 1;
/// A disk's size is a whole number of cylinders of 64 heads and 32 sectors, for BIOSes that count so (bytes).
const CYLINDER: usize = 64 * 32 * 512;

/// What boots, by path.
pub(super) struct Boot {
    /// An El Torito image without emulation that has isolinux' boot information table.
    pub(super) bios: &'static str,
    /// A FAT image.
    pub(super) uefi: &'static str,
    /// Code for the first sector of a disk, at most 432 bytes.
    pub(super) mbr: Vec<u8>,
}

/// Where a directory or file is.
#[derive(Clone, Copy, Default)]
struct Place {
    sector: u32,
    /// Bytes.
    size: u32,
}

/// Files by path, and where everything goes.
pub(super) struct Volume {
    name: &'static str,
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Root first, as "".
    directories: Vec<String>,
    places: BTreeMap<String, Place>,
    sectors: u32,
}

impl Volume {
    pub(super) fn new(name: &'static str, files: BTreeMap<&'static str, Vec<u8>>) -> Result<Self> {
        let mut directories: BTreeSet<String> = BTreeSet::from([String::new()]);
        for path in files.keys() {
            directories.extend(
                path.match_indices('/').map(|(end, _)| path.get(..end).unwrap_or_default().to_owned()),
            );
        }
        // Path tables are ordered by depth, then name (ECMA-119, 6.9.1).
        let mut directories: Vec<String> = directories.into_iter().collect();
        directories.sort_by_key(|path| (depth(path), path.clone()));
        let mut places = BTreeMap::new();
        let mut sector = FIRST_DIRECTORY;
        for path in &directories {
            places.insert(path.clone(), Place { sector, size: SECTOR as u32 });
            sector += 1;
        }
        for (path, content) in &files {
            let size = u32::try_from(content.len())
                .map_err(|_| Error::unsupported("making a CD image", format!("{path} has over 4 GiB")))?;
            places.insert((*path).to_owned(), Place { sector, size });
            sector = sector.saturating_add(size.div_ceil(SECTOR as u32));
        }
        Ok(Self { name, files, directories, places, sectors: sector })
    }

    fn place(&self, path: &str) -> Place {
        self.places.get(path).copied().unwrap_or_default()
    }

    /// The whole image.
    pub(super) fn image(mut self, boot: &Boot) -> Result<Vec<u8>> {
        self.patch_boot_information(boot.bios)?;
        let used = (self.sectors as usize).saturating_mul(SECTOR);
        let mut image = vec![0; used.next_multiple_of(CYLINDER)];
        let mut put = |sector: u32, bytes: &[u8]| {
            let start = (sector as usize).saturating_mul(SECTOR);
            if let Some(target) = image.get_mut(start..start.saturating_add(bytes.len())) {
                target.copy_from_slice(bytes);
            }
        };
        put(0, &self.master_boot_record(boot, used.next_multiple_of(CYLINDER))?);
        put(SYSTEM_AREA, &self.primary_descriptor());
        put(SYSTEM_AREA + 1, &boot_record());
        put(SYSTEM_AREA + 2, &descriptor(255));
        put(PATH_TABLE_LITTLE, &self.path_table(u32::to_le_bytes, u16::to_le_bytes));
        put(PATH_TABLE_BIG, &self.path_table(u32::to_be_bytes, u16::to_be_bytes));
        put(CATALOGUE, &self.catalogue(boot));
        for path in &self.directories {
            put(self.place(path).sector, &self.directory(path)?);
        }
        for (path, content) in &self.files {
            put(self.place(path).sector, content);
        }
        Ok(image)
    }

    /// isolinux' boot information table: where the volume descriptor and the image itself are (mkisofs(8), "-boot-info-table").
    fn patch_boot_information(&mut self, path: &'static str) -> Result<()> {
        let place = self.place(path);
        let short =
            || Error::malformed("preparing the BIOS boot image", "it is too short to be isolinux.bin");
        let content = self.files.get_mut(path).ok_or_else(short)?;
        let sum = content
            .get(64..)
            .ok_or_else(short)?
            .chunks(4)
            .map(|word| word.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)))
            .fold(0_u32, u32::wrapping_add);
        let table: Vec<u8> =
            [SYSTEM_AREA, place.sector, place.size, sum].into_iter().flat_map(u32::to_le_bytes).collect();
        content.get_mut(8..24).ok_or_else(short)?.copy_from_slice(&table);
        content.get_mut(24..64).ok_or_else(short)?.fill(0);
        Ok(())
    }

    /// Boot code that finds isolinux.bin by its address at byte 432, and two partitions: the whole, and the FAT image.
    fn master_boot_record(&self, boot: &Boot, size: usize) -> Result<[u8; 512]> {
        let mut sector = [0; 512];
        let code = boot.mbr.get(..boot.mbr.len().min(432)).unwrap_or_default();
        sector.get_mut(..code.len()).unwrap_or_default().copy_from_slice(code);
        let in_blocks = |place: Place| place.sector.saturating_mul(4);
        let whole = u32::try_from(size / 512)
            .map_err(|_| Error::unsupported("making a CD image", "it has over 2 TiB"))?;
        let uefi = self.place(boot.uefi);
        let mut put = |at: usize, bytes: &[u8]| {
            sector.get_mut(at..at + bytes.len()).unwrap_or_default().copy_from_slice(bytes);
        };
        put(432, &in_blocks(self.place(boot.bios)).to_le_bytes());
        put(440, b"UNMR");
        let entries = [(0x80, 0x17, 0, whole), (0, 0xef, in_blocks(uefi), uefi.size.div_ceil(512))];
        for (index, (active, kind, start, length)) in entries.into_iter().enumerate() {
            let at = 446 + index * 16;
            put(at, &[active, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff]);
            put(at + 8, &u32::to_le_bytes(start));
            put(at + 12, &u32::to_le_bytes(length));
        }
        put(510, &[0x55, 0xaa]);
        Ok(sector)
    }

    /// ECMA-119, 8.4.
    fn primary_descriptor(&self) -> Vec<u8> {
        let mut bytes = descriptor(1);
        let mut put = |at: usize, value: &[u8]| {
            bytes.get_mut(at..at + value.len()).unwrap_or_default().copy_from_slice(value);
        };
        put(8, &[b' '; 32]);
        put(40, format!("{:<32}", self.name).as_bytes());
        put(80, &both(self.sectors));
        for (at, value) in [(120, 1), (124, 1), (128, SECTOR as u16)] {
            put(at, &both16(value));
        }
        put(132, &both(self.path_table(u32::to_le_bytes, u16::to_le_bytes).len() as u32));
        put(140, &PATH_TABLE_LITTLE.to_le_bytes());
        put(148, &PATH_TABLE_BIG.to_be_bytes());
        put(156, &record(&[0], self.place(""), true));
        put(190, &[b' '; 623]);
        for at in [813, 830, 847, 864] {
            put(at, b"0000000000000000\0");
        }
        put(881, &[1]);
        bytes
    }

    fn path_table(&self, long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mut table = Vec::new();
        for path in &self.directories {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let number = self.directories.iter().position(|known| known == parent).unwrap_or(0) as u16 + 1;
            let name = if path.is_empty() { vec![0] } else { identifier(path, true) };
            table.extend_from_slice(&[name.len() as u8, 0]);
            table.extend_from_slice(&long(self.place(path).sector));
            table.extend_from_slice(&short(number));
            table.extend_from_slice(&name);
            if name.len() % 2 == 1 {
                table.push(0);
            }
        }
        table
    }

    fn directory(&self, path: &str) -> Result<Vec<u8>> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let mut bytes = record(&[0], self.place(path), true);
        bytes.extend(record(&[1], self.place(parent), true));
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        // By identifier (ECMA-119, 9.3).
        let mut inside: Vec<(Vec<u8>, &String, bool)> = Vec::new();
        for found in self.places.keys() {
            let below = found.strip_prefix(&prefix).filter(|below| !below.is_empty() && !below.contains('/'));
            if below.is_some() {
                let is_directory = self.directories.contains(found);
                inside.push((identifier(found, is_directory), found, is_directory));
            }
        }
        inside.sort();
        for (name, found, is_directory) in inside {
            bytes.extend(record(&name, self.place(found), is_directory));
        }
        if bytes.len() > SECTOR {
            return Err(Error::unsupported("making a CD image", format!("{path} has too many files")));
        }
        Ok(bytes)
    }

    /// El Torito, 2: validation, default entry (BIOS), section (UEFI).
    fn catalogue(&self, boot: &Boot) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        let mut put = |at: usize, value: &[u8]| {
            bytes.get_mut(at..at + value.len()).unwrap_or_default().copy_from_slice(value);
        };
        // Words of the validation entry sum up to zero: 1 + checksum + 0xaa55.
        put(0, &[1, 0]);
        put(28, &(0_u16.wrapping_sub(1).wrapping_sub(0xaa55)).to_le_bytes());
        put(30, &[0x55, 0xaa]);
        let bios = self.place(boot.bios);
        put(32, &[0x88, 0, 0, 0, 0, 0]);
        put(38, &4_u16.to_le_bytes());
        put(40, &bios.sector.to_le_bytes());
        let uefi = self.place(boot.uefi);
        put(64, &[0x91, 0xef, 1, 0]);
        put(96, &[0x88, 0, 0, 0, 0, 0]);
        put(102, &u16::try_from(uefi.size.div_ceil(512)).unwrap_or(u16::MAX).to_le_bytes());
        put(104, &uefi.sector.to_le_bytes());
        bytes
    }
}

fn depth(path: &str) -> usize {
    if path.is_empty() { 0 } else { path.matches('/').count() + 1 }
}

/// The last part of a path as it stands in a directory.
fn identifier(path: &str, is_directory: bool) -> Vec<u8> {
    let name = path.rsplit('/').next().unwrap_or(path).to_uppercase();
    match (is_directory, name.contains('.')) {
        (true, _) => name,
        (false, true) => format!("{name};1"),
        (false, false) => format!("{name}.;1"),
    }
    .into_bytes()
}

/// A volume descriptor's first bytes.
fn descriptor(kind: u8) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(b"CD001\x01");
    bytes.resize(SECTOR, 0);
    bytes
}

/// El Torito, 2.0: where the catalogue is.
fn boot_record() -> Vec<u8> {
    let mut bytes = descriptor(0);
    let name = b"EL TORITO SPECIFICATION";
    bytes.get_mut(7..7 + name.len()).unwrap_or_default().copy_from_slice(name);
    bytes.get_mut(71..75).unwrap_or_default().copy_from_slice(&CATALOGUE.to_le_bytes());
    bytes
}

/// A directory record (ECMA-119, 9.1). The time is fixed: the same files give the same image.
fn record(name: &[u8], place: Place, is_directory: bool) -> Vec<u8> {
    let length = 33 + name.len() + (name.len() + 1) % 2;
    let mut bytes = vec![length as u8, 0];
    bytes.extend_from_slice(&both(place.sector));
    bytes.extend_from_slice(&both(place.size));
    bytes.extend_from_slice(&[101, 9, 9, 1, 46, 40, 0]);
    bytes.extend_from_slice(&[if is_directory { 2 } else { 0 }, 0, 0]);
    bytes.extend_from_slice(&both16(1));
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name);
    bytes.resize(length, 0);
    bytes
}

/// Both byte orders (ECMA-119, 7.3.3).
fn both(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// ECMA-119, 7.2.3.
fn both16(value: u16) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&value.to_le_bytes());
    bytes[2..].copy_from_slice(&value.to_be_bytes());
    bytes
}
