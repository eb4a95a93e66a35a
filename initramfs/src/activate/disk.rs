// SPDX-License-Identifier: Apache-2.0
//! A disk, or a device that was made here, as the analysis reads it; and what the kernel's names for devices are.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Error, ErrorKind, Result, ResultExt};

use crate::sys;

/// How long a device's node may take to appear, and a device to become free.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// An open disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) file: File,
    size: u64,
    sector_size: u32,
    /// The kernel's number, if it is a block device.
    pub(super) number: Option<u64>,
    /// Whatever is done to its node, nothing is written: it stands on a read-only device.
    pub(super) protected: bool,
}

impl Disk {
    /// Opens a block device or an image file; for writing too unless `read_only`.
    ///
    /// # Errors
    ///
    /// `Refused` where it is to be written to and is in use.
    pub(super) fn open(path: &Path, read_only: bool, sector_size: u32) -> Result<Self> {
        let failed = |error| Error::io("opening", error).path(path);
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let device = metadata.file_type().is_block_device();
        if !device && !metadata.is_file() {
            let because = "it is neither a block device nor an image file";
            return Err(Error::new(ErrorKind::Usage, "opening").path(path).because(because));
        }
        if device && !read_only {
            // Open for itself alone, and only for a moment: the kernel lets nobody else claim a part of it meanwhile.
            let exclusive = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path);
            if let Err(error) = exclusive {
                if error.raw_os_error() != Some(libc::EBUSY) {
                    return Err(failed(error));
                }
                let because = "it is in use (mounted, or part of a volume): release it first";
                return Err(Error::refused("opening", because).path(path).source(error));
            }
        }
        let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(failed)?;
        let (size, sector_size) = if device {
            (
                sys::block::size(&file).doing(|| "asking for the device's size")?,
                sys::block::sector_size(&file).doing(|| "asking for the device's sector size")?,
            )
        } else {
            (metadata.len(), if sector_size == 0 { 512 } else { sector_size })
        };
        let number = device.then(|| metadata.rdev());
        Ok(Self { path: path.to_owned(), file, size, sector_size, number, protected: false })
    }
}

impl BlockSource for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| Error::io("reading", error).path(&self.path).at(offset))
    }
}

/// Major and minor number of the block device at `path`.
pub(super) fn device_number(path: &Path) -> Result<(u32, u32)> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io("looking at", error).path(path))?;
    Ok((libc::major(metadata.rdev()), libc::minor(metadata.rdev())))
}

/// The node below /dev of a device with that number, which devtmpfs makes soon after the device.
///
/// # Errors
///
/// `Unsupported` where none comes.
pub(super) fn wait_for_node(major: u32, minor: u32) -> Result<PathBuf> {
    let began = Instant::now();
    loop {
        let found = kernel_name(major, minor).map(|name| Path::new("/dev").join(name));
        if let Some(path) = found.filter(|path| is_device(path, (major, minor))) {
            return Ok(path);
        }
        if began.elapsed() > PATIENCE {
            let because = "no node appeared below /dev; it must be a devtmpfs";
            return Err(Error::unsupported(format!("looking for device {major}:{minor}"), because));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether `path` is the block device of that number.
pub(super) fn is_device(path: &Path, number: (u32, u32)) -> bool {
    let is_it = |found: std::fs::Metadata| {
        found.file_type().is_block_device()
            && (libc::major(found.rdev()), libc::minor(found.rdev())) == number
    };
    std::fs::metadata(path).is_ok_and(is_it)
}

/// What the kernel calls a device: "sda1", "dm-0".
fn kernel_name(major: u32, minor: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(str::to_owned)
}

/// Asks modprobe for a module that the kernel does not ask for by itself. Whether it is there now shows in what follows.
pub(super) fn want_module(name: &str) {
    if !Path::new("/sys/module").join(name).exists() {
        let _ = std::process::Command::new("/sbin/modprobe")
            .args(["-q", name])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
    }
}
