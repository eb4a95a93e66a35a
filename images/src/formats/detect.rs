// SPDX-License-Identifier: Apache-2.0
//! Telling formats apart by their first bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Format;
use crate::{Error, Result};

/// Containers whose bytes are not the disk's: taking them for raw would write them onto a machine's disk.
const KNOWN: [(usize, &[u8], &str); 11] = [
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK (ESX COW disk)"),
    (0, b"# Disk DescriptorFile", "VMDK (descriptor)"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "zstd-compressed data"),
    (0, &[0x1f, 0x8b, 0x08], "gzip-compressed data"),
];

/// The format of `file`. No known magic means raw; a format that is known but not read is refused by name.
pub(super) fn detect(path: &Path, file: &File) -> Result<Format> {
    let mut head = [0; 512];
    let mut have = 0;
    while let Some(room) = head.get_mut(have..).filter(|room| !room.is_empty()) {
        match file.read_at(room, have as u64) {
            Ok(0) => break,
            Ok(read) => have += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("reading the first sector of", error).path(path)),
        }
    }
    if head.starts_with(&super::qcow2::MAGIC.to_be_bytes()) {
        let version = head.get(4..8).and_then(|raw| raw.try_into().ok()).map_or(0, u32::from_be_bytes);
        if version == 1 {
            return Err(Error::unsupported("opening", "it is a qcow image of version 1").path(path));
        }
        return Ok(Format::Qcow2);
    }
    for (at, magic, name) in KNOWN {
        if head.get(at..at + magic.len()) == Some(magic) {
            let reason = format!("it is {name}, which is not read here; qemu-img convert or unpack it first");
            return Err(Error::unsupported("opening", reason).path(path));
        }
    }
    Ok(Format::Raw)
}
