// SPDX-License-Identifier: Apache-2.0
//! PID 1's children.

use nix::sys::signal::{SIGCHLD, SigHandler, signal};

/// The kernel reaps children by itself from here on (sigaction(2), POSIX.1-2001: SIG_IGN for SIGCHLD).
pub(crate) fn ignore_children() -> nix::Result<()> {
    // SAFETY: SIG_IGN is no function that could run at a bad time.
    unsafe { signal(SIGCHLD, SigHandler::SigIgn) }.map(drop)
}
