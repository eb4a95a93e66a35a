// SPDX-License-Identifier: Apache-2.0
//! `unmoor inspect --machine`: what this machine is, for `--profile`.

use serde_json::json;
use unmoor_capture::facts::{self, Tree};
use unmoor_convert::profiles::of_machine;
use unmoor_convert::request::Purpose;
use unmoor_images::Result;
use unmoor_images::manifest::MachineFacts;

use crate::output::size::show_size;
use crate::output::table::{Align, Table, plain};
use crate::output::{Outcome, Terminal};

/// Prints this machine's inventory.
pub(super) fn run(terminal: &Terminal) -> Result<Outcome> {
    let facts = facts::read(&Tree::default());
    if terminal.json() {
        terminal.print(&json!({ "machine": facts, "warnings": terminal.warnings() }).to_string())?;
    } else {
        for line in lines(&facts) {
            terminal.print(&line)?;
        }
    }
    Ok(Outcome::Done)
}

fn lines(facts: &MachineFacts) -> Vec<String> {
    let known: Vec<&str> =
        [&facts.vendor, &facts.product, &facts.serial].into_iter().flatten().map(String::as_str).collect();
    let name = if known.is_empty() { "this machine".to_owned() } else { known.join(" ") };
    let firmware = format!("{:?}", facts.firmware).to_uppercase();
    let (cpus, memory) = (facts.cpu_count, show_size(facts.memory_bytes));
    let mut lines =
        vec![plain(&format!("{name}, {}, {firmware}, {cpus} CPUs, {memory}", facts.architecture))];
    let mut disks = Table::new(&[
        ("DISK", Align::Left),
        ("SIZE", Align::Right),
        ("SECTOR", Align::Right),
        ("MODEL", Align::Left),
        ("BUS", Align::Left),
        ("DRIVER", Align::Left),
    ]);
    for disk in &facts.disks {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let size = show_size(disk.size_bytes);
        let sector = disk.sector_size.to_string();
        disks.row(vec![
            disk.name.clone(),
            size,
            sector,
            text(&disk.model),
            text(&disk.transport),
            text(&disk.driver),
        ]);
    }
    let mut nics = Table::new(&[("ADAPTER", Align::Left), ("ADDRESS", Align::Left), ("DRIVER", Align::Left)]);
    for nic in &facts.nics {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        nics.row(vec![nic.name.clone(), text(&nic.mac), text(&nic.driver)]);
    }
    let mut parts =
        Table::new(&[("FOR", Align::Left), ("WHAT NEEDS A DRIVER", Align::Left), ("MODALIAS", Align::Left)]);
    for part in of_machine(facts).parts {
        let purpose = match part.purpose {
            Purpose::Disk => "disk",
            Purpose::Nic => "network",
            Purpose::Bus => "bus",
            Purpose::Console | Purpose::Other => continue,
        };
        parts.row(vec![purpose.to_owned(), part.name, part.modalias]);
    }
    for (table, empty) in [
        (disks, facts.disks.is_empty()),
        (nics, facts.nics.is_empty()),
        (parts, facts.pci.is_empty() && facts.buses.is_empty()),
    ] {
        if !empty {
            lines.extend(table.lines().into_iter().map(|line| format!("  {line}")));
        }
    }
    lines
}
