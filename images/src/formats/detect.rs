// SPDX-License-Identifier: Apache-2.0
//! Telling formats apart by their first bytes, and one by its last.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Format, vdi, vhd, vhdx, vmdk};
use crate::{Error, Result};

/// Containers whose bytes are not the disk's: taking them for raw would write them onto a machine's disk.
const KNOWN: [(usize, &[u8], Is); 12] = [
    (0, vmdk::MAGIC, Is::Read(Format::Vmdk)),
    (0, b"# Disk DescriptorFile", Is::Read(Format::Vmdk)),
    (0, vhdx::SIGNATURE, Is::Read(Format::Vhdx)),
    (0, vhd::COOKIE, Is::Read(Format::Vhd)),
    (64, &vdi::MAGIC, Is::Read(Format::Vdi)),
    (0, b"COWD", Is::NotRead("VMDK of an ESX snapshot")),
    (0, b"QED\0", Is::NotRead("QED")),
    (0, b"WithoutFreeSpace", Is::NotRead("Parallels")),
    (0, b"WithouFreSpacExt", Is::NotRead("Parallels")),
    (
        0,
        super::partclone::MAGIC,
        Is::NotRead("partclone's image of a partition (`unmoor images import` takes it)"),
    ),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], Is::NotRead("zstd-compressed data")),
    (0, &[0x1f, 0x8b, 0x08], Is::NotRead("gzip-compressed data")),
];

enum Is {
    Read(Format),
    /// Its name.
    NotRead(&'static str),
}

/// The format of `file`. No known magic means raw; a format that is known but not read is refused by name.
pub(super) fn detect(path: &Path, file: &File) -> Result<Format> {
    let head = sector(path, file, 0)?;
    if head.starts_with(&super::qcow2::MAGIC.to_be_bytes()) {
        let version = head.get(4..8).and_then(|raw| raw.try_into().ok()).map_or(0, u32::from_be_bytes);
        if version == 1 {
            return Err(Error::unsupported("opening", "it is a qcow image of version 1").path(path));
        }
        return Ok(Format::Qcow2);
    }
    for (at, magic, is) in KNOWN {
        if head.get(at..at + magic.len()) != Some(magic) {
            continue;
        }
        match is {
            Is::Read(format) => return Ok(format),
            Is::NotRead(name) => {
                let reason =
                    format!("it is {name}, which is not read here; qemu-img convert or unpack it first");
                return Err(Error::unsupported("opening", reason).path(path));
            }
        }
    }
    // Only at its end does a fixed VHD tell what it is.
    let last = super::file::len(file)?.saturating_sub(512);
    Ok(if vhd::is_fixed(&sector(path, file, last)?) { Format::Vhd } else { Format::Raw })
}

/// 512 bytes, the last of which are zeros where the file ends.
fn sector(path: &Path, file: &File, at: u64) -> Result<[u8; 512]> {
    let mut sector = [0; 512];
    let mut have = 0;
    while let Some(room) = sector.get_mut(have..).filter(|room| !room.is_empty()) {
        match file.read_at(room, at + have as u64) {
            Ok(0) => break,
            Ok(read) => have += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("reading a sector of", error).path(path).at(at)),
        }
    }
    Ok(sector)
}
