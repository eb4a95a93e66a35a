// SPDX-License-Identifier: Apache-2.0
//! The disk that is measured on.

use std::path::PathBuf;

use crate::binary::workspace;
use crate::lab;
use crate::run::{Result, as_root, run};

/// A lived-in ext4, built once and kept with the lab's guests.
pub(super) fn lived_in() -> Result<PathBuf> {
    let recipe = include_str!("../../../tests/lab/bench-disk.sh");
    let folder = lab::cached("bench-ext4", &[recipe], |folder| {
        let script = workspace().join("tests/lab/bench-disk.sh");
        run(as_root("bash").arg(script).arg(folder.join("disk.raw")))
    })?;
    Ok(folder.join("disk.raw"))
}
