// SPDX-License-Identifier: Apache-2.0
//! `unmoor images show`.

use clap::Args;
use serde_json::json;
use unmoor_images::Result;
use unmoor_images::layout::DiskLayout;
use unmoor_images::manifest::{DiskRecord, Manifest};
use unmoor_images::store::{ImageRecord, Location};
use unmoor_images::{ExtentMap, State};

use super::finish;
use crate::cli::inspect;
use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::{Align, Table, plain};

const EXAMPLES: &str = "\
Examples:
  unmoor images show dir:/srv/images/web01
  unmoor images show --json dir:/srv/images/web01@20261124T215000Z";

/// Show what an image is
///
/// The machine that it is of, its disks, their partitions and volumes, and what the capture has added to the store. `unmoor
/// inspect` also looks into the systems on it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Show {
    /// STORE/NAME or STORE/NAME@TIME
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    options: StoreOptions,
}

impl Show {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let (location, name) = Location::parse_image(&self.image)?;
        let store = self.options.open_for(&location, &name.machine)?;
        let image = store.find(&name)?;
        let record = store.record(&image)?;
        let mut lines = vec![format!("{location}/{}@{}", plain(&record.summary.machine), image.time)];
        lines.extend(inspect::captured(&record.manifest));
        lines.extend(hardware(&record.manifest));
        for (index, disk) in record.manifest.disks.iter().enumerate() {
            lines.extend(disk_lines(index, disk, terminal.verbose()));
        }
        lines.push(stored(&record));
        lines.extend(
            record.manifest.warnings.iter().map(|warning| format!("at the capture: {}", plain(warning))),
        );
        let document = json!({ "image": image.time, "record": record, "warnings": terminal.warnings() });
        finish(&document, &lines, terminal)
    }
}

/// The adapters and disks that the machine had.
fn hardware(manifest: &Manifest) -> Vec<String> {
    let Some(machine) = &manifest.machine else {
        return vec!["no facts of the machine: image files were captured".to_owned()];
    };
    let mut lines = Vec::new();
    if let Some(name) = &machine.hostname {
        lines.push(format!("host name at the capture: {}", plain(name)));
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut nics = Table::new(&[("ADAPTER", Align::Left), ("ADDRESS", Align::Left), ("DRIVER", Align::Left)]);
    machine.nics.iter().for_each(|nic| nics.row(vec![nic.name.clone(), text(&nic.mac), text(&nic.driver)]));
    if !machine.nics.is_empty() {
        lines.extend(nics.lines().into_iter().map(|line| format!("  {line}")));
    }
    lines
}

fn disk_lines(index: usize, disk: &DiskRecord, verbose: bool) -> Vec<String> {
    let known = [&disk.model, &disk.serial, &disk.wwn].into_iter().flatten();
    let known: Vec<&str> = known.map(String::as_str).collect();
    let known = if known.is_empty() { String::new() } else { format!(" ({})", plain(&known.join(", "))) };
    let id = disk.table.disk_id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    let table = inspect::table_name(disk.table.kind);
    let mut lines = vec![format!(
        "disk {index}: {}{known}, {}, sectors of {}, {table}{}",
        plain(&disk.source),
        show_size(disk.size),
        disk.sector_size,
        plain(&id),
    )];
    let layout = DiskLayout {
        table: disk.table.clone(),
        regions: disk.regions.clone(),
        extents: ExtentMap::uniform(disk.size, State::Data),
        warnings: Vec::new(),
        patches: Vec::new(),
    };
    if !disk.regions.is_empty() {
        lines.extend(inspect::regions(&layout).into_iter().map(|line| format!("  {line}")));
    }
    lines.push(format!(
        "  data {}, zeros {}, unused {}",
        show_size(disk.data_bytes),
        show_size(disk.zero_bytes),
        show_size(disk.hole_bytes)
    ));
    if verbose {
        lines.push(format!("  root {}", plain(&disk.root)));
    }
    if !disk.unreadable.is_empty() {
        let bytes = disk.unreadable.iter().map(|(start, end)| end.saturating_sub(*start)).sum();
        lines.push(format!("  {} could not be read, and are zeros", show_size(bytes)));
    }
    for conversion in &disk.conversions {
        lines.push(format!("  {} at {}", plain(&conversion.what), plain(&conversion.time)));
    }
    lines
}

fn stored(record: &ImageRecord) -> String {
    let (added, packs) =
        (&record.summary.added, record.packs.iter().map(|list| list.packs.len()).sum::<usize>());
    format!(
        "read {}, {} of it new to the store, {} stored; its chunks lie in {packs} packs",
        show_size(added.read_bytes),
        show_size(added.new_bytes),
        show_size(added.stored_bytes)
    )
}
