// SPDX-License-Identifier: Apache-2.0
//! Mounted filesystems and active swap, from `/proc`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A mounted filesystem that has a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The kernel's number of the filesystem itself: of one device, or anonymous.
    pub(crate) filesystem_number: u64,
    /// Numbers of the devices that hold it: one, or several for btrfs.
    pub(crate) devices: HashSet<u64>,
    pub(crate) at: PathBuf,
    pub(crate) filesystem: String,
    /// Whether the filesystem (not only this view of it) is mounted read-write.
    pub(crate) writable: bool,
}

/// All mounts of this process's mount namespace.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    mounts_of("self")
}

/// All mounts of the mount namespace of a process, by its number, or `self`.
pub(crate) fn mounts_of(process: &str) -> io::Result<Vec<Mount>> {
    let text = fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(parse(&text, &btrfs_groups(), &|path| {
        let metadata = fs::metadata(path).ok()?;
        metadata.file_type().is_block_device().then(|| metadata.rdev())
    }))
}

/// Lines of proc_pid_mountinfo(5): `id parent major:minor root mountpoint options [optional...] - type source superoptions`.
pub(super) fn parse(
    text: &[u8],
    groups: &[HashSet<u64>],
    device_number: &dyn Fn(&Path) -> Option<u64>,
) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(|line| parse_line(line, groups, device_number)).collect()
}

fn parse_line(
    line: &[u8],
    groups: &[HashSet<u64>],
    device_number: &dyn Fn(&Path) -> Option<u64>,
) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let number = std::str::from_utf8(fields.nth(2)?).ok()?;
    let at = unescape(fields.nth(1)?);
    let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
    let filesystem = String::from_utf8_lossy(tail.next()?).into_owned();
    let source = unescape(tail.next()?);
    let options = tail.next()?;
    let (major, minor) = number.split_once(':')?;
    let mut devices = HashSet::new();
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let filesystem_number = libc::makedev(major, minor);
    match (major, minor) {
        // An anonymous number: btrfs and other filesystems of several devices. bcachefs joins its devices by colons.
        (0, _) => {
            let text = source.to_string_lossy();
            devices.extend(text.split(':').filter_map(|part| device_number(Path::new(part))));
        }
        (major, minor) => {
            devices.insert(libc::makedev(major, minor));
        }
    }
    for group in groups {
        if !group.is_disjoint(&devices) {
            devices.extend(group);
        }
    }
    let writable = options.split(|&byte| byte == b',').any(|option| option == b"rw");
    (!devices.is_empty()).then_some(Mount { filesystem_number, devices, at: at.into(), filesystem, writable })
}

/// Undoes the octal escapes (`\040`) of blanks in mount points.
fn unescape(field: &[u8]) -> OsString {
    let mut text = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let octal = field.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        text.push(code.unwrap_or(byte));
        at += if code.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(text)
}

/// The device numbers of each mounted btrfs, which shows only one of its devices as the mount's source.
fn btrfs_groups() -> Vec<HashSet<u64>> {
    let folders = fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    folders
        .map(|folder| {
            let devices = fs::read_dir(folder.path().join("devices")).into_iter().flatten().flatten();
            devices.filter_map(|device| super::related::number_of(&device.path())).collect()
        })
        .filter(|group: &HashSet<u64>| group.len() > 1)
        .collect()
}

/// Devices and files that are in use as swap.
pub(super) fn swaps() -> Vec<PathBuf> {
    let text = fs::read("/proc/swaps").unwrap_or_default();
    let lines = text.split(|&byte| byte == b'\n').skip(1);
    lines
        .filter_map(|line| line.split(|byte| byte.is_ascii_whitespace()).next())
        .filter(|path| !path.is_empty())
        .map(|path| PathBuf::from(unescape(path)))
        .collect()
}
