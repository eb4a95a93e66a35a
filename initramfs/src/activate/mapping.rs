// SPDX-License-Identifier: Apache-2.0
//! A device of device-mapper.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result, ResultExt};
use zeroize::Zeroizing;

use super::disk::{wait_for_node, want_module};
use super::held::while_busy;
use crate::sys;

const CONTROL: &str = "/dev/mapper/control";

/// A line of a device's table.
#[derive(Clone)]
pub struct MappingLine {
    /// Its length in bytes; lines follow each other without gaps.
    pub len: u64,
    /// "linear", "striped", "crypt".
    pub kind: &'static str,
    /// As `dmsetup` takes them; those of crypt hold the key.
    pub parameters: Zeroizing<String>,
}

impl MappingLine {
    /// `len` bytes that lie on `places` (device number, first byte): on one of them in a row, or in chunks of `chunk` bytes on
    /// several in turn.
    pub fn stripes(len: u64, chunk: u64, places: &[((u32, u32), u64)]) -> Self {
        let place =
            |&((major, minor), start): &((u32, u32), u64)| format!("{major}:{minor} {}", start / SECTOR);
        let all = places.iter().map(place).collect::<Vec<_>>().join(" ");
        if places.len() == 1 {
            return Self { len, kind: "linear", parameters: all.into() };
        }
        let parameters = format!("{} {} {all}", places.len(), chunk / SECTOR);
        Self { len, kind: "striped", parameters: parameters.into() }
    }
}

/// Device-mapper counts in these on every disk.
pub(super) const SECTOR: u64 = 512;

fn control() -> Result<File> {
    want_module("dm_mod");
    let open = || OpenOptions::new().read(true).write(true).open(CONTROL);
    let control = open().map_err(|error| {
        Error::unsupported(format!("opening {CONTROL}"), "this kernel has no device-mapper").source(error)
    })?;
    sys::dm::check_version(&control).doing(|| "asking for device-mapper's version")?;
    Ok(control)
}

/// Why nothing can be mapped on this machine, if so.
pub fn mapper_obstacle() -> Option<String> {
    control().err().map(|error| error.chain())
}

/// A mapped device; it is removed when dropped.
#[derive(Debug)]
pub struct Mapping {
    control: File,
    name: String,
    path: PathBuf,
    removed: bool,
}

impl Mapping {
    /// Makes a device with a table.
    ///
    /// # Errors
    ///
    /// `Unsupported` where the kernel has no device-mapper; `Refused` where there is a device of that name or UUID already;
    /// `Io` where the kernel takes no such table.
    pub fn create(name: &str, uuid: &str, lines: &[MappingLine], read_only: bool) -> Result<Self> {
        let control = control()?;
        let doing = || format!("making the device {name}");
        let (major, minor) = sys::dm::create(&control, name, uuid).map_err(|error| {
            if error.raw_os_error() == Some(libc::EBUSY) {
                let because = "a device of that name or UUID is active on this machine: deactivate it first";
                return Error::refused(doing(), because).source(error);
            }
            Error::io(doing(), error)
        })?;
        // From here on it is removed again where something fails.
        let mut this = Self { control, name: name.to_owned(), path: PathBuf::new(), removed: false };
        let mut start = 0;
        let targets: Vec<_> = lines
            .iter()
            .map(|line| {
                let len = line.len / SECTOR;
                let target = sys::dm::Target { start, len, kind: line.kind, parameters: &line.parameters };
                start += len;
                target
            })
            .collect();
        let kinds: Vec<_> = lines.iter().map(|line| line.kind).collect();
        sys::dm::load(&this.control, name, &targets, read_only)
            .doing(|| format!("loading a table with {} into {name}", kinds.join(", ")))?;
        sys::dm::resume(&this.control, name, read_only).doing(doing)?;
        this.path = wait_for_node(major, minor)?;
        Ok(this)
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// `Io` where it stays in use.
    pub fn close(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        while_busy(|| sys::dm::remove(&self.control, &self.name))
            .doing(|| format!("removing the device {}", self.name))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}
