// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask lab ...`: the lab by hand.

use crate::binary;
use crate::lab::appliance::Job;
use crate::lab::guest::GUESTS;
use crate::lab::qemu::{Bus, Chipset, Disk, Firmware, Machine, Writes};
use crate::lab::{cells, directory, listing, proof, read_text, rescue_boot};
use crate::packages::{self, Need};
use crate::run::{Failure, Result, While};
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
    /// Capture, restore, compare and boot the guests
    Test {
        /// Run the long matrix
        #[arg(long)]
        all: bool,
        /// Test this binary instead of building one
        #[arg(long)]
        unmoor: Option<PathBuf>,
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
    /// Build the rescue environment and boot it: jobs in QEMU, and its CD under BIOS and UEFI
    RescueBoot {
        /// With this static binary instead of building one
        #[arg(long)]
        unmoor: Option<PathBuf>,
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
            println!("\nin {}:", lab.display());
            for entry in std::fs::read_dir(&lab).while_doing(format_args!("reading {}", lab.display()))? {
                println!("  {}", entry?.file_name().to_string_lossy());
            }
        }
        Command::Build { guests } => {
            for name in &guests {
                if !GUESTS.iter().any(|guest| guest.name == name) {
                    return Err(Failure::new(format!(
                        "there is no guest {name}: see `cargo xtask lab list`"
                    )));
                }
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
        Command::Test { all, unmoor } => {
            let mut steps = Steps::default();
            let unmoor = unmoor.map_or_else(binary::static_release, Ok)?;
            cells::run(&mut steps, &unmoor, all);
            return Ok(steps.finish());
        }
        Command::Boot { disk, chipset, firmware, bus, nic, sector } => {
            let mut disk = Disk::new(&disk, "SYSTEM0", Writes::Dropped);
            disk.sector = sector;
            let mut machine = Machine::new(chipset, firmware, bus, vec![disk]);
            machine.nic = Some(nic);
            println!("{:#?}", proof::boot(&machine)?);
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
        Command::RescueBoot { unmoor } => {
            rescue_boot::check(&unmoor.map_or_else(binary::static_release, Ok)?)?;
        }
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
