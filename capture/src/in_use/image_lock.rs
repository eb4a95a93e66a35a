// SPDX-License-Identifier: Apache-2.0
//! QEMU's image locks: open-file-description locks on single bytes (QEMU: docs/system/images.rst, "Image locking").
//!
//! Byte 100 + n is locked by who uses permission n, byte 200 + n by who does not share it; permission 1 is writing.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};

const USES_WRITE: libc::off_t = 101;
const SHARES_NO_WRITE: libc::off_t = 201;

fn byte(kind: libc::c_int, at: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// True if somebody has declared to QEMU's rules that they write to this image.
pub(super) fn is_open_for_writing(image: &File) -> bool {
    let mut lock = byte(libc::F_WRLCK, USES_WRITE);
    // A filesystem without locks has nobody who holds one.
    fcntl(image, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && libc::c_int::from(lock.l_type) != libc::F_UNLCK
}

/// Declares that writers are not welcome while `image` stays open: QEMU then fails to open it read-write.
pub(super) fn keep_writers_out(image: &File) -> bool {
    fcntl(image, FcntlArg::F_OFD_SETLK(&byte(libc::F_RDLCK, SHARES_NO_WRITE))).is_ok()
}
