// SPDX-License-Identifier: Apache-2.0
//! System calls that `nix` lacks: extended attributes of what a path names, links not followed, and inode flags.

pub(crate) mod flags;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

#[allow(missing_docs)]
mod ioctls {
    // include/uapi/linux/fs.h: FS_IOC_GETFLAGS and FS_IOC_SETFLAGS; their type says long, the kernel copies an int.
    nix::ioctl_read!(get_flags, b'f', 1, libc::c_long);
    nix::ioctl_write_ptr!(set_flags, b'f', 2, libc::c_long);
}

/// Bytes of one attribute, and of all their names (include/uapi/linux/limits.h: XATTR_SIZE_MAX, XATTR_LIST_MAX).
const MOST: usize = 65536;

/// Inode flags of an open file, as `lsattr` shows them; `None` where the filesystem has none.
pub(crate) fn flags(file: &impl AsFd) -> io::Result<Option<u32>> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes an int to the place that it is given, which has room for a long.
    match unsafe { ioctls::get_flags(file.as_fd().as_raw_fd(), &raw mut flags) } {
        Ok(_) => Ok(Some((flags & 0xffff_ffff) as u32)),
        Err(nix::errno::Errno::ENOTTY | nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EINVAL) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Sets the inode flags of an open file.
pub(crate) fn set_flags(file: &impl AsFd, flags: u32) -> io::Result<()> {
    let flags = libc::c_long::from(flags);
    // SAFETY: the kernel reads an int from a place that holds a long.
    unsafe { ioctls::set_flags(file.as_fd().as_raw_fd(), &raw const flags) }?;
    Ok(())
}

/// Extended attributes of what `path` names (a link itself): name and value. None where the filesystem has no such thing.
pub(crate) fn attributes(path: &CStr) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0_u8; MOST];
    // SAFETY: the path is a C string, and the buffer has the length that is told.
    let len = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(len) = usize::try_from(len) else {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(Vec::new()),
            _ => Err(error),
        };
    };
    names.truncate(len);
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let c_name = CString::new(name)?;
        let mut value = vec![0_u8; MOST];
        // SAFETY: path and name are C strings, and the buffer has the length that is told.
        let len = unsafe {
            libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        value.truncate(len);
        let name = String::from_utf8(name.to_vec()).map_err(io::Error::other)?;
        all.push((name, value));
    }
    Ok(all)
}

/// Sets an extended attribute of what `path` names (of a link itself).
pub(crate) fn set_attribute(path: &CStr, name: &str, value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: path and name are C strings, and the value has the length that is told.
    let done =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes an extended attribute of what `path` names (of a link itself).
pub(crate) fn remove_attribute(path: &CStr, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: path and name are C strings.
    if unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
