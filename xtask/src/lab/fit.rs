// SPDX-License-Identifier: Apache-2.0
//! Cells that fit a guest to hardware that it has never seen: captured, converted, booted there, booted again while it
//! upgrades itself, and booted once more. What it says is compared with what it said on its old hardware.

use crate::lab::boot;
use crate::lab::guest::Built;
use crate::lab::hardware::{Bus, Chipset, Firmware, Hardware};
use crate::lab::loop_device::LoopDevice;
use crate::lab::proof::Proof;
use crate::lab::qemu::{Machine, Writes};
use crate::lab::{Scratch, old_content};
use crate::run::{Failure, Result, While, as_root, output};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The address of the adapter in the new machine, which only cell b is told.
pub(crate) const NEW_MAC: Option<&str> = Some("52:54:00:0d:0d:02");

/// How the guest gets to its new machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// The image is converted, and is the new machine's disk.
    Convert,
    /// The image is restored to another disk and fitted in the same step.
    Restore,
}

/// One cell.
pub(crate) struct Fit {
    /// Its letter in the matrix.
    pub(crate) name: &'static str,
    /// Its guest's name.
    pub(crate) guest: &'static str,
    pub(crate) target: Hardware,
    pub(crate) way: Way,
    /// What the command gets beside the profile.
    pub(crate) arguments: &'static [&'static str],
}

/// The matrix. In each row the disk's driver, the adapter's driver and the adapter's name by slot are others than before.
/// OVMF cannot boot from megasas and pvscsi, so that these are BIOS cells.
pub(crate) const FITS: &[Fit] = &[
    Fit {
        name: "a",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Bios, Bus::Virtio, "virtio-net-pci"),
        way: Way::Convert,
        arguments: &[],
    },
    Fit {
        name: "b",
        guest: "dracut",
        target: target(Chipset::Q35, Firmware::Uefi, Bus::VirtioScsi, "virtio-net-pci"),
        way: Way::Convert,
        arguments: &["--nic", "enp0s3=52:54:00:0d:0d:02"],
    },
    Fit {
        name: "c",
        guest: "virtio",
        target: target(Chipset::Q35, Firmware::Uefi, Bus::Nvme, "e1000e"),
        way: Way::Restore,
        arguments: &["--firmware", "uefi"],
    },
    Fit {
        name: "d",
        guest: "uefi",
        target: target(Chipset::Q35, Firmware::Bios, Bus::Ahci, "e1000"),
        way: Way::Convert,
        arguments: &["--firmware", "bios"],
    },
    Fit {
        name: "e",
        guest: "sdboot",
        target: target(Chipset::Q35, Firmware::Uefi, Bus::Nvme, "vmxnet3"),
        way: Way::Convert,
        arguments: &[],
    },
    Fit {
        name: "e2",
        guest: "virtio",
        target: target(Chipset::Pc, Firmware::Bios, Bus::Megasas, "vmxnet3"),
        way: Way::Convert,
        arguments: &[],
    },
    Fit {
        name: "f",
        guest: "bullseye",
        target: target(Chipset::Pc, Firmware::Bios, Bus::Pvscsi, "vmxnet3"),
        way: Way::Convert,
        arguments: &[],
    },
    Fit {
        name: "g",
        guest: "dracut",
        target: target(Chipset::Q35, Firmware::SecureBoot, Bus::Virtio, "virtio-net-pci"),
        way: Way::Convert,
        arguments: &[],
    },
];

const fn target(chipset: Chipset, firmware: Firmware, bus: Bus, nic: &'static str) -> Hardware {
    Hardware { chipset, firmware, bus, nic, mac: NEW_MAC, slot: 6 }
}

/// What is tested.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) unmoor: PathBuf,
    /// A rescue environment that it is to use; else it looks for one itself.
    pub(crate) rescue: Option<PathBuf>,
}

impl Tools {
    /// `unmoor SUBCOMMAND PATHS --profile ... --yes`, with what the hardware needs.
    pub(crate) fn fitting(&self, command: &str, paths: &[&Path], profile: &str, more: &[&str]) -> Command {
        // As root where there is a device to write to.
        let mut fitting = if command == "restore" { as_root("env") } else { Command::new("env") };
        fitting.arg(&self.unmoor).arg(command).args(paths).args(["--profile", profile]).args(more);
        if let Some(rescue) = &self.rescue {
            fitting.arg("--rescue").arg(rescue);
        }
        fitting
    }
}

impl Fit {
    /// A line for a person.
    pub(crate) fn title(&self) -> String {
        let Hardware { firmware, .. } = self.target;
        format!("{}: {} to {} with {firmware:?}", self.name, self.guest, self.target.profile())
    }

    /// Runs the cell.
    pub(crate) fn run(&self, guest: &Built, tools: &Tools) -> Result {
        let before = guest.proof()?;
        let scratch = Scratch::new(&format!("fit-{}", self.name))?;
        let disk = self.fitted(guest, tools, scratch.path())?;
        let machine = self.target.machine(&disk, Writes::Kept);
        let check = |what: &str, boot: &dyn Fn(&Machine) -> Result<Proof>| {
            let proof = boot(&machine).while_doing(what)?;
            println!("    {}: {what}: {:.0} s", self.name, proof.seconds);
            proof.check_like(&before, &self.target).while_doing(what)
        };
        check("the first boot", &boot::boot)?;
        check("the second boot, which upgrades", &boot::boot_and_upgrade)?;
        check("the boot after the upgrade", &boot::boot)
    }

    /// The disk of the new machine, in `directory`.
    fn fitted(&self, guest: &Built, tools: &Tools, directory: &Path) -> Result<PathBuf> {
        let image = directory.join("image.qcow2");
        output(Command::new(&tools.unmoor).arg("capture").arg(&guest.disk).arg(&image))?;
        let profile = self.target.profile();
        match self.way {
            Way::Convert => {
                output(&mut tools.fitting("convert", &[&image], &profile, self.arguments))?;
                output(Command::new("qemu-img").args(["check", "-q"]).arg(&image))?;
                output(Command::new(&tools.unmoor).arg("verify").arg(&image))
                    .while_doing("verifying the image after its conversion")?;
                Ok(image)
            }
            Way::Restore => {
                let restored = directory.join("restored.raw");
                let size = guest.disk.metadata().while_doing("reading the guest's size")?.len();
                old_content::fill(&restored, size)?;
                let device = LoopDevice::attach(&restored)?;
                let mut arguments = vec!["--yes"];
                arguments.extend(self.arguments);
                output(&mut tools.fitting("restore", &[&image, device.path()], &profile, &arguments))?;
                output(as_root("env").arg(&tools.unmoor).arg("verify").args([&image, device.path()]))
                    .while_doing("verifying the disk after the restore")?;
                Ok(restored)
            }
        }
    }

    /// Boots the guest on the new hardware as it is: what that does to it. It is an error if the cell would pass so, because
    /// then it proves nothing.
    pub(crate) fn control(&self, guest: &Built) -> Result<String> {
        let before = guest.proof()?;
        let machine = self.target.machine(&guest.disk, Writes::Dropped);
        let outcome = boot::boot_briefly(&machine).and_then(|proof| proof.check_like(&before, &self.target));
        match outcome {
            Ok(()) => Err(Failure::new("the guest is well on the new hardware without being fitted")),
            Err(error) => Ok(error.to_string()),
        }
    }
}
