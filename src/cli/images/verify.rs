// SPDX-License-Identifier: Apache-2.0
//! `unmoor images verify`.

use clap::Args;
use serde_json::{Value, json};
use unmoor_images::store::{CheckOptions, CheckReport};
use unmoor_images::{Error, ErrorKind, Result};

use super::{chosen, finish, hurt};
use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::plain;

const EXAMPLES: &str = "\
Examples:
  unmoor images verify dir:/srv/images
      Whether everything that the images need is there

  unmoor images verify --read-data=10 dir:/srv/images
      The same, and a tenth of all packs is read and hashed, another one each time

  unmoor images verify --read-data --quarantine dir:/srv/images
      Everything is read; the next captures send again what is damaged";

/// Check that a store has all that its images need
///
/// Looks at the trees of all images, and whether each chunk lies in a pack that is there and as long as its table says; with --read-data
/// also at the content of the packs. Names the images, disks, byte ranges and files that are hurt. A chunk that is damaged in one pack and whole
/// in another hurts nothing. `unmoor verify STORE/NAME` reads one image through.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Verify {
    /// A store, STORE/NAME for the images of one machine, or STORE/NAME@TIME
    #[arg(value_name = "STORE")]
    store: String,
    /// Read packs too: all of them, or so many percent
    #[arg(
        long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "100",
        default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u8).range(0..=100),
    )]
    read_data: u8,
    /// Write down what is damaged or lost, so that no capture relies on it: the next one that has such chunks sends them again,
    /// which mends all images that need them
    #[arg(long)]
    quarantine: bool,
    /// Packs that are read at a time; 0 chooses by the number of processors
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    #[command(flatten)]
    options: StoreOptions,
}

impl Verify {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let (store, images) = chosen(&self.store, &self.options)?;
        let options = CheckOptions {
            images,
            read_percent: self.read_data,
            quarantine: self.quarantine,
            threads: self.threads,
        };
        let report = store.check(&options, terminal)?;
        let mut naming = hurt::Naming::new(&store, terminal);
        let hurt: Vec<(Value, Vec<String>)> =
            report.hurt.iter().map(|hurt| naming.describe(hurt)).collect::<Result<_>>()?;
        let mut lines = lines(&report);
        lines.extend(hurt.iter().flat_map(|(_, lines)| lines.clone()));
        let hurt: Vec<Value> = hurt.into_iter().map(|(document, _)| document).collect();
        let mut document =
            json!({ "whole": report.is_whole(), "report": report, "warnings": terminal.warnings() });
        if let Some(report) = document.get_mut("report") {
            *report.get_mut("hurt").unwrap_or(&mut Value::Null) = hurt.into();
        }
        let error = verdict(&report);
        if let (Some(error), true) = (&error, terminal.json()) {
            terminal.print_refusal(&document, error)?;
        } else {
            finish(&document, &lines, terminal)?;
        }
        error.map_or(Ok(()), Err)
    }
}

/// None where all is whole.
fn verdict(report: &CheckReport) -> Option<Error> {
    let because = match (report.hurt.len(), report.damaged.len()) {
        (0, 0) => return None,
        (0, objects) => format!("no image is hurt, but {objects} objects are damaged"),
        (images, _) => format!("{images} of {} images are hurt", report.images),
    };
    Some(Error::new(ErrorKind::Mismatch, "verifying the store").because(because))
}

fn lines(report: &CheckReport) -> Vec<String> {
    let mut lines = vec![format!(
        "{} images, {} packs of {}, {} of them read",
        report.images,
        report.packs,
        show_size(report.pack_bytes),
        show_size(report.read_bytes)
    )];
    for finding in &report.damaged {
        lines.push(format!("damaged: {}: {}", plain(&finding.object), plain(&finding.what)));
    }
    for finding in &report.notes {
        lines.push(format!("note: {}: {}", plain(&finding.object), plain(&finding.what)));
    }
    if report.quarantined > 0 {
        lines.push(format!(
            "the damage of {} packs was written down: the next capture of the machines sends it again",
            report.quarantined
        ));
    }
    if report.is_whole() {
        lines.push("everything that the images need is there".into());
    }
    lines
}
