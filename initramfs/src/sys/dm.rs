// SPDX-License-Identifier: Apache-2.0
//! Device-mapper, <linux/dm-ioctl.h>.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

mod ioctl {
    use super::{DEV_CREATE, DEV_REMOVE, DEV_SUSPEND, HEADER, TABLE_LOAD, VERSION};
    // _IOWR(0xfd, nr, struct dm_ioctl): the buffer is longer than the struct, and says so.
    nix::ioctl_readwrite_bad!(version, nix::request_code_readwrite!(0xfd, VERSION, HEADER), u8);
    nix::ioctl_readwrite_bad!(create, nix::request_code_readwrite!(0xfd, DEV_CREATE, HEADER), u8);
    nix::ioctl_readwrite_bad!(remove, nix::request_code_readwrite!(0xfd, DEV_REMOVE, HEADER), u8);
    nix::ioctl_readwrite_bad!(suspend, nix::request_code_readwrite!(0xfd, DEV_SUSPEND, HEADER), u8);
    nix::ioctl_readwrite_bad!(load, nix::request_code_readwrite!(0xfd, TABLE_LOAD, HEADER), u8);
}

const VERSION: u8 = 0;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;

/// Bytes of `struct dm_ioctl`, and of `struct dm_target_spec`.
const HEADER: usize = 312;
const SPEC: usize = 40;

// Places in `struct dm_ioctl`.
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEV: usize = 40;
const NAME: usize = 48;
const UUID: usize = 176;
const NAME_LEN: usize = 128;
const UUID_LEN: usize = 129;

const READONLY: u32 = 1;
/// The kernel wipes its copies of the buffer: a crypt target's parameters hold the key.
const SECURE_DATA: u32 = 1 << 15;

/// One line of a table. Lengths are sectors of 512 bytes.
pub(crate) struct Target<'a> {
    /// First sector of the mapped device.
    pub(crate) start: u64,
    /// How many sectors.
    pub(crate) len: u64,
    /// "linear", "striped", "crypt".
    pub(crate) kind: &'a str,
    /// As `dmsetup` takes them.
    pub(crate) parameters: &'a str,
}

/// A request's buffer, wiped when dropped.
struct Request(Vec<u8>);

impl Drop for Request {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl Request {
    /// For the device of that name.
    fn new(name: &str, flags: u32) -> io::Result<Self> {
        let mut request = Self(vec![0; HEADER]);
        // Interface 4.0.0.
        request.put(0, &4u32.to_ne_bytes());
        request.put(DATA_START, &(HEADER as u32).to_ne_bytes());
        request.put(FLAGS, &flags.to_ne_bytes());
        request.text(NAME, name, NAME_LEN)?;
        Ok(request)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn text(&mut self, at: usize, text: &str, room: usize) -> io::Result<()> {
        if text.len() >= room || text.contains('\0') {
            return Err(Errno::ENAMETOOLONG.into());
        }
        self.put(at, text.as_bytes());
        Ok(())
    }

    /// The buffer with its length set; the kernel may write to all of it.
    fn ready(&mut self) -> *mut u8 {
        let len = self.0.len() as u32;
        self.put(DATA_SIZE, &len.to_ne_bytes());
        self.0.as_mut_ptr()
    }

    /// Major and minor number, as the kernel answered (`huge_encode_dev`).
    fn device(&self) -> (u32, u32) {
        let mut raw = [0; 8];
        raw.copy_from_slice(self.0.get(DEV..DEV + 8).unwrap_or(&[0; 8]));
        let dev = u64::from_ne_bytes(raw);
        (((dev >> 8) & 0xfff) as u32, ((dev & 0xff) | ((dev >> 12) & 0xf_ff00)) as u32)
    }
}

/// Whether the kernel speaks interface 4.
pub(crate) fn check_version(control: &File) -> io::Result<()> {
    let mut request = Request::new("", 0)?;
    // SAFETY: the descriptor is open, and the buffer is as long as it says.
    unsafe { ioctl::version(control.as_raw_fd(), request.ready()) }?;
    Ok(())
}

/// Makes a device without a table; answers its major and minor number.
pub(crate) fn create(control: &File, name: &str, uuid: &str) -> io::Result<(u32, u32)> {
    let mut request = Request::new(name, 0)?;
    request.text(UUID, uuid, UUID_LEN)?;
    // SAFETY: the descriptor is open, and the buffer is as long as it says.
    unsafe { ioctl::create(control.as_raw_fd(), request.ready()) }?;
    Ok(request.device())
}

/// Loads a device's table, which [`resume`] makes the active one.
pub(crate) fn load(control: &File, name: &str, targets: &[Target<'_>], read_only: bool) -> io::Result<()> {
    let mut request = Request::new(name, SECURE_DATA | if read_only { READONLY } else { 0 })?;
    request.put(TARGET_COUNT, &(targets.len() as u32).to_ne_bytes());
    // All at once: a buffer that grows leaves copies of keys behind.
    let room: usize = targets.iter().map(|target| SPEC + target.parameters.len() + 8).sum();
    let mut whole = Request(Vec::with_capacity(HEADER + room));
    whole.0.extend_from_slice(&request.0);
    for target in targets {
        // Each spec says how far it is to the next one, which is aligned to 8 bytes.
        let next = (SPEC + target.parameters.len() + 1).next_multiple_of(8);
        whole.0.extend(target.start.to_ne_bytes());
        whole.0.extend(target.len.to_ne_bytes());
        whole.0.extend(0u32.to_ne_bytes());
        whole.0.extend((next as u32).to_ne_bytes());
        let mut kind = [0; 16];
        for (to, from) in kind.iter_mut().take(15).zip(target.kind.bytes()) {
            *to = from;
        }
        whole.0.extend(kind);
        whole.0.extend(target.parameters.bytes());
        whole.0.extend(std::iter::repeat_n(0, next - SPEC - target.parameters.len()));
    }
    // SAFETY: the descriptor is open, and the buffer is as long as it says.
    unsafe { ioctl::load(control.as_raw_fd(), whole.ready()) }?;
    Ok(())
}

/// Makes the loaded table active.
pub(crate) fn resume(control: &File, name: &str, read_only: bool) -> io::Result<()> {
    let mut request = Request::new(name, if read_only { READONLY } else { 0 })?;
    // SAFETY: the descriptor is open, and the buffer is as long as it says.
    unsafe { ioctl::suspend(control.as_raw_fd(), request.ready()) }?;
    Ok(())
}

/// Removes a device that nobody has open.
pub(crate) fn remove(control: &File, name: &str) -> io::Result<()> {
    let mut request = Request::new(name, 0)?;
    // SAFETY: the descriptor is open, and the buffer is as long as it says.
    unsafe { ioctl::remove(control.as_raw_fd(), request.ready()) }?;
    Ok(())
}
