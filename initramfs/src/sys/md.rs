// SPDX-License-Identifier: Apache-2.0
//! md arrays, <linux/raid/md_u.h>.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const MAJOR: u8 = 9;

mod ioctl {
    use super::MAJOR;
    nix::ioctl_read!(get_array_info, MAJOR, 0x11, super::ArrayInfo);
    nix::ioctl_write_ptr!(add_new_disk, MAJOR, 0x21, super::DiskInfo);
    nix::ioctl_write_ptr!(set_array_info, MAJOR, 0x23, super::ArrayInfo);
    // RUN_ARRAY is declared with mdu_param_t.
    nix::ioctl_write_ptr!(run_array, MAJOR, 0x30, super::Param);
    nix::ioctl_none!(stop_array, MAJOR, 0x32);
}

/// `mdu_array_info_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ArrayInfo {
    major_version: i32,
    minor_version: i32,
    patch_version: i32,
    ctime: u32,
    level: i32,
    size: i32,
    nr_disks: i32,
    pub(crate) raid_disks: i32,
    md_minor: i32,
    not_persistent: i32,
    utime: u32,
    state: i32,
    pub(crate) active_disks: i32,
    working_disks: i32,
    failed_disks: i32,
    spare_disks: i32,
    layout: i32,
    chunk_size: i32,
}

/// `mdu_disk_info_t`.
#[repr(C)]
pub(crate) struct DiskInfo {
    number: i32,
    major: i32,
    minor: i32,
    raid_disk: i32,
    state: i32,
}

/// `mdu_param_t`.
#[repr(C)]
pub(crate) struct Param {
    personality: i32,
    chunk_size: i32,
    max_fault: i32,
}

/// Says that the array's superblocks are of version `major.minor` and state all else (drivers/md/md.c,
/// `md_set_array_info` with `raid_disks` 0).
pub(crate) fn set_version(array: &File, major: i32, minor: i32) -> io::Result<()> {
    let info = ArrayInfo { major_version: major, minor_version: minor, ..ArrayInfo::default() };
    // SAFETY: the descriptor is open, and the kernel reads a `mdu_array_info_t`, which `ArrayInfo` repeats.
    unsafe { ioctl::set_array_info(array.as_raw_fd(), &info) }?;
    Ok(())
}

/// Adds a member by its device number; its superblock says which one it is.
pub(crate) fn add(array: &File, major: u32, minor: u32) -> io::Result<()> {
    let number = |number: u32| i32::try_from(number).map_err(|_| io::Error::from(nix::errno::Errno::EINVAL));
    let disk = DiskInfo { number: 0, major: number(major)?, minor: number(minor)?, raid_disk: 0, state: 0 };
    // SAFETY: the descriptor is open, and the kernel reads a `mdu_disk_info_t`, which `DiskInfo` repeats.
    unsafe { ioctl::add_new_disk(array.as_raw_fd(), &disk) }?;
    Ok(())
}

/// Starts the array.
pub(crate) fn run(array: &File) -> io::Result<()> {
    let param = Param { personality: 0, chunk_size: 0, max_fault: 0 };
    // SAFETY: the descriptor is open, and the kernel reads at most a `mdu_param_t`, which `Param` repeats.
    unsafe { ioctl::run_array(array.as_raw_fd(), &param) }?;
    Ok(())
}

/// State of a running array.
pub(crate) fn info(array: &File) -> io::Result<ArrayInfo> {
    let mut info = ArrayInfo::default();
    // SAFETY: the descriptor is open, and the kernel fills a `mdu_array_info_t`, which `ArrayInfo` repeats.
    unsafe { ioctl::get_array_info(array.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// Stops the array and lets its members go.
pub(crate) fn stop(array: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; there is no argument.
    unsafe { ioctl::stop_array(array.as_raw_fd()) }?;
    Ok(())
}
