// SPDX-License-Identifier: Apache-2.0
//! A guest's files as a source of kernel modules.

use unmoor_convert::files::Files;
use unmoor_images::Result;
use unmoor_initramfs::modules::Source;

/// More of one module or index is an error, in bytes.
const MOST: u64 = 256 << 20;

pub(crate) struct Guest<'a>(pub(crate) &'a dyn Files);

impl Source for Guest<'_> {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.0.read(path, MOST)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.0.list(path)
    }
}
