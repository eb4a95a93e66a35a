// SPDX-License-Identifier: Apache-2.0
//! The flag that forbids every change of a file (`chattr +i`).

use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;

const IMMUTABLE: libc::c_int = 0x10;

mod ioctl {
    // FS_IOC_GETFLAGS and FS_IOC_SETFLAGS are numbered for a long and pass an int.
    nix::ioctl_read!(get_flags, b'f', 1, libc::c_long);
    nix::ioctl_write_ptr!(set_flags, b'f', 2, libc::c_long);
}

fn get(file: &File) -> Result<libc::c_long, Error> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes an int to the long that is given, which lives until the call returns.
    unsafe { ioctl::get_flags(file.as_raw_fd(), &raw mut flags) }?;
    Ok(flags)
}

fn set(file: &File, flags: libc::c_long) -> Result<(), Error> {
    // SAFETY: the kernel reads an int from the long that is given.
    unsafe { ioctl::set_flags(file.as_raw_fd(), &raw const flags) }?;
    Ok(())
}

/// Clears it; whether it was set. A filesystem without flags has none set.
pub(crate) fn clear_immutable(file: &File) -> Result<bool, Error> {
    match get(file) {
        Ok(flags) if flags & libc::c_long::from(IMMUTABLE) != 0 => {
            set(file, flags & !libc::c_long::from(IMMUTABLE))?;
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Sets it.
pub(crate) fn set_immutable(file: &File) -> Result<(), Error> {
    set(file, get(file)? | libc::c_long::from(IMMUTABLE))
}
