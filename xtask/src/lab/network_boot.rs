// SPDX-License-Identifier: Apache-2.0
//! Machines that start from the network: the test is pxe-boot's own (`pxe-boot/tests/machines.rs`), with Debian's boot loaders.

use super::rescue_boot::downloaded;
use crate::binary::{cargo, workspace};
use crate::run::{Result, run};

const LOADERS: [&str; 4] = ["ipxe", "shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed"];

/// Runs the cells that are named, or all.
pub(crate) fn check(cells: &[String]) -> Result {
    let packages = downloaded("boot-packages", &LOADERS)?;
    run(cargo()
        .args(["test", "--package", "unmoor-pxe-boot", "--test", "machines", "--"])
        .args(["--ignored", "--nocapture"])
        .env("UNMOOR_BOOT_PACKAGES", packages)
        .env("UNMOOR_CELLS", cells.join(","))
        .current_dir(workspace()))
}
