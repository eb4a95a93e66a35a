// SPDX-License-Identifier: Apache-2.0
//! The kernel's block-device calls: the only place of this crate with `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

mod ioctl {
    // <linux/fs.h>: BLKGETSIZE64 is _IOR(0x12, 114, size_t) and fills 64 bits; the other two are _IO by mistake, kept for
    // compatibility, and fill an int.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_read_bad!(blkpbszget, nix::request_code_none!(0x12, 123), libc::c_uint);
}

/// Size of the block device in bytes (BLKGETSIZE64).
pub(crate) fn device_size(device: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the descriptor is open, and the kernel writes 8 bytes to `size`.
    unsafe { ioctl::blkgetsize64(device.as_raw_fd(), &mut size) }?;
    Ok(size)
}

/// Logical sector size in bytes (BLKSSZGET): the unit of addressing.
pub(crate) fn logical_sector_size(device: &File) -> io::Result<u32> {
    let mut size = 0;
    // SAFETY: the descriptor is open, and the kernel writes an int to `size`.
    unsafe { ioctl::blksszget(device.as_raw_fd(), &mut size) }?;
    u32::try_from(size).map_err(|_| Errno::EINVAL.into())
}

/// Physical sector size in bytes (BLKPBSZGET): the unit of the medium.
pub(crate) fn physical_sector_size(device: &File) -> io::Result<u32> {
    let mut size = 0;
    // SAFETY: the descriptor is open, and the kernel writes an unsigned int to `size`.
    unsafe { ioctl::blkpbszget(device.as_raw_fd(), &mut size) }?;
    Ok(size)
}
