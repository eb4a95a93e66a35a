// SPDX-License-Identifier: Apache-2.0
//! What is asked of the kernel: the only place of this crate with `unsafe`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use unmoor_images::{Result, ResultExt};

/// Has the kernel end the process when the thread that starts it ends, however it ends.
pub(super) fn end_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe functions may run: prctl is one system call.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
}

/// A folder that nobody but this user can look into; removed when dropped.
pub(crate) fn private_folder() -> Result<tempfile::TempDir> {
    // mkdtemp(3) makes it with mode 0700.
    tempfile::Builder::new().prefix("unmoor-").tempdir().doing(|| "making a temporary folder")
}

mod ioctl {
    // <linux/fs.h> FICLONE.
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// Makes `to` share all blocks of `from`, where the filesystem can.
pub(crate) fn clone_file(from: &std::fs::File, to: &std::fs::File) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: both descriptors are open; the argument is a number.
    unsafe { ioctl::ficlone(to.as_raw_fd(), from.as_raw_fd() as nix::sys::ioctl::ioctl_param_type) }?;
    Ok(())
}

/// Lets this process have as many files open as it may set for itself (getrlimit(2)): where somebody starts it by hand that is often 1,024,
/// and each connection takes one.
pub(crate) fn raise_open_files() -> std::io::Result<()> {
    use nix::libc;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is this function's own and of the type that the calls name.
    let outcome = unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) {
            0 => {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
            }
            failed => failed,
        }
    };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
