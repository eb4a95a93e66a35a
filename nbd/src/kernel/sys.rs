// SPDX-License-Identifier: Apache-2.0
//! The calls of <linux/nbd.h>.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{Ioctl, c_ulong};

const SET_SOCKET: Ioctl = 0xAB00;
const SET_BLOCK_SIZE: Ioctl = 0xAB01;
const DO_IT: Ioctl = 0xAB03;
const CLEAR_SOCKET: Ioctl = 0xAB04;
const SET_SIZE_BLOCKS: Ioctl = 0xAB07;
const DISCONNECT: Ioctl = 0xAB08;
const SET_FLAGS: Ioctl = 0xAB0A;

/// The argument is an `unsigned long`, which nix's macros for integers would cut to an `int`: 1 TiB of sectors.
fn call(device: &File, request: Ioctl, argument: u64) -> io::Result<()> {
    let argument = c_ulong::try_from(argument).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // SAFETY: all of these requests take an integer, and `device` is open.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), request, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the device its server, the size of its logical sectors, how many of those it has, and what the server can do.
///
/// `EBUSY` where it has a server already.
pub(super) fn attach(
    device: &File,
    socket: BorrowedFd<'_>,
    (sector, sectors): (u32, u64),
    flags: u16,
) -> io::Result<()> {
    call(device, SET_SOCKET, socket.as_raw_fd() as u64)?;
    call(device, SET_BLOCK_SIZE, sector.into())?;
    call(device, SET_SIZE_BLOCKS, sectors)?;
    call(device, SET_FLAGS, flags.into())
}

/// Is the device's receiving thread until the device is disconnected.
pub(super) fn run(device: &File) -> io::Result<()> {
    call(device, DO_IT, 0)
}

/// Ends what [`run`] does; what was asked before is answered.
pub(super) fn disconnect(device: &File) -> io::Result<()> {
    call(device, DISCONNECT, 0)
}

/// Takes the server from the device.
pub(super) fn clear(device: &File) -> io::Result<()> {
    call(device, CLEAR_SOCKET, 0)
}
