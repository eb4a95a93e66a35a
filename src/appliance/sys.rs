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
