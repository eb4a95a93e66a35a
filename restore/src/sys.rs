// SPDX-License-Identifier: Apache-2.0
//! The kernel's calls on disks, loop devices and mounted filesystems: the only place of this crate with `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;

mod ioctl {
    // <linux/fs.h>. BLKGETSIZE64 is declared with size_t and fills 64 bits; the others carry no size by history.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    // <linux/loop.h>
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, super::LoopConfig);
    nix::ioctl_none_bad!(loop_clr_fd, 0x4C01);
    // <linux/ext4.h> EXT4_IOC_RESIZE_FS, xfs_fs.h XFS_IOC_FSGROWFSDATA, <linux/btrfs.h> BTRFS_IOC_RESIZE.
    nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);
    nix::ioctl_write_ptr!(xfs_grow, b'X', 110, super::XfsGrow);
    nix::ioctl_write_ptr!(btrfs_resize, 0x94, 3, super::BtrfsResize);
}

/// `struct xfs_growfs_data`.
#[repr(C)]
pub(crate) struct XfsGrow {
    new_blocks: u64,
    inode_max_percent: u32,
    _pad: u32,
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
pub(crate) struct BtrfsResize {
    fd: i64,
    name: [u8; 4088],
}

/// `struct loop_info64` and `struct loop_config` of <linux/loop.h>.
#[repr(C)]
pub(crate) struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

#[repr(C)]
struct LoopInfo {
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

/// Size of a block device in bytes.
pub(crate) fn device_size(device: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the descriptor is open, and the kernel writes 8 bytes to `size`.
    unsafe { ioctl::blkgetsize64(device.as_raw_fd(), &mut size) }?;
    Ok(size)
}

/// Logical sector of a block device in bytes.
pub(crate) fn logical_sector_size(device: &File) -> io::Result<u32> {
    let mut size = 0;
    // SAFETY: the descriptor is open, and the kernel writes an int to `size`.
    unsafe { ioctl::blksszget(device.as_raw_fd(), &mut size) }?;
    u32::try_from(size).map_err(|_| Errno::EINVAL.into())
}

/// Makes a range of a device read as zeros; the kernel unmaps or writes as the device can.
pub(crate) fn zero_out(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads two 64-bit numbers.
    unsafe { ioctl::blkzeroout(device.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// Tells a device that a range holds nothing. What it reads as afterwards is up to the device.
pub(crate) fn discard(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads two 64-bit numbers.
    unsafe { ioctl::blkdiscard(device.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// Has the kernel read the partition table again.
pub(crate) fn reread_partitions(device: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; there is no argument.
    unsafe { ioctl::blkrrpart(device.as_raw_fd()) }?;
    Ok(())
}

/// The number of a free loop device.
pub(crate) fn free_loop(control: &File) -> io::Result<u32> {
    // SAFETY: the descriptor is open; there is no argument.
    let number = unsafe { ioctl::loop_ctl_get_free(control.as_raw_fd()) }?;
    u32::try_from(number).map_err(|_| Errno::EINVAL.into())
}

/// Attaches `len` bytes from `offset` of `backing` to a loop device; it detaches itself when last closed.
pub(crate) fn configure_loop(
    device: &File,
    backing: RawFd,
    offset: u64,
    len: u64,
    sector: u32,
) -> io::Result<()> {
    const AUTOCLEAR: u32 = 4;
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset,
        size_limit: len,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: AUTOCLEAR,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(backing).map_err(|_| Errno::EBADF)?;
    let config = LoopConfig { fd, block_size: sector, info, reserved: [0; 8] };
    // SAFETY: both descriptors are open, and the kernel reads a `struct loop_config`, which `LoopConfig` repeats.
    unsafe { ioctl::loop_configure(device.as_raw_fd(), &config) }?;
    Ok(())
}

/// Detaches a loop device.
pub(crate) fn clear_loop(device: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; there is no argument.
    unsafe { ioctl::loop_clr_fd(device.as_raw_fd()) }?;
    Ok(())
}

/// Grows a mounted ext4 to `blocks` of its blocks.
pub(crate) fn grow_ext4(mount: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads one 64-bit number.
    unsafe { ioctl::ext4_resize(mount.as_raw_fd(), &blocks) }?;
    Ok(())
}

/// Grows a mounted XFS to `blocks` of its blocks.
pub(crate) fn grow_xfs(mount: &File, blocks: u64, inode_max_percent: u32) -> io::Result<()> {
    let request = XfsGrow { new_blocks: blocks, inode_max_percent, _pad: 0 };
    // SAFETY: the descriptor is open, and the kernel reads a `struct xfs_growfs_data`, which `XfsGrow` repeats.
    unsafe { ioctl::xfs_grow(mount.as_raw_fd(), &request) }?;
    Ok(())
}

/// Grows a mounted single-device btrfs to fill its device.
pub(crate) fn grow_btrfs(mount: &File) -> io::Result<()> {
    let mut request = BtrfsResize { fd: 0, name: [0; 4088] };
    for (to, from) in request.name.iter_mut().zip(b"1:max") {
        *to = *from;
    }
    // SAFETY: the descriptor is open, and the kernel reads a `struct btrfs_ioctl_vol_args`, which `BtrfsResize` repeats.
    unsafe { ioctl::btrfs_resize(mount.as_raw_fd(), &request) }?;
    Ok(())
}
