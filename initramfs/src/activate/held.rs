// SPDX-License-Identifier: Apache-2.0
//! What was set up, and taking it down again in reverse order.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use unmoor_images::{Error, Result, ResultExt};

use super::array::Array;
use super::disk::{PATIENCE, PAUSE, want_module};
use super::mapping::Mapping;
use crate::sys;

/// Calls until the device is no longer in use, or patience ends. What was closed a moment ago (a mount, udev's own look at
/// a new device) is often busy a little longer.
pub(super) fn while_busy(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && began.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// A loop device over a part of a file or device; it is detached when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    device: File,
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches `len` bytes from `offset` of `backing`, with logical sectors of `sector` bytes.
    ///
    /// # Errors
    ///
    /// `Unsupported` where the kernel has no loop devices; `Io`.
    pub fn attach(backing: &File, offset: u64, len: u64, sector: u32, read_only: bool) -> Result<Self> {
        want_module("loop");
        let control = File::open("/dev/loop-control").map_err(|error| {
            Error::unsupported("opening /dev/loop-control", "this kernel has no loop devices").source(error)
        })?;
        // Another process may take the free one between the question and the call.
        for _ in 0..64 {
            let number = sys::loops::free(&control).doing(|| "asking for a free loop device")?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let opened = OpenOptions::new().read(true).write(!read_only).open(&path);
            let device = match opened {
                Ok(device) => device,
                // A new one's node takes a moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(Error::io("opening", error).path(&path)),
            };
            let attach =
                |direct| sys::loops::configure(&device, backing, (offset, len), sector, read_only, direct);
            // Past the page cache of the backing device, where its alignment allows.
            let attached = attach(true).or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => attach(false),
                _ => Err(error),
            });
            match attached {
                Ok(()) => return Ok(Self { device, path }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(Error::io("attaching", error).path(&path)),
            }
        }
        Err(Error::refused("attaching a loop device", "others keep taking the free one"))
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Detaches it.
    ///
    /// # Errors
    ///
    /// `Io` where it stays in use: it will detach itself when the last user is gone.
    pub fn close(self) -> Result<()> {
        self.detach()
    }

    fn detach(&self) -> Result<()> {
        let detach = || {
            // Detaching one that is in use only marks it; in use are mounts and device-mapper above it.
            match sys::loops::clear(&self.device) {
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
                other => other,
            }
        };
        while_busy(detach).map_err(|error| Error::io("detaching", error).path(&self.path))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if sys::loops::is_attached(&self.device) {
            let _ = sys::loops::clear(&self.device);
        }
    }
}

/// One thing that was set up.
#[derive(Debug)]
pub(super) enum Held {
    Loop(LoopDevice),
    Mapping(Mapping),
    Array(Array),
}

/// What was set up, in order.
#[derive(Debug, Default)]
pub(super) struct Stack(Vec<Held>);

impl Stack {
    pub(super) fn push(&mut self, held: Held) {
        self.0.push(held);
    }

    /// Takes everything down, the newest first; answers the first failure.
    pub(super) fn close(&mut self) -> Result<()> {
        let mut first = Ok(());
        while let Some(held) = self.0.pop() {
            let closed = match held {
                Held::Loop(device) => device.close(),
                Held::Mapping(mapping) => mapping.close(),
                Held::Array(array) => array.close(),
            };
            first = first.and(closed);
        }
        first
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // An error has been met before, and is what is reported.
        let _ = self.close();
    }
}
