// SPDX-License-Identifier: Apache-2.0
//! `unmoor jobs add`.

use clap::{Args, Subcommand, ValueEnum};
use unmoor_images::{Error, ErrorKind, Result};
use unmoor_pxe_boot::api::{DiskRule, NewJob, Selector, Task};

use crate::cli::remote::{ServerOptions, selector};
use crate::output::Terminal;
use crate::output::size::parse_size;
use crate::output::table::plain;

const EXAMPLES: &str = "\
Examples:
  unmoor jobs add --machine web01 capture web01
  unmoor jobs add --machine serial=CZ1234 restore web01@20261124T215000Z
  unmoor jobs add --machine 3 wipe --disk serial=WD-1 --yes

Disk rules: serial=S, wwn=W, name=sda, size>=100G, size<=2T, only. A rule
means one disk; what is ambiguous is refused.";

/// Add a job for a machine, which need not have appeared yet
///
/// MACHINE is its number, the address of an adapter, its name, name=NAME, uuid=UUID or serial=SERIAL.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Add {
    /// Which machine
    #[arg(long, value_parser = selector, value_name = "MACHINE")]
    machine: Selector,
    /// Send or fetch at most so many bytes a second
    #[arg(long, value_parser = parse_size, value_name = "SIZE", default_value = "0", hide_default_value = true)]
    limit_rate: u64,
    #[command(flatten)]
    server: ServerOptions,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what is on the disks
    Inspect,
    /// Capture the machine's disks into the server's store
    Capture {
        /// The machine's name in the store
        name: String,
        /// Which disks, one rule each; all that are built in if absent
        #[arg(long = "disk", value_name = "RULE")]
        disks: Vec<String>,
    },
    /// Put an image of the server's store onto the machine's disks
    Restore {
        /// NAME or NAME@TIME
        image: String,
        /// Where its disks go, one rule each, in the image's order
        #[arg(long = "disk", value_name = "RULE")]
        disks: Vec<String>,
        /// What the guest is fitted to: auto (this machine), keep (nothing), or a profile
        #[arg(long, default_value = "auto")]
        profile: String,
        /// The firmware of the result; auto is how this machine was started
        #[arg(long, value_enum, default_value = "auto")]
        firmware: Firmware,
        /// Take a removable or USB disk that a rule names
        #[arg(long)]
        removable: bool,
        /// What comes then
        #[arg(long, value_enum, default_value = "reboot")]
        then: Then,
    },
    /// Make what is on disks unreadable
    Wipe {
        /// Which disks, one rule each; none is chosen by itself
        #[arg(long = "disk", value_name = "RULE", required = true)]
        disks: Vec<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Start the machine again
    Reboot {
        /// From where
        #[arg(long, value_enum, default_value = "disk")]
        into: Start,
    },
    /// Wait
    Idle,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Firmware {
    Auto,
    Keep,
    Bios,
    Uefi,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Then {
    Reboot,
    Poweroff,
    Stay,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Start {
    Disk,
    Network,
}

fn word<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl Add {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let rules = |disks: &[String]| disks.iter().map(|rule| rules_of(rule)).collect::<Result<Vec<_>>>();
        let task = match &self.what {
            What::Inspect => Task::Inspect,
            What::Idle => Task::Idle,
            What::Reboot { into } => Task::Reboot { into: word(into) },
            What::Capture { name, disks } => Task::Capture { name: name.clone(), disks: rules(disks)? },
            What::Restore { image, disks, profile, firmware, removable, then } => Task::Restore {
                image: image.clone(),
                profile: profile.clone(),
                firmware: word(firmware),
                disks: rules(disks)?,
                removable: *removable,
                then: word(then),
            },
            What::Wipe { disks, .. } => Task::Wipe { disks: rules(disks)? },
        };
        if let What::Wipe { disks, yes: false } = &self.what {
            let question = format!("What is on the disks {} will be lost.", plain(&disks.join(", ")));
            if !terminal.confirm(&question) {
                return Err(Error::refused(
                    "adding a job",
                    "it was not confirmed: answer yes, or give --yes",
                ));
            }
        }
        let new = NewJob { machine: self.machine.clone(), task, rate_limit: self.limit_rate };
        super::show(&self.server.connect()?.add_job(&new)?, terminal)
    }
}

/// A rule that has the form of one; the agent knows what it means.
fn rules_of(rule: &str) -> Result<DiskRule> {
    let known = ["serial=", "wwn=", "name=", "size>=", "size<="];
    let size = rule.strip_prefix("size>=").or_else(|| rule.strip_prefix("size<="));
    let right = rule == "only"
        || known.iter().any(|start| rule.strip_prefix(start).is_some_and(|rest| !rest.is_empty()));
    if !right || size.is_some_and(|size| parse_size(size).is_err()) {
        return Err(Error::new(ErrorKind::Usage, format!("reading the disk rule {rule:.100?}"))
            .because("write serial=S, wwn=W, name=sda, size>=100G, size<=2T, or only"));
    }
    Ok(DiskRule(rule.to_owned()))
}
