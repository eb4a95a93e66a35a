// SPDX-License-Identifier: Apache-2.0
//! The guests: real Debian machines, installed, aged and booted once.

use crate::lab::appliance::Job;
use crate::lab::debian::{BOOKWORM, TRIXIE, Tree};
use crate::lab::qemu::{Bus, Chipset, Disk, Firmware, Machine, Writes};
use crate::lab::{self, appliance, listing, proof, read_text};
use crate::run::{Result, While};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

const INSTALL: &str = include_str!("../../../tests/lab/install.sh");
const AGE: &str = include_str!("../../../tests/lab/age.sh");
const PROOF: &str = include_str!("../../../tests/lab/proof.sh");
const PROOF_UNIT: &str = include_str!("../../../tests/lab/proof.service");

/// A kind of guest: how it is made, and what it says of itself when it is well.
pub(crate) struct Guest {
    /// Its name in the lab.
    pub(crate) name: &'static str,
    /// What it is, in one line.
    pub(crate) about: &'static str,
    tree: &'static Tree,
    recipe: &'static str,
    /// The size of its disk, in bytes.
    pub(crate) size: u64,
    /// The hardware that it was installed for.
    pub(crate) chipset: Chipset,
    pub(crate) firmware: Firmware,
    pub(crate) bus: Bus,
    pub(crate) nic: &'static str,
    /// What its proof of boot must say.
    pub(crate) hostname: &'static str,
    /// Mount points and file system types.
    pub(crate) mounts: &'static [(&'static str, &'static str)],
    /// The number of active swap areas.
    pub(crate) swaps: u64,
}

const GIB: u64 = 1 << 30;

/// All guests.
pub(crate) const GUESTS: &[Guest] = &[
    Guest {
        name: "bookworm",
        about: "Debian 12, BIOS, MBR with a logical partition, ext4, swap",
        tree: &BOOKWORM,
        recipe: include_str!("../../../tests/lab/guest-bookworm.sh"),
        size: 4 * GIB,
        chipset: Chipset::Pc,
        firmware: Firmware::Bios,
        bus: Bus::Ahci,
        nic: "e1000",
        hostname: "web01",
        mounts: &[("/", "ext4")],
        swaps: 1,
    },
    Guest {
        name: "trixie",
        about: "Debian 13, UEFI, GPT with ESP, /boot, LVM with ext4, XFS and swap",
        tree: &TRIXIE,
        recipe: include_str!("../../../tests/lab/guest-trixie.sh"),
        size: 6 * GIB,
        chipset: Chipset::Q35,
        firmware: Firmware::Uefi,
        bus: Bus::Nvme,
        nic: "e1000e",
        hostname: "db01",
        mounts: &[("/", "ext4"), ("/boot", "ext4"), ("/boot/efi", "vfat"), ("/srv", "xfs")],
        swaps: 1,
    },
    Guest {
        name: "btrfs",
        about: "Debian 12, BIOS, GPT with a BIOS boot partition, compressed btrfs with subvolumes",
        tree: &BOOKWORM,
        recipe: include_str!("../../../tests/lab/guest-btrfs.sh"),
        size: 4 * GIB,
        chipset: Chipset::Q35,
        firmware: Firmware::Bios,
        bus: Bus::Ahci,
        nic: "e1000e",
        hostname: "files01",
        mounts: &[("/", "btrfs"), ("/home", "btrfs")],
        swaps: 0,
    },
];

/// A guest that is there: its disk, and what is known of it. None of its files is ever changed.
pub(crate) struct Built {
    /// The disk, raw.
    pub(crate) disk: PathBuf,
    /// The guest's name.
    pub(crate) name: &'static str,
}

impl Built {
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
        // A guest made by another appliance, or listed otherwise, is another guest.
        let appliance = appliance::built()?;
        let tree = self.tree.archive()?;
        let hardware =
            format!("{} {:?} {:?} {:?} {}", self.size, self.chipset, self.firmware, self.bus, self.nic);
        let inputs = [appliance.to_string_lossy(), tree.to_string_lossy()];
        let mut recipe: Vec<&str> =
            inputs.iter().map(|path| path.rsplit('/').next().unwrap_or_default()).collect();
        recipe.extend([appliance::PRELUDE, INSTALL, AGE, PROOF, PROOF_UNIT, self.recipe, &hardware]);
        let directory = lab::cached(&format!("guest-{}", self.name), &recipe, |directory| {
            let disk = directory.join("disk.raw");
            let file = File::create(&disk).while_doing(format_args!("creating {}", disk.display()))?;
            file.set_len(self.size).while_doing(format_args!("sizing {}", disk.display()))?;
            self.install(&disk, &tree)?;
            // The first boot makes what every machine makes once: identity, keys, journal.
            proof::boot(&self.machine(&disk, Writes::Kept))?.check(self)?;
            fs::write(directory.join("listing.txt"), listing::list(&disk)?)
                .while_doing("writing listing.txt")?;
            let mut permissions = file.metadata()?.permissions();
            permissions.set_readonly(true);
            fs::set_permissions(&disk, permissions).while_doing("making the disk read-only")
        })?;
        Ok(Built { disk: directory.join("disk.raw"), name: self.name })
    }

    fn install(&self, disk: &Path, tree: &Path) -> Result {
        let script = format!("{INSTALL}\n{}", self.recipe);
        let files = vec![("age.sh", AGE), ("proof.sh", PROOF), ("proof.service", PROOF_UNIT)];
        let disks = vec![Disk::new(disk, "target", Writes::Kept), Disk::new(tree, "rootfs", Writes::Dropped)];
        let limit = Duration::from_secs(1800);
        Job { script, files, disks, limit }.run(&format!("install-{}", self.name)).map(drop)
    }

    /// The machine that the guest was installed for, with `disk` in it.
    pub(crate) fn machine(&self, disk: &Path, writes: Writes) -> Machine {
        let mut machine =
            Machine::new(self.chipset, self.firmware, self.bus, vec![Disk::new(disk, "SYSTEM0", writes)]);
        machine.nic = Some(self.nic.to_owned());
        machine
    }
}
