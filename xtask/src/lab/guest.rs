// SPDX-License-Identifier: Apache-2.0
//! The guests: real Debian machines, installed, aged and booted once.

use crate::lab::appliance::Job;
use crate::lab::boot;
use crate::lab::debian::{Packages, Tree};
use crate::lab::hardware::Hardware;
use crate::lab::proof::Proof;
use crate::lab::qemu::{Disk, Machine, Writes};
use crate::lab::{self, appliance, listing, read_text};
use crate::run::{Result, While};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

const INSTALL: &str = include_str!("../../../tests/lab/install.sh");
const AGE: &str = include_str!("../../../tests/lab/age.sh");
const PROOF: &str = include_str!("../../../tests/lab/proof.sh");
const FIT: &str = include_str!("../../../tests/lab/fit.sh");
const TOLD: &str = include_str!("../../../tests/lab/told.sh");
const PROOF_UNIT: &str = include_str!("../../../tests/lab/proof.service");

/// What a guest is for, which decides what is put into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// To be captured and restored: its file systems are aged, and `proof.sh` is installed in it.
    Restore,
    /// To be fitted to other hardware: it runs what the host passes when it has booted, `report.sh`.
    Fit,
}

/// A kind of guest: how it is made, and what it says of itself when it is well.
pub(crate) struct Guest {
    /// Its name in the lab.
    pub(crate) name: &'static str,
    /// What it is, in one line.
    pub(crate) about: &'static str,
    pub(crate) tree: &'static Tree,
    pub(crate) recipe: &'static str,
    /// Files of packages that it keeps.
    pub(crate) packages: Option<&'static Packages>,
    /// The size of its disk, in bytes.
    pub(crate) size: u64,
    /// The hardware that it was installed for.
    pub(crate) hardware: Hardware,
    /// What it is for.
    pub(crate) purpose: Purpose,
    /// What its proof of boot must say.
    pub(crate) hostname: &'static str,
    /// Mount points and file system types.
    pub(crate) mounts: &'static [(&'static str, &'static str)],
    /// The number of active swap areas.
    pub(crate) swaps: u64,
}

/// A guest that is there: its disk, and what is known of it. None of its files is ever changed.
pub(crate) struct Built {
    /// The disk, raw.
    pub(crate) disk: PathBuf,
    /// The guest's name.
    pub(crate) name: &'static str,
}

impl Built {
    /// What the guest said of itself on its own hardware. Only guests of [`Purpose::Fit`] have kept it.
    pub(crate) fn proof(&self) -> Result<Proof> {
        let path = self.disk.with_file_name("proof.json");
        Proof::read(&read_text(&path)?).while_doing(format_args!("reading {}", path.display()))
    }

    /// The disk's [listing], made where it is not cached.
    pub(crate) fn listing(&self) -> Result<String> {
        let guest = self.disk.to_string_lossy();
        let directory =
            lab::cached(&format!("listing-{}", self.name), &[&guest, listing::SCRIPT], |directory| {
                fs::write(directory.join("listing.txt"), listing::list(&self.disk)?)
                    .while_doing("writing listing.txt")
            })?;
        read_text(&directory.join("listing.txt"))
    }
}

impl Guest {
    /// Builds the guest where it is not cached.
    pub(crate) fn build(&self) -> Result<Built> {
        let appliance = appliance::built()?;
        let tree = self.tree.archive()?;
        let packages = self.packages.map(Packages::archive).transpose()?;
        let hardware = self.hardware.recipe(self.size);
        // A guest made from another tree or by another appliance is another guest.
        let inputs = [&appliance, &tree].map(|path| path.to_string_lossy());
        let mut recipe: Vec<&str> = inputs.iter().map(AsRef::as_ref).collect();
        recipe.extend([appliance::PRELUDE, INSTALL]);
        match self.purpose {
            Purpose::Restore => recipe.extend([AGE, PROOF]),
            Purpose::Fit => recipe.extend([FIT, TOLD]),
        }
        recipe.extend([PROOF_UNIT, self.recipe, &hardware]);
        let packages_path = packages.as_ref().map(|path| path.to_string_lossy());
        recipe.extend(packages_path.as_deref());
        let directory = lab::cached(&format!("guest-{}", self.name), &recipe, |directory| {
            let disk = directory.join("disk.raw");
            let file = File::create(&disk).while_doing(format_args!("creating {}", disk.display()))?;
            file.set_len(self.size).while_doing(format_args!("sizing {}", disk.display()))?;
            self.install(&disk, &tree, packages.as_deref())?;
            // The first boot makes what every machine makes once: identity, keys, journal.
            let proof = boot::boot(&self.machine(&disk, Writes::Kept))?;
            proof.check(self)?;
            fs::write(directory.join("proof.json"), proof.line()).while_doing("writing proof.json")?;
            let mut permissions = file.metadata()?.permissions();
            permissions.set_readonly(true);
            fs::set_permissions(&disk, permissions).while_doing("making the disk read-only")
        })?;
        Ok(Built { disk: directory.join("disk.raw"), name: self.name })
    }

    fn install(&self, disk: &Path, tree: &Path, packages: Option<&Path>) -> Result {
        let (script, files) = match self.purpose {
            Purpose::Restore => {
                (format!("{INSTALL}\n{}", self.recipe), vec![("age.sh", AGE), ("proof.sh", PROOF)])
            }
            Purpose::Fit => (format!("{INSTALL}\n{FIT}\n{}", self.recipe), vec![("proof.sh", TOLD)]),
        };
        let files = files.into_iter().chain([("proof.service", PROOF_UNIT)]).collect();
        let mut disks =
            vec![Disk::new(disk, "target", Writes::Kept), Disk::new(tree, "rootfs", Writes::Dropped)];
        disks.extend(packages.map(|tar| Disk::new(tar, "packages", Writes::Dropped)));
        let limit = Duration::from_secs(1800);
        Job { script, files, disks, limit }.run(&format!("install-{}", self.name)).map(drop)
    }

    /// The machine that the guest was installed for, with `disk` in it.
    pub(crate) fn machine(&self, disk: &Path, writes: Writes) -> Machine {
        self.hardware.machine(disk, writes)
    }
}
