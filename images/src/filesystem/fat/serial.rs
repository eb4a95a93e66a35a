// SPDX-License-Identifier: Apache-2.0
//! Another serial number for a FAT volume: it stands in the boot sector, and in FAT32's copy of that.

use super::{Boot, serial_text};
use crate::filesystem::FilesystemKind;
use crate::filesystem::identity::refused;
use crate::identity::{Change, Writes, put};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Result};

/// Plans the serial number `new` (as it stands on disk) for the volume at byte 0 of `source`.
pub(in crate::filesystem) fn change_serial(source: &dyn BlockSource, new: [u8; 4]) -> Result<Change> {
    let boot = Boot::read(source)?.ok_or_else(|| refused("there is no FAT volume"))?;
    let old = boot.serial.ok_or_else(|| refused("it has no serial number"))?;
    let is_32 = boot.kind == FilesystemKind::Fat32;
    let place = if is_32 { 67 } else { 39 };
    let first = read_vec(source, 0, 512)?;
    let mut sectors = vec![0];
    if is_32 {
        let copy = u64::from(Bytes::new(&first, "FAT boot sector").u16_le(50)?);
        let at = copy * u64::from(boot.sector_size);
        if copy != 0 && copy != 0xffff && at + 512 <= boot.fat {
            sectors.push(at);
        }
    }
    let mut writes = Writes::new();
    for at in sectors {
        let mut sector = read_vec(source, at, 512)?;
        // A copy that is none has nothing to be kept in step.
        if at != 0 && (sector.get(510..) != Some(&[0x55, 0xaa]) || sector.get(place..place + 4) != Some(&old))
        {
            continue;
        }
        put(&mut sector, place, &new);
        writes.push((at, sector));
    }
    Ok(Change { old: serial_text(old), new: serial_text(new), writes, adds: Vec::new() })
}
