// SPDX-License-Identifier: Apache-2.0
//! Cells with a guest whose disk was changed before: those that unmoor must refuse without writing anything, and those with
//! each compression of an initramfs, which must boot.

use crate::lab::appliance::Job;
use crate::lab::boot;
use crate::lab::fit::Tools;
use crate::lab::guest::Built;
use crate::lab::hardware::{Bus, Chipset, Firmware, Hardware};
use crate::lab::qemu::{Disk, Writes};
use crate::lab::{Scratch, fit};
use crate::run::{Failure, Result, While, output};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BULLSEYE: &str = include_str!("../../../tests/lab/change-bullseye.sh");
const SDBOOT: &str = include_str!("../../../tests/lab/change-sdboot.sh");
const COMPRESSION: &str = include_str!("../../../tests/lab/change-compression.sh");

/// Exit status of a refusal: nothing was written.
const REFUSED: i32 = 3;

/// A guest that cannot be fitted.
pub(crate) struct Refusal {
    pub(crate) name: &'static str,
    /// Its guest's name.
    pub(crate) guest: &'static str,
    /// What makes the guest so.
    script: &'static str,
    profile: &'static str,
    /// What the refusal must say, whatever else it says.
    says: &'static [&'static str],
}

pub(crate) const REFUSALS: &[Refusal] = &[
    Refusal {
        name: "no-driver",
        guest: "bullseye",
        script: include_str!("../../../tests/lab/change-no-driver.sh"),
        profile: "qemu:megasas+e1000",
        // The PCI vendor of the controller, and the kernel.
        says: &["1000", "5.10.0"],
    },
    Refusal {
        name: "boot-full",
        guest: "bullseye",
        script: include_str!("../../../tests/lab/change-boot-full.sh"),
        profile: "qemu:pvscsi+vmxnet3",
        says: &["/boot"],
    },
    Refusal {
        name: "no-initramfs",
        guest: "bullseye",
        script: include_str!("../../../tests/lab/change-no-initramfs.sh"),
        profile: "qemu:pvscsi+vmxnet3",
        says: &["initr"],
    },
    Refusal {
        name: "corrupt-initramfs",
        guest: "bullseye",
        script: include_str!("../../../tests/lab/change-corrupt-initramfs.sh"),
        profile: "qemu:pvscsi+vmxnet3",
        says: &["/boot/initrd.img-5.10.0"],
    },
    Refusal {
        name: "unknown-loader",
        guest: "bullseye",
        script: include_str!("../../../tests/lab/change-unknown-loader.sh"),
        profile: "qemu:pvscsi+vmxnet3",
        says: &["boot loader"],
    },
    Refusal {
        name: "signed-uki",
        guest: "sdboot",
        script: include_str!("../../../tests/lab/change-signed-uki.sh"),
        profile: "qemu:nvme+vmxnet3",
        says: &["signed"],
    },
];

impl Refusal {
    /// Runs the cell.
    pub(crate) fn run(&self, guest: &Built, tools: &Tools) -> Result {
        let scratch = Scratch::new(self.name)?;
        let disk = changed(guest, self.script, scratch.path())?;
        let before = (hash(&disk)?, files(scratch.path())?);
        let (status, said) = tools.convert(&disk, self.profile, &[])?;
        if status.code() != Some(REFUSED) {
            return Err(Failure::new(format!("it is not refused: {status}: {}", said.trim())));
        }
        println!("    {}: {}", self.name, said.trim());
        for words in self.says {
            if !said.contains(words) {
                return Err(Failure::new(format!("the refusal does not say {words:?}: {}", said.trim())));
            }
        }
        if (hash(&disk)?, files(scratch.path())?) != before {
            return Err(Failure::new("something was written though it was refused"));
        }
        Ok(())
    }
}

/// The ways to compress an initramfs.
pub(crate) const COMPRESSIONS: &[&str] = &["none", "gzip", "xz", "zstd", "lz4"];

/// The guest whose initramfs is compressed in each of them, and the machine it then is fitted to.
pub(crate) const COMPRESSED_GUEST: &str = "bullseye";
const COMPRESSED_TARGET: Hardware = Hardware {
    chipset: Chipset::Q35,
    firmware: Firmware::Bios,
    bus: Bus::Virtio,
    nic: "virtio-net-pci",
    mac: fit::NEW_MAC,
    slot: 6,
};

/// Fits a guest with an initramfs so compressed, and boots it.
pub(crate) fn compression(kind: &str, guest: &Built, tools: &Tools) -> Result {
    let scratch = Scratch::new(&format!("compression-{kind}"))?;
    let disk = changed(guest, &format!("KIND={kind}\n{COMPRESSION}"), scratch.path())?;
    fit::succeeded(tools.convert(&disk, &COMPRESSED_TARGET.profile(), &[])?)?;
    let proof = boot::boot(&COMPRESSED_TARGET.machine(&disk, Writes::Dropped))?;
    proof.check_like(&guest.proof()?, &COMPRESSED_TARGET, false)
}

/// A copy of the guest's disk in `directory`, changed by a script in the appliance.
fn changed(guest: &Built, script: &str, directory: &Path) -> Result<PathBuf> {
    let disk = directory.join("disk.raw");
    let copy = ["--sparse=always", "--reflink=auto", "--no-preserve=mode"];
    output(Command::new("cp").args(copy).arg(&guest.disk).arg(&disk))?;
    let mount = if guest.name == "sdboot" { SDBOOT } else { BULLSEYE };
    let disks = vec![Disk::new(&disk, "target", Writes::Kept)];
    let limit = Duration::from_secs(1200);
    Job { script: format!("{mount}{script}"), files: Vec::new(), disks, limit }.run("change")?;
    Ok(disk)
}

fn hash(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).while_doing(format_args!("opening {}", path.display()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).while_doing(format_args!("hashing {}", path.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The names and sizes of the files in a directory.
fn files(directory: &Path) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).while_doing(format_args!("reading {}", directory.display()))? {
        let entry = entry?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()));
    }
    found.sort();
    Ok(found)
}
