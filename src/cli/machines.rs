// SPDX-License-Identifier: Apache-2.0
//! `unmoor machines`: what a server knows of machines.

use clap::{Args, Subcommand};
use serde_json::json;
use unmoor_images::{Error, Result};
use unmoor_pxe_boot::api::{Approve, JobState, Machine, Presence, Selector};

use super::jobs::{state, task};
use super::remote::{ServerOptions, find, selector};
use crate::output::size::show_size;
use crate::output::table::{Align, Table, plain};
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor machines list --state /var/lib/unmoor
  unmoor machines show 52:54:00:12:34:56
  unmoor machines approve web01 --code K7QM-2XPA
      The code that the machine's console shows

With UNMOOR_SERVER, UNMOOR_CA and UNMOOR_TOKEN_FILE set, no options are
needed.";

/// Machines that a server knows
///
/// A machine appears when it asks to be booted from the network, or when its agent registers. MACHINE is its number, the address of
/// an adapter, its name, name=NAME, uuid=UUID or serial=SERIAL.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all machines
    List {
        #[command(flatten)]
        server: ServerOptions,
    },
    /// Show what a machine is
    Show {
        /// Which
        #[arg(value_parser = selector, value_name = "MACHINE")]
        machine: Selector,
        #[command(flatten)]
        server: ServerOptions,
    },
    /// Approve the key of a machine's agent, so that it may capture, restore and wipe
    Approve {
        /// Which
        #[arg(value_parser = selector, value_name = "MACHINE")]
        machine: Selector,
        /// The code that its console shows; without it the server's is shown, and asked about
        #[arg(long, value_name = "CODE")]
        code: Option<String>,
        #[command(flatten)]
        server: ServerOptions,
    },
    /// Forget a machine and its key
    Forget {
        /// Which
        #[arg(value_parser = selector, value_name = "MACHINE")]
        machine: Selector,
        #[command(flatten)]
        server: ServerOptions,
    },
    /// Print what a machine's agent said
    Log {
        /// Which
        #[arg(value_parser = selector, value_name = "MACHINE")]
        machine: Selector,
        /// So many lines at most, the last ones
        #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 1000)]
        lines: usize,
        #[command(flatten)]
        server: ServerOptions,
    },
}

/// Asks, and prints.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    terminal.one_document();
    match &arguments.command {
        Command::List { server } => list(&server.connect()?.machines()?, terminal)?,
        Command::Show { machine, server } => show(&find(&server.connect()?, machine)?, terminal)?,
        Command::Approve { machine, code, server } => approve(machine, code.as_deref(), server, terminal)?,
        Command::Forget { machine, server } => {
            let client = server.connect()?;
            let machine = find(&client, machine)?;
            client.forget(machine.id)?;
            let line = format!("machine {} is forgotten", machine.id);
            finish(&json!({ "forgotten": machine.id }), &[line], terminal)?;
        }
        Command::Log { machine, lines, server } => {
            let client = server.connect()?;
            let log = client.log(find(&client, machine)?.id, *lines)?;
            let said = log.iter().map(|line| {
                let level =
                    if line.level == "info" { String::new() } else { format!("{}: ", plain(&line.level)) };
                format!("{:10.3}  {level}{}", line.seconds, plain(&line.text))
            });
            finish(&json!({ "lines": log }), &said.collect::<Vec<_>>(), terminal)?;
        }
    }
    Ok(Outcome::Done)
}

/// One document, or lines.
pub(super) fn finish(document: &serde_json::Value, lines: &[String], terminal: &Terminal) -> Result<()> {
    if terminal.json() {
        return terminal.print(&document.to_string());
    }
    lines.iter().try_for_each(|line| terminal.print(line))
}

fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Booting => "booting",
        Presence::Here => "here",
        Presence::Gone => "gone",
    }
}

fn key(machine: &Machine) -> String {
    match &machine.code {
        Some(code) if machine.approved => format!("{code} approved"),
        Some(code) => format!("{code} waits"),
        None => String::new(),
    }
}

fn product(machine: &Machine) -> String {
    let facts = machine.facts.as_ref();
    let words =
        facts.map(|facts| [&facts.vendor, &facts.product].into_iter().flatten().cloned().collect::<Vec<_>>());
    words.unwrap_or_default().join(" ")
}

fn list(machines: &[Machine], terminal: &Terminal) -> Result<()> {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("ADDRESS", Align::Left),
        ("KEY", Align::Left),
        ("PRODUCT", Align::Left),
        ("DISKS", Align::Right),
        ("JOB", Align::Left),
    ]);
    for machine in machines {
        let disks = machine.facts.iter().flat_map(|facts| &facts.disks).map(|disk| disk.size_bytes);
        let bytes = disks.fold(0u64, u64::saturating_add);
        let job = machine.job.as_ref();
        table.row(vec![
            machine.id.to_string(),
            machine.name.clone(),
            presence(machine.presence).to_owned(),
            machine.macs.first().cloned().unwrap_or_default(),
            key(machine),
            product(machine),
            if bytes > 0 { show_size(bytes) } else { String::new() },
            job.map(|job| format!("{} {}", task(&job.task), state(job.state))).unwrap_or_default(),
        ]);
    }
    let lines =
        if machines.is_empty() { vec!["no machine has appeared yet".to_owned()] } else { table.lines() };
    finish(&json!({ "machines": machines }), &lines, terminal)
}

fn show(machine: &Machine, terminal: &Terminal) -> Result<()> {
    let mut lines = vec![format!(
        "machine {}: {}, {}{}",
        machine.id,
        plain(&machine.name),
        presence(machine.presence),
        machine.address.as_ref().map(|address| format!(" at {}", plain(address))).unwrap_or_default()
    )];
    lines.push(format!("  first heard {}, last {}", plain(&machine.first_seen), plain(&machine.last_seen)));
    lines.push(format!("  adapters {}", plain(&machine.macs.join(", "))));
    if machine.code.is_some() {
        lines.push(format!("  key {}", plain(&key(machine))));
    }
    if let Some(facts) = &machine.facts {
        lines.push(format!(
            "  {} serial {} UUID {}",
            plain(&product(machine)),
            plain(facts.serial.as_deref().unwrap_or("none")),
            plain(facts.uuid.as_deref().unwrap_or("none"))
        ));
        lines.push(format!(
            "  {}, {} CPUs, {}",
            format!("{:?}", facts.firmware).to_uppercase(),
            facts.cpu_count,
            show_size(facts.memory_bytes)
        ));
        let mut disks = Table::new(&[
            ("DISK", Align::Left),
            ("SIZE", Align::Right),
            ("MODEL", Align::Left),
            ("SERIAL", Align::Left),
            ("WWN", Align::Left),
            ("ATTACHED", Align::Left),
        ]);
        for disk in &facts.disks {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            disks.row(vec![
                disk.name.clone(),
                show_size(disk.size_bytes),
                text(&disk.model),
                text(&disk.serial),
                text(&disk.wwn),
                format!("{}{}", text(&disk.transport), if disk.removable { ", removable" } else { "" }),
            ]);
        }
        if !facts.disks.is_empty() {
            lines.extend(disks.lines().into_iter().map(|line| format!("  {line}")));
        }
    }
    for concern in machine.verdict.iter().flat_map(|verdict| &verdict.concerns) {
        lines.push(format!("  needs eyes: {}", plain(concern)));
    }
    if let Some(job) = &machine.job {
        let waiting = matches!(job.state, JobState::Waiting | JobState::Running | JobState::Lost);
        let word = if waiting { "job" } else { "last job" };
        lines.push(format!("  {word} {}: {}, {}", job.id, plain(&task(&job.task)), state(job.state)));
        lines.extend(job.message.iter().map(|message| format!("    {}", plain(message))));
    }
    finish(&json!({ "machine": machine }), &lines, terminal)
}

fn approve(wanted: &Selector, code: Option<&str>, server: &ServerOptions, terminal: &Terminal) -> Result<()> {
    let client = server.connect()?;
    let machine = find(&client, wanted)?;
    let code = match (code, &machine.code) {
        (Some(code), _) => code.trim().to_uppercase(),
        (None, Some(known)) => {
            let question = format!(
                "The server knows the key of {} by the code {}. Does the machine's own console show the same?",
                plain(&machine.name),
                plain(known)
            );
            if !terminal.confirm(&question) {
                let because =
                    "it was not confirmed: answer yes, or give --code with the code that its console shows";
                return Err(Error::refused("approving a key", because));
            }
            known.clone()
        }
        (None, None) => return Err(Error::refused("approving a key", "its agent has not registered yet")),
    };
    let machine = client.approve(machine.id, &Approve { code })?;
    let line = format!("the key of {} ({}) is approved", plain(&machine.name), machine.id);
    finish(&json!({ "machine": machine }), &[line], terminal)
}
