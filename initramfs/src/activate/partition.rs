// SPDX-License-Identifier: Apache-2.0
//! The kernel's own nodes for partitions.

use std::path::{Path, PathBuf};

use super::disk::is_device;

/// sysfs counts in these on every disk.
const SECTOR: u64 = 512;

/// The kernel's node for the partition of device `number` that has that place, in bytes.
pub(super) fn kernel_node(number: u64, offset: u64, len: u64) -> Option<PathBuf> {
    let disk = format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
    for entry in std::fs::read_dir(disk).ok()?.flatten() {
        let read = |file: &str| -> Option<u64> {
            std::fs::read_to_string(entry.path().join(file)).ok()?.trim().parse().ok()
        };
        if !entry.path().join("partition").exists()
            || read("start") != Some(offset / SECTOR)
            || read("size") != Some(len / SECTOR)
        {
            continue;
        }
        let numbers = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = numbers.trim().split_once(':')?;
        let path = Path::new("/dev").join(entry.file_name());
        return is_device(&path, (major.parse().ok()?, minor.parse().ok()?)).then_some(path);
    }
    None
}
