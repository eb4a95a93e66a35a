// SPDX-License-Identifier: Apache-2.0
//! The rescue environment that unmoor fits guests with, made by itself from Debian's packages.

use crate::lab;
use crate::lab::debian::Packages;
use crate::run::{Failure, Result, While, output};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernel, and boot loaders for guests that change their firmware. Of the newest release that a guest has, so that its kernel
/// mounts every guest's file systems and its GRUB reads them.
const PACKAGES: Packages = Packages {
    name: "rescue",
    suite: "trixie",
    names: &[
        "linux-image-amd64",
        "grub-pc-bin",
        "grub-efi-amd64-bin",
        "grub-efi-amd64-signed",
        "shim-signed",
        "shim-helpers-amd64-signed",
        "systemd-boot-efi",
    ],
};

/// What machines load before the rescue environment when they start from the network.
const NETWORK: Packages = Packages {
    name: "network",
    suite: "trixie",
    names: &["ipxe", "shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed"],
};

/// The folder with packages of boot loaders for the network.
pub(crate) fn network_loaders() -> Result<PathBuf> {
    NETWORK.folder()
}

/// The directory for `unmoor convert --rescue`, made where this very `unmoor` has not made it yet.
pub(crate) fn built(unmoor: &Path) -> Result<PathBuf> {
    of_profile(unmoor, "appliance")
}

/// The same for machines that start from the network.
pub(crate) fn for_network(unmoor: &Path) -> Result<PathBuf> {
    of_profile(unmoor, "small")
}

fn of_profile(unmoor: &Path, profile: &str) -> Result<PathBuf> {
    let packages = PACKAGES.folder()?;
    let program = fs::read(unmoor).while_doing(format_args!("reading {}", unmoor.display()))?;
    let (packages_path, hash) = (packages.to_string_lossy(), blake3::hash(&program).to_hex());
    let mut recipe = vec![packages_path.as_ref(), hash.as_str()];
    if profile != "appliance" {
        recipe.push(profile);
    }
    lab::cached("rescue", &recipe, |directory| {
        let payload = directory.join("payload");
        fs::create_dir(&payload).while_doing("creating the payload's directory")?;
        let mut kernel = None;
        for entry in fs::read_dir(&packages).while_doing(format_args!("reading {}", packages.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with("linux-image-") {
                kernel = Some(path);
            } else {
                fs::hard_link(&path, payload.join(name))
                    .while_doing(format_args!("linking {}", path.display()))?;
            }
        }
        let kernel = kernel.ok_or_else(|| Failure::new("no kernel was downloaded"))?;
        let build = ["rescue", "build", "--profile", profile, "--out"];
        let mut command = Command::new(unmoor);
        command.args(build).arg(directory).arg("--kernel").arg(kernel);
        if profile != "appliance" {
            // Nobody is beside it who could hand them in.
            command.arg("--payload").arg(&payload);
        }
        output(&mut command).map(drop)
    })
}
