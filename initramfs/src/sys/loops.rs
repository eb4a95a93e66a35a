// SPDX-License-Identifier: Apache-2.0
//! Loop devices, <linux/loop.h>.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

mod ioctl {
    nix::ioctl_none_bad!(get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, super::Config);
    nix::ioctl_none_bad!(clear_fd, 0x4C01);
    nix::ioctl_read_bad!(get_status, 0x4C05, super::Info);
}

/// `LO_FLAGS_*`.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// `struct loop_config`.
#[repr(C)]
pub(crate) struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// `struct loop_info64`.
#[repr(C)]
pub(crate) struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Info {
    fn new(offset: u64, size_limit: u64, flags: u32) -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset,
            size_limit,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// The number of a free loop device.
pub(crate) fn free(control: &File) -> io::Result<u32> {
    // SAFETY: the descriptor is open; there is no argument.
    let number = unsafe { ioctl::get_free(control.as_raw_fd()) }?;
    u32::try_from(number).map_err(|_| Errno::EINVAL.into())
}

/// Attaches `len` bytes from `offset` of `backing` to a loop device with sectors of `sector` bytes; it detaches itself when
/// last closed.
pub(crate) fn configure(
    device: &File,
    backing: &File,
    (offset, len): (u64, u64),
    sector: u32,
    read_only: bool,
    direct: bool,
) -> io::Result<()> {
    let mut flags = AUTOCLEAR;
    flags |= if read_only { READ_ONLY } else { 0 };
    flags |= if direct { DIRECT_IO } else { 0 };
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let config = Config { fd, block_size: sector, info: Info::new(offset, len, flags), reserved: [0; 8] };
    // SAFETY: both descriptors are open, and the kernel reads a `struct loop_config`, which `Config` repeats.
    unsafe { ioctl::configure(device.as_raw_fd(), &config) }?;
    Ok(())
}

/// Detaches a loop device; one that is in use detaches itself when last closed.
pub(crate) fn clear(device: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; there is no argument.
    unsafe { ioctl::clear_fd(device.as_raw_fd()) }?;
    Ok(())
}

/// Whether something is attached to a loop device.
pub(crate) fn is_attached(device: &File) -> bool {
    let mut info = Info::new(0, 0, 0);
    // SAFETY: the descriptor is open, and the kernel fills a `struct loop_info64`, which `Info` repeats.
    unsafe { ioctl::get_status(device.as_raw_fd(), &mut info) }.is_ok()
}
