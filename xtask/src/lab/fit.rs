// SPDX-License-Identifier: Apache-2.0
//! Cells that fit a guest to hardware that it has never seen: captured, converted, booted there, booted again while it
//! upgrades itself, and booted once more. What it says is compared with what it said on its old hardware.

use crate::lab::boot;
use crate::lab::guest::Built;
use crate::lab::hardware::{Bus, Chipset, Firmware, Hardware};
use crate::lab::loop_device::LoopDevice;
use crate::lab::proof::Proof;
use crate::lab::qemu::{Machine, Writes};
use crate::lab::{Scratch, old_content, rescue};
use crate::run::{Failure, Result, While, as_root, output, shown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Instant;

/// The address of the adapter in the new machine, which only cell b is told.
pub(crate) const NEW_MAC: Option<&str> = Some("52:54:00:0d:0d:02");

/// How the guest gets to its new machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// The image is converted, and is the new machine's disk.
    Convert,
    /// The image is restored to another disk and fitted in the same step.
    Restore,
    /// The image lies in a store, becomes another image there, and that is restored.
    ConvertStored,
    /// The image lies in a store, and is restored and fitted in the same step.
    RestoreStored,
}

/// One cell.
pub(crate) struct Fit {
    /// Its letter in the matrix, or a word.
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
        name: "clone",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Bios, Bus::Virtio, "virtio-net-pci"),
        way: Way::Convert,
        arguments: &["--identity", "clone"],
    },
    Fit {
        name: "stored",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Bios, Bus::Virtio, "virtio-net-pci"),
        way: Way::ConvertStored,
        arguments: &[],
    },
    Fit {
        name: "stored-restore",
        guest: "ahci",
        target: target(Chipset::Q35, Firmware::Bios, Bus::Virtio, "virtio-net-pci"),
        way: Way::RestoreStored,
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
    /// The rescue environment that it is to use; else it makes one.
    pub(crate) rescue: Option<PathBuf>,
    /// Cells that fit a guest end after the first boot, which shows in minutes whether the guest comes up at all.
    pub(crate) quick: bool,
}

impl Tools {
    /// Runs `unmoor convert IMAGE --profile ...` and returns how it ended and all that it said.
    pub(crate) fn convert(&self, image: &Path, profile: &str, more: &[&str]) -> Result<(ExitStatus, String)> {
        let mut command = Command::new(&self.unmoor);
        command.arg("convert").arg(image).args(["--profile", profile]).args(more);
        self.ended(command.arg("--rescue").arg(self.rescue()?))
    }

    /// The same for `unmoor restore`, as root for the device to write to.
    pub(crate) fn restore(
        &self,
        image: &Path,
        disk: &Path,
        profile: &str,
        more: &[&str],
    ) -> Result<(ExitStatus, String)> {
        let mut command = as_root("env");
        command.arg(&self.unmoor).arg("restore").args([image, disk]).args(["--profile", profile, "--yes"]);
        self.ended(command.args(more).arg("--rescue").arg(self.rescue()?))
    }

    fn rescue(&self) -> Result<PathBuf> {
        self.rescue.clone().map_or_else(|| rescue::built(&self.unmoor), Ok)
    }

    fn ended(&self, command: &mut Command) -> Result<(ExitStatus, String)> {
        let ended = command.output().while_doing(format_args!("starting {}", shown(command)))?;
        let said = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((ended.status, said.concat()))
    }
}

/// Fails unless the command succeeded.
pub(crate) fn succeeded((status, said): (ExitStatus, String)) -> Result {
    if status.success() {
        Ok(())
    } else {
        // The document of a plan has the drivers in it.
        let brief: Vec<String> = said.lines().map(|line| line.chars().take(600).collect()).collect();
        Err(Failure::new(format!("unmoor failed: {status}: {}", brief.join("\n").trim())))
    }
}

/// What a conversion took, by its own account.
fn times(said: &str, whole: f64) -> String {
    let document: serde_json::Value = said
        .lines()
        .find(|line| line.starts_with('{'))
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_default();
    let seconds = |value: &serde_json::Value| {
        value.as_f64().map_or_else(|| "an unknown time".to_owned(), |seconds| format!("{seconds:.2} s"))
    };
    let planned = seconds(&document["planning_seconds"]);
    let applied = seconds(&document["done"]["applied"]["seconds"]);
    format!(
        "converted in {whole:.0} s, of which planning took {planned}, and changing the mounted files {applied}"
    )
}

impl Fit {
    /// A line for a person.
    pub(crate) fn title(&self) -> String {
        let Hardware { firmware, .. } = self.target;
        format!("{}: {} to {} with {firmware:?}", self.name, self.guest, self.target.profile())
    }

    /// Whether the machine becomes another one.
    fn clones(&self) -> bool {
        self.arguments.contains(&"clone")
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
            proof.check_like(&before, &self.target, self.clones()).while_doing(what)
        };
        check("the first boot", &boot::boot)?;
        if tools.quick {
            return Ok(());
        }
        check("the second boot, which upgrades", &boot::boot_and_upgrade)?;
        check("the boot after the upgrade", &boot::boot)
    }

    /// The disk of the new machine, in `directory`.
    fn fitted(&self, guest: &Built, tools: &Tools, directory: &Path) -> Result<PathBuf> {
        let stored = matches!(self.way, Way::ConvertStored | Way::RestoreStored);
        let image = if stored {
            let store = format!("dir:{}", directory.join("store").display());
            output(Command::new(&tools.unmoor).args(["images", "init", &store]))?;
            PathBuf::from(format!("{store}/machine"))
        } else {
            directory.join("image.qcow2")
        };
        output(Command::new(&tools.unmoor).arg("capture").arg(&guest.disk).arg(&image))?;
        let profile = self.target.profile();
        match self.way {
            Way::Convert | Way::ConvertStored => {
                let start = Instant::now();
                let arguments = [self.arguments, &["--json"]].concat();
                let (status, said) = tools.convert(&image, &profile, &arguments)?;
                println!("    {}: {}", self.name, times(&said, start.elapsed().as_secs_f64()));
                succeeded((status, said))?;
                output(Command::new(&tools.unmoor).arg("verify").arg(&image))
                    .while_doing("verifying the image after its conversion")?;
                if stored {
                    // The latest image is the fitted one.
                    let restored = directory.join("restored.qcow2");
                    output(Command::new(&tools.unmoor).arg("restore").args([&image, &restored]))?;
                    return Ok(restored);
                }
                output(Command::new("qemu-img").args(["check", "-q"]).arg(&image))?;
                Ok(image)
            }
            Way::Restore | Way::RestoreStored => {
                let restored = directory.join("restored.raw");
                let size = guest.disk.metadata().while_doing("reading the guest's size")?.len();
                old_content::fill(&restored, size)?;
                let device = LoopDevice::attach(&restored)?;
                let start = Instant::now();
                let ended = tools.restore(&image, device.path(), &profile, self.arguments)?;
                println!("    {}: restored and fitted in {:.0} s", self.name, start.elapsed().as_secs_f64());
                succeeded(ended)?;
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
        let outcome = boot::boot_briefly(&machine)
            .and_then(|proof| proof.check_like(&before, &self.target, self.clones()));
        match outcome {
            Ok(()) => Err(Failure::new("the guest is well on the new hardware without being fitted")),
            Err(error) => Ok(error.to_string()),
        }
    }
}
