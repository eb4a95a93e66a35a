// SPDX-License-Identifier: Apache-2.0
//! Encrypted volumes, activated without cryptsetup and LVM by a distribution's kernel (`tests/lab/activate.sh`).

use crate::binary::{cargo, workspace};
use crate::lab::Scratch;
use crate::lab::appliance::Job;
use crate::lab::qemu::{Disk, Writes};
use crate::run::{Failure, Result, While, run};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const SCRIPT: &str = include_str!("../../../tests/lab/activate.sh");

/// What the job must have said, in this order.
const SAID: [&str; 17] = [
    "== without a key",
    "it is encrypted, and there is no key for it",
    "== with a wrong key",
    "none of the keys opens it",
    "== reading",
    "name=luks-in-lvm",
    "nothing was written",
    "== writing",
    "written=",
    "finished",
    "left: No devices found",
    "/dev/vg/root is clean",
    "/dev/vg/root: lvm-in-luks, vg/root",
    "/dev/mapper/two is clean",
    "/dev/mapper/two: large-sectors, disk",
    "/dev/mapper/three is clean",
    "/dev/mapper/three: luks-in-lvm, disk",
];

/// The program that the crate's tests use, static: the appliance has another distribution's libraries.
fn program() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let root = workspace();
    run(cargo()
        .args([
            "build",
            "--release",
            "--package",
            "unmoor-initramfs",
            "--example",
            "activate",
            "--target",
            TARGET,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(root))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("release/examples/activate"))
}

/// Makes the volumes in the appliance, activates them there, and checks what was said.
pub(crate) fn test() -> Result {
    let scratch = Scratch::new("activate")?;
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).while_doing("making a directory")?;
    std::fs::copy(program()?, tree.join("activate")).while_doing("copying the program")?;
    let sized = |name: &str, mib: u64| -> Result<PathBuf> {
        let path = scratch.path().join(name);
        let file = std::fs::File::create(&path).while_doing(format_args!("creating {}", path.display()))?;
        file.set_len(mib << 20).while_doing("setting a disk's size")?;
        Ok(path)
    };
    let tools = sized("tools.raw", 64)?;
    run(Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&tools))?;
    let target = sized("target.raw", 710)?;
    let disks = vec![Disk::new(&tools, "tools", Writes::Dropped), Disk::new(&target, "target", Writes::Kept)];
    let limit = Duration::from_secs(900);
    let said = Job { script: SCRIPT.to_owned(), files: Vec::new(), disks, limit }.run("activate")?;
    let mut rest = said.as_str();
    for wanted in SAID {
        let Some((_, behind)) = rest.split_once(wanted) else {
            return Err(Failure::new(format!("{wanted:?} is missing, or stands too early, in:\n{said}")));
        };
        rest = behind;
    }
    Ok(())
}
