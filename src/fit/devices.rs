// SPDX-License-Identifier: Apache-2.0
//! Disks that lie in no file as block devices of this host: this process serves them to its own kernel, and keeps what is written.

use std::path::PathBuf;
use std::sync::Arc;

use unmoor_images::{BlockSource, ErrorKind, Monitor, Result};
use unmoor_initramfs::init;
use unmoor_nbd::kernel::{Device, Written, is_available};

use super::Fitter;

/// What fitting writes is an initramfs or a few, boot loaders and small files, and a journal that is replayed: some hundred MiB.
const MOST: u64 = 1 << 30;

/// A disk, and what was written over it.
pub(super) type Disk = Written<Box<dyn BlockSource>>;

/// Disks while the kernel has them.
pub(super) struct Devices {
    devices: Vec<Device>,
    disks: Vec<Arc<Disk>>,
}

/// Attaches the fitter's disks; none where this kernel cannot, which is told.
pub(super) fn attach(fitter: &Fitter, monitor: &dyn Monitor) -> Result<Option<Devices>> {
    fitter.check_direct()?;
    if !is_available() && init::is_init() {
        init::load_modules(&["nbd"]);
    }
    let mut all = Devices { devices: Vec::new(), disks: Vec::new() };
    for (source, target) in fitter.sources()?.into_iter().zip(&fitter.targets) {
        let disk = Arc::new(Written::new(source, MOST));
        match Device::attach(disk.clone(), target.sector_size) {
            Ok(device) => all.devices.push(device),
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Refused) => {
                monitor.note(format!("making a working copy of the image: {}", error.chain()));
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        all.disks.push(disk);
    }
    Ok(Some(all))
}

impl Devices {
    /// Their nodes.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.devices.iter().map(|device| device.path().to_owned()).collect()
    }

    /// Takes them from the kernel; what it has written is in the disks.
    pub(super) fn close(self, monitor: &dyn Monitor) -> Result<Vec<Arc<Disk>>> {
        self.devices.into_iter().try_for_each(|device| device.close(monitor))?;
        Ok(self.disks)
    }
}
