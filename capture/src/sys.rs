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

/// Freezing filesystems (FIFREEZE and FITHAW of `<linux/fs.h>`), and what must go on while they are.
pub(crate) mod freeze {
    use super::*;

    mod ioctl {
        nix::ioctl_readwrite!(fifreeze, b'X', 119, libc::c_int);
        nix::ioctl_readwrite!(fithaw, b'X', 120, libc::c_int);
    }

    /// Writes all that the filesystem holds back, and keeps writers waiting from then on.
    pub(crate) fn freeze(file: &File) -> io::Result<()> {
        let mut ignored = 0;
        // SAFETY: the descriptor is open; the kernel ignores the argument.
        unsafe { ioctl::fifreeze(file.as_raw_fd(), &mut ignored) }?;
        Ok(())
    }

    /// Lets writers go on. `EINVAL` if it is not frozen.
    pub(crate) fn thaw(file: &File) -> io::Result<()> {
        thaw_descriptor(file.as_raw_fd())
    }

    pub(crate) fn thaw_descriptor(descriptor: i32) -> io::Result<()> {
        let mut ignored = 0;
        // SAFETY: the kernel ignores the argument; a descriptor that is not open is an error.
        unsafe { ioctl::fithaw(descriptor, &mut ignored) }?;
        Ok(())
    }

    /// Writes all that the filesystem of `file` holds back.
    pub(crate) fn sync(file: &File) -> io::Result<()> {
        // SAFETY: the descriptor is open.
        match unsafe { libc::syncfs(file.as_raw_fd()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Holds all memory of this process in RAM, now and later; true if the kernel lets it.
    pub(crate) fn lock_memory() -> bool {
        // SAFETY: changes no memory, only whether it may leave RAM.
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) == 0 }
    }

    /// The opposite.
    pub(crate) fn unlock_memory() {
        // SAFETY: as above.
        unsafe { libc::munlockall() };
    }

    /// Nanoseconds of the clock that no one sets (CLOCK_MONOTONIC).
    pub(crate) fn now() -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec to `time`.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
    }
}
