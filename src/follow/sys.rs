// SPDX-License-Identifier: Apache-2.0
//! ioprio_set(2), which has no wrapper.

use nix::libc;

/// Has this thread, and those that it starts, use disks only while nobody else does. For schedulers that know classes (BFQ); others ignore it.
pub(super) fn be_idle() {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: three numbers; 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
}
