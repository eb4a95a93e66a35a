// SPDX-License-Identifier: Apache-2.0
//! Questions to a block device.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

mod ioctl {
    // <linux/fs.h>. BLKGETSIZE64 is declared with size_t and fills 64 bits; BLKSSZGET carries no size by history.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
}

/// Size of a block device in bytes.
pub(crate) fn size(device: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the descriptor is open, and the kernel writes 8 bytes to `size`.
    unsafe { ioctl::blkgetsize64(device.as_raw_fd(), &mut size) }?;
    Ok(size)
}

/// Logical sector of a block device in bytes.
pub(crate) fn sector_size(device: &File) -> io::Result<u32> {
    let mut size = 0;
    // SAFETY: the descriptor is open, and the kernel writes an int to `size`.
    unsafe { ioctl::blksszget(device.as_raw_fd(), &mut size) }?;
    u32::try_from(size).map_err(|_| Errno::EINVAL.into())
}
