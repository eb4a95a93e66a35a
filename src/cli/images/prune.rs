// SPDX-License-Identifier: Apache-2.0
//! `unmoor images prune`.

use clap::Args;
use serde_json::{Value, json};
use unmoor_images::store::{Decision, ImageRef, Location, Policy, PruneOptions, PruneReport, Store};
use unmoor_images::{Error, ErrorKind, Monitor, Result};

use super::finish;
use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::{Align, Table, plain};

const EXAMPLES: &str = "\
Examples:
  unmoor images prune --dry-run --keep-daily 7 --keep-weekly 5 --keep-monthly 12 dir:/srv/images
      Which images would go, why each of the others stays, and how much room that gives

  unmoor images prune --yes --keep-daily 7 --keep-weekly 5 --keep-monthly 12 dir:/srv/images

  unmoor images prune dir:/srv/images
      No image goes; what no image uses any more does";

/// Remove images by rules, and give back the room of what no image uses
///
/// The rules hold for each machine by itself, in UTC: --keep-daily 7 keeps the latest image of each of the seven most recent days that have
/// one. An image stays if any rule keeps it; without rules all stay. Captures may run meanwhile: prune waits for those that could rely
/// on what it removes, and says for whom.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Prune {
    /// A store
    #[arg(value_name = "STORE")]
    store: String,
    /// Keep the latest images
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,
    /// Keep the latest image of so many days
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_daily: u32,
    /// Keep the latest image of so many weeks, which begin on Monday
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_weekly: u32,
    /// Keep the latest image of so many months
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_monthly: u32,
    /// Keep the latest image of so many years
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_yearly: u32,
    /// Apply the rules to this machine only; may be given several times
    #[arg(long, value_name = "NAME")]
    machine: Vec<String>,
    /// Say what would happen; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Write a pack anew if more than so many percent of it are unused; with less than 100, many small packs are put together as well
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    max_unused: u8,
    /// Do not wait for captures that run: what they may rely on stays marked for the next prune
    #[arg(long)]
    no_wait: bool,
    /// Do not ask before images are removed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    options: StoreOptions,
}

impl Prune {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let location = Location::parse(&self.store)?;
        let store = self.options.open(&location)?;
        let decisions = self.decide(&store)?;
        let going: Vec<ImageRef> = decisions
            .iter()
            .filter(|decision| decision.reasons.is_empty())
            .map(|decision| decision.image.clone())
            .collect();
        let images: Vec<Value> = decisions.iter().map(document).collect();
        let shown = if self.keeps_all() { Vec::new() } else { table(&store, &decisions) };
        if !terminal.json() {
            shown.iter().try_for_each(|line| terminal.print(line))?;
        }
        if !self.dry_run && !going.is_empty() {
            if !self.yes && !terminal.confirm(&format!("{} images will be removed.", going.len())) {
                return Err(Error::refused("pruning", "it was not confirmed: answer yes, or give --yes"));
            }
            store.remove_images(&going)?;
        }
        let options = PruneOptions {
            without: going.clone(),
            dry_run: self.dry_run,
            max_unused_percent: self.max_unused,
            wait: !self.no_wait,
            holder: unmoor_capture::facts::holder(),
        };
        let report = store.prune(&options, terminal)?;
        for lease in &report.waiting_for {
            terminal.warn(format!(
                "a capture by {} runs since {}: what it may rely on stays until the next prune",
                plain(&lease.holder),
                plain(&lease.taken)
            ));
        }
        let document = json!({
            "dry_run": self.dry_run, "images": images, "report": report, "warnings": terminal.warnings(),
        });
        finish(&document, &lines(&report, going.len(), self.dry_run), terminal)
    }

    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
        }
    }

    fn keeps_all(&self) -> bool {
        self.policy().keeps_all()
    }

    fn decide(&self, store: &Store) -> Result<Vec<Decision>> {
        if self.machine.is_empty() {
            return Ok(self.policy().decide(&store.images()?));
        }
        if self.keeps_all() {
            return Err(Error::new(ErrorKind::Usage, "pruning one machine")
                .because("--machine limits the rules, and there are none: give one of --keep-..."));
        }
        let mut images = Vec::new();
        for machine in &self.machine {
            let found = store.images_of(machine)?;
            if found.is_empty() {
                return Err(Error::refused("pruning", format!("there is no machine {machine:.200?}")));
            }
            images.extend(found);
        }
        images.sort();
        images.dedup();
        Ok(self.policy().decide(&images))
    }
}

fn document(decision: &Decision) -> Value {
    json!({
        "machine": decision.image.folder, "time": decision.image.time, "stays": !decision.reasons.is_empty(),
        "because": decision.reasons,
    })
}

fn table(store: &Store, decisions: &[Decision]) -> Vec<String> {
    let mut table = Table::new(&[
        ("MACHINE", Align::Left),
        ("TIME", Align::Left),
        ("", Align::Left),
        ("BECAUSE", Align::Left),
    ]);
    let mut named: Option<(String, String)> = None;
    for decision in decisions {
        // In an encrypted store the folder is not the name.
        let folder = &decision.image.folder;
        let name = match &named {
            Some((of, name)) if of == folder => name.clone(),
            _ => store.summary(&decision.image).map_or_else(|_| folder.clone(), |summary| summary.machine),
        };
        named = Some((folder.clone(), name.clone()));
        let fate = if decision.reasons.is_empty() { "goes" } else { "stays" };
        table.row(vec![name, decision.image.time.clone(), fate.to_owned(), decision.reasons.join(", ")]);
    }
    table.lines()
}

fn lines(report: &PruneReport, going: usize, dry_run: bool) -> Vec<String> {
    let size = show_size;
    let mut lines = vec![format!(
        "{} images stay{}; {} packs of {}",
        report.images,
        if going > 0 {
            format!(", {going} {}", if dry_run { "would go" } else { "went" })
        } else {
            String::new()
        },
        report.packs,
        size(report.pack_bytes)
    )];
    lines.push(format!(
        "  {} packs are used by nothing: {}; {} are mostly unused: {}; {} {} copied",
        report.unused_packs,
        size(report.unused_bytes),
        report.repacked_packs,
        size(report.repacked_bytes),
        size(report.copied_bytes),
        if dry_run { "would be" } else { "were" }
    ));
    if report.merged_packs > 0 {
        lines.push(format!(
            "  {} small packs of {} {} put together",
            report.merged_packs,
            size(report.merged_bytes),
            if dry_run { "would be" } else { "were" }
        ));
    }
    if report.left_unused_bytes > 0 {
        lines.push(format!(
            "  {} that nothing uses stay in packs that are mostly used",
            size(report.left_unused_bytes)
        ));
    }
    for (count, what) in [
        (report.unfinished_packs, "packs are of captures that have not ended, and stay"),
        (report.rescued_packs, "packs stay: images that came meanwhile use them"),
        (report.odd_packs, "packs are damaged, and stay: see `unmoor images verify`"),
    ] {
        if count > 0 {
            lines.push(format!("  {count} {what}"));
        }
    }
    lines.push(match dry_run {
        true => format!("{} would be freed", size(report.freed_bytes)),
        false => format!("{} packs removed, {} freed", report.removed_packs, size(report.freed_bytes)),
    });
    lines
}
