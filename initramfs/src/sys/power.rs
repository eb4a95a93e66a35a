// SPDX-License-Identifier: Apache-2.0
//! The machine's end: off, again, or another kernel (reboot(2), kexec_file_load(2)).

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::reboot::{RebootMode, reboot};
use unmoor_images::{Error, Result};

/// Switches the machine off. Returns only where that fails.
pub(crate) fn power_off() -> Error {
    end(RebootMode::RB_POWER_OFF, "powering off")
}

/// Restarts the machine through its firmware. Returns only where that fails.
pub(crate) fn restart() -> Error {
    end(RebootMode::RB_AUTOBOOT, "rebooting")
}

/// Starts the kernel that [`load_kernel`] has loaded. Returns only where that fails.
pub(crate) fn start_loaded_kernel() -> Error {
    end(RebootMode::RB_KEXEC, "starting the loaded kernel")
}

fn end(mode: RebootMode, doing: &'static str) -> Error {
    match reboot(mode) {
        Err(error) => Error::io(doing, error.into()),
        Ok(never) => match never {},
    }
}

/// Loads a kernel to be started without firmware.
///
/// # Errors
///
/// `Io`: EPERM under lockdown for an unsigned kernel, ENOEXEC for a file that is no kernel.
pub(crate) fn load_kernel(kernel: &Path, initramfs: &Path, command_line: &str) -> Result<()> {
    let open = |path: &Path| File::open(path).map_err(|error| Error::io("opening", error).path(path));
    let (kernel_file, initramfs_file) = (open(kernel)?, open(initramfs)?);
    let line = CString::new(command_line)
        .map_err(|_| Error::malformed("loading a kernel", "its command line has a zero byte in it"))?;
    let length = line.as_bytes_with_nul().len();
    // SAFETY: the system call reads two descriptors that are open, and `length` bytes at the pointer, which `line` holds.
    let done = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel_file.as_raw_fd(),
            initramfs_file.as_raw_fd(),
            length,
            line.as_ptr(),
            0_u64,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Error::io("loading a kernel", std::io::Error::last_os_error()).path(kernel))
    }
}
