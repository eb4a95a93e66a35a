// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask lab ...`: the lab by hand.

use crate::binary;
use crate::lab::appliance::Job;
use crate::lab::cells::Choice;
use crate::lab::fit::Tools;
use crate::lab::guests::{GUESTS, guest};
use crate::lab::hardware::{Bus, Chipset, Firmware, Nic};
use crate::lab::qemu::{Disk, Machine, Writes};
use crate::lab::{
    boot, cells, directory, drivers, initramfs, listing, network_boot, read_text, rescue, rescue_boot,
};
use crate::packages::{self, Need};
use crate::run::{Result, While};
use crate::step::Steps;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Name the guests and say which are built
    List,
    /// Build guests: all, or those named
    Build { guests: Vec<String> },
    /// Run cells of the matrix: those of the day, or those named
    Test {
        /// Run all cells
        #[arg(long, conflicts_with = "cell")]
        all: bool,
        /// Run this cell (may be given several times)
        #[arg(long)]
        cell: Vec<String>,
        /// Test this binary instead of building one
        #[arg(long)]
        unmoor: Option<PathBuf>,
        /// The rescue environment that it is to use
        #[arg(long)]
        rescue: Option<PathBuf>,
        /// Boot a fitted guest once only, without its own upgrade and the boot after it
        #[arg(long)]
        quick: bool,
    },
    /// Make the rescue environment that cells use, and say where it is
    Rescue {
        /// Of this binary instead of building one
        #[arg(long)]
        unmoor: Option<PathBuf>,
    },
    /// Boot guests on the hardware of their cells without fitting them, which must fail
    Control {
        /// Only of these cells
        cells: Vec<String>,
    },
    /// Boot a guest's disk on chosen hardware and show its proof of boot; the disk is not changed
    Boot {
        disk: PathBuf,
        #[arg(long, value_enum, default_value = "q35")]
        chipset: Chipset,
        #[arg(long, value_enum, default_value = "bios")]
        firmware: Firmware,
        #[arg(long, value_enum, default_value = "ahci")]
        bus: Bus,
        /// QEMU's name of a network adapter
        #[arg(long, default_value = "e1000e")]
        nic: String,
        /// Logical sector size in bytes
        #[arg(long, default_value_t = 512)]
        sector: u32,
    },
    /// List every file, signature and checker's verdict of a disk
    Files { disk: PathBuf },
    /// Run a shell script in the appliance with a disk attached, `$(disk target)`; it prints what the script writes to $RESULT
    Job {
        script: PathBuf,
        disk: PathBuf,
        /// Keep what the script writes to the disk
        #[arg(long)]
        write: bool,
    },
    /// Boot initramfs images of each compression with files appended
    Initramfs {
        /// Compressions: all, or those named
        compressions: Vec<String>,
        /// Boot this kernel image instead of the appliance's
        #[arg(long)]
        kernel: Option<PathBuf>,
    },
    /// Boot an initramfs for virtio from other disk controllers, without and with injected drivers
    Drivers {
        /// Controllers: all, or those named
        controllers: Vec<String>,
    },
    /// Build the rescue environment and boot it: jobs in QEMU, and its CD under BIOS and UEFI
    RescueBoot {
        /// With this static binary instead of building one
        #[arg(long)]
        unmoor: Option<PathBuf>,
    },
    /// Start machines of each firmware from the network, by pxe-boot's servers
    Network {
        /// Cells of pxe-boot/tests/machines.rs: all, or those named
        cells: Vec<String>,
    },
    /// Remove what interrupted runs left
    Clean,
}

/// Runs one of the commands.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    packages::require(&[Need::Lab])?;
    match command {
        Command::List => {
            let lab = directory()?;
            for guest in GUESTS {
                println!("{:<10} {}", guest.name, guest.about);
            }
            println!("\ncells:");
            for cell in cells::cells() {
                println!("  {:<24} {}", cell.name, cell.title());
            }
            println!("\nin {}:", lab.display());
            for entry in std::fs::read_dir(&lab).while_doing(format_args!("reading {}", lab.display()))? {
                println!("  {}", entry?.file_name().to_string_lossy());
            }
        }
        Command::Build { guests } => {
            for name in &guests {
                guest(name)?;
            }
            let chosen: Vec<_> = GUESTS
                .iter()
                .filter(|guest| guests.is_empty() || guests.iter().any(|name| name == guest.name))
                .collect();
            let tally = cells::in_parallel(&chosen, |guest| {
                println!("{}: {}", guest.name, guest.build()?.disk.display());
                Ok(())
            });
            if tally.failed > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Test { all, cell, unmoor, rescue, quick } => {
            let mut steps = Steps::default();
            let unmoor = unmoor.map_or_else(binary::static_release, Ok)?;
            let choice = match cell.as_slice() {
                _ if all => Choice::All,
                [] => Choice::OfTheDay,
                names => Choice::Named(names),
            };
            cells::run(&mut steps, &Tools { unmoor, rescue, quick }, &choice)?;
            return Ok(steps.finish());
        }
        Command::Rescue { unmoor } => {
            let unmoor = unmoor.map_or_else(binary::static_release, Ok)?;
            println!("{}", rescue::built(&unmoor)?.display());
        }
        Command::Control { cells } => {
            let mut steps = Steps::default();
            cells::control(&mut steps, &cells)?;
            return Ok(steps.finish());
        }
        Command::Boot { disk, chipset, firmware, bus, nic, sector } => {
            let mut disk = Disk::new(&disk, "SYSTEM0", Writes::Dropped);
            disk.sector = sector;
            let mut machine = Machine::new(chipset, firmware, bus, vec![disk]);
            machine.nics.push(Nic::new(&nic));
            println!("{:#?}", boot::boot(&machine)?);
        }
        Command::Files { disk } => print!("{}", listing::list(&disk)?),
        Command::Job { script, disk, write } => {
            let writes = if write { Writes::Kept } else { Writes::Dropped };
            let job = Job {
                script: read_text(&script)?,
                files: Vec::new(),
                disks: vec![Disk::new(&disk, "target", writes)],
                limit: Duration::from_secs(3600),
            };
            print!("{}", job.run("job")?);
        }
        Command::Initramfs { compressions, kernel } => {
            let mut steps = Steps::default();
            let all = initramfs::compressions().map(str::to_owned);
            let chosen = if compressions.is_empty() { all.collect() } else { compressions };
            for name in &chosen {
                let step = format!("lab: an initramfs packed with {name} and extended");
                steps.check(&step, || initramfs::boot(name, kernel.as_deref()));
            }
            return Ok(steps.finish());
        }
        Command::Drivers { controllers } => {
            let mut steps = Steps::default();
            let all = drivers::controllers().map(str::to_owned);
            let chosen = if controllers.is_empty() { all.collect() } else { controllers };
            for name in &chosen {
                steps.check(&format!("lab: a virtio initramfs made for {name}"), || drivers::boot(name));
            }
            return Ok(steps.finish());
        }
        Command::RescueBoot { unmoor } => {
            rescue_boot::check(&unmoor.map_or_else(binary::static_release, Ok)?)?;
        }
        Command::Network { cells } => network_boot::check(&cells)?,
        Command::Clean => {
            let lab = directory()?;
            for entry in std::fs::read_dir(&lab).while_doing(format_args!("reading {}", lab.display()))? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with("run-") || name.ends_with(".partial") {
                    println!("removing {}", path.display());
                    std::fs::remove_dir_all(&path)
                        .while_doing(format_args!("removing {}", path.display()))?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
