// SPDX-License-Identifier: Apache-2.0
//! A file as a block device.

use crate::run::{Result, as_root, output};
use std::path::{Path, PathBuf};

/// A loop device, detached when dropped.
pub(crate) struct LoopDevice(PathBuf);

impl LoopDevice {
    /// The first free one, for `file`.
    pub(crate) fn attach(file: &Path) -> Result<Self> {
        let device = output(as_root("losetup").args(["--find", "--show"]).arg(file))?;
        Ok(Self(PathBuf::from(device.trim_end())))
    }

    /// Its node under /dev.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = output(as_root("losetup").arg("--detach").arg(&self.0)) {
            println!("    {error}");
        }
    }
}
