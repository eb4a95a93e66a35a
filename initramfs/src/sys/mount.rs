// SPDX-License-Identifier: Apache-2.0
//! Mounting by file descriptors: fsopen(2), fsconfig(2), fsmount(2), move_mount(2); Linux 5.2.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

// <linux/mount.h>
const CLOEXEC: libc::c_uint = 1;
const SET_FLAG: libc::c_uint = 0;
const SET_STRING: libc::c_uint = 1;
const CREATE: libc::c_uint = 6;
const ATTR_RDONLY: libc::c_uint = 0x1;
const ATTR_NOSUID: libc::c_uint = 0x2;
const ATTR_NODEV: libc::c_uint = 0x4;
const ATTR_NOEXEC: libc::c_uint = 0x8;
const ATTR_NOATIME: libc::c_uint = 0x10;
const MOVE_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_T_EMPTY_PATH: libc::c_uint = 0x40;

/// A system call's answer that is a new file descriptor.
fn descriptor(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(answer)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn text(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL.into())
}

/// Begins to mount a filesystem of type `kind`.
pub(crate) fn open(kind: &str) -> io::Result<OwnedFd> {
    let kind = text(kind)?;
    // SAFETY: `kind` is a string that ends with NUL and lives through the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) })
}

fn config(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the descriptor is open; key and value are null or strings that end with NUL and live through the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(key), pointer(value), 0)
    };
    Errno::result(answer)?;
    Ok(())
}

/// Sets an option that has a value.
pub(crate) fn set(context: &OwnedFd, key: &str, value: &str) -> io::Result<()> {
    config(context, SET_STRING, Some(&text(key)?), Some(&text(value)?))
}

/// Sets an option without a value.
pub(crate) fn set_flag(context: &OwnedFd, key: &str) -> io::Result<()> {
    config(context, SET_FLAG, Some(&text(key)?), None)
}

/// Reads the superblock and makes a mount that hangs nowhere yet: nosuid, nodev, noexec, noatime.
pub(crate) fn create(context: &OwnedFd, read_only: bool) -> io::Result<OwnedFd> {
    config(context, CREATE, None, None)?;
    let attributes =
        ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | ATTR_NOATIME | if read_only { ATTR_RDONLY } else { 0 };
    // SAFETY: the descriptor is open; the other arguments are numbers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, attributes) })
}

/// Hangs a mount onto an open directory.
pub(crate) fn attach(mount: &OwnedFd, directory: &OwnedFd) -> io::Result<()> {
    let flags = MOVE_F_EMPTY_PATH | MOVE_T_EMPTY_PATH;
    let (from, to) = (mount.as_raw_fd(), directory.as_raw_fd());
    // SAFETY: both descriptors are open, and both paths are empty strings.
    let answer = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) };
    Errno::result(answer)?;
    Ok(())
}

/// What the filesystem said of the last failure, where it says something (fsopen(2): messages begin with "e " for errors).
pub(crate) fn messages(context: &OwnedFd) -> Option<String> {
    let mut file = std::fs::File::from(context.as_fd().try_clone_to_owned().ok()?);
    let mut said = Vec::new();
    // Each read answers one message; ENODATA ends them.
    for _ in 0..16 {
        let mut message = [0; 1024];
        match file.read(&mut message) {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                let message = String::from_utf8_lossy(message.get(..len).unwrap_or(&[])).into_owned();
                let message = message.trim().trim_start_matches(|c| "ewi".contains(c)).trim().to_owned();
                said.extend((!message.is_empty()).then_some(message));
            }
        }
    }
    (!said.is_empty()).then(|| said.join("; "))
}

mod ioctl {
    // BTRFS_IOC_FORGET_DEV, <linux/btrfs.h>.
    nix::ioctl_write_ptr!(btrfs_forget, 0x94, 5, super::BtrfsArgs);
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
pub(crate) struct BtrfsArgs {
    fd: i64,
    name: [u8; 4088],
}

/// Has the kernel forget that a device, which is no longer mounted, belongs to a btrfs.
pub(crate) fn forget_btrfs(control: &std::fs::File, device: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let mut request = BtrfsArgs { fd: 0, name: [0; 4088] };
    // One byte stays zero: the name ends with it.
    for (to, from) in request.name.iter_mut().take(4087).zip(device.as_os_str().as_bytes()) {
        *to = *from;
    }
    // SAFETY: the descriptor is open, and the kernel reads a `struct btrfs_ioctl_vol_args`, which `BtrfsArgs` repeats.
    unsafe { ioctl::btrfs_forget(control.as_raw_fd(), &request) }?;
    Ok(())
}
