// SPDX-License-Identifier: Apache-2.0
//! `unmoor images list`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;
use unmoor_images::store::{ImageRef, Location, Store, Summary, Usage};
use unmoor_images::{Monitor, Result};

use super::finish;
use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::{Align, Table};

const EXAMPLES: &str = "\
Examples:
  unmoor images list dir:/srv/images
  unmoor images list dir:/srv/images/web01
  unmoor images list --unique dir:/srv/images
      What would come back with each machine, counted now";

/// So many images of a local store are looked through without being asked.
const FEW: usize = 50;

/// List the machines of a store, or the images of one machine
///
/// UNIQUE is what only that machine or image uses: what its removal and a prune give back. It is counted by every prune, and kept; images
/// that came since have none until it is counted again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct List {
    /// A store, or STORE/NAME
    #[arg(value_name = "STORE")]
    store: String,
    /// Count unique bytes now, over the trees of all images
    #[arg(long)]
    unique: bool,
    #[command(flatten)]
    options: StoreOptions,
}

impl List {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        // A machine's name looks like the last part of a store's path: what is a store, is meant as one.
        let whole = Location::parse(&self.store)?;
        if Store::is_at(&whole)? {
            return self.machines(&self.options.open(&whole)?, terminal);
        }
        let (location, name) = Location::parse_image(&self.store)?;
        if !Store::is_at(&location)? {
            // What is neither is most likely a store that is not there.
            self.options.open(&whole)?;
        }
        let store = self.options.open(&location)?;
        let images = store.images_of(&name.machine)?;
        if images.is_empty() {
            store.find(&name)?;
        }
        self.images(&store, &images, terminal)
    }

    /// Unique bytes: as they were counted last, unless it is wanted or cheap to count them.
    fn usage(&self, store: &Store, images: &[ImageRef], terminal: &Terminal) -> Result<Usage> {
        let last = store.last_usage().unwrap_or_default();
        if self.unique {
            let usage = store.count_usage(terminal)?;
            if let Err(error) = store.keep_usage(&usage) {
                terminal.warn(format!("what was counted is not kept: {}", error.chain()));
            }
            return Ok(usage);
        }
        if last.is_of(images) || images.len() > FEW || store.backend().is_remote() {
            return Ok(last);
        }
        // A list does not fail for what it only adds.
        Ok(store.count_usage(terminal).unwrap_or(last))
    }

    fn machines(&self, store: &Store, terminal: &Terminal) -> Result<()> {
        let images = store.images()?;
        let usage = self.usage(store, &images, terminal)?;
        let mut machines: BTreeMap<String, Vec<ImageRef>> = BTreeMap::new();
        for image in images {
            machines.entry(image.folder.clone()).or_default().push(image);
        }
        let latest: Vec<ImageRef> = machines.values().filter_map(|images| images.last().cloned()).collect();
        let mut documents = Vec::new();
        let mut table = Table::new(&[
            ("MACHINE", Align::Left),
            ("IMAGES", Align::Right),
            ("FIRST", Align::Left),
            ("LATEST", Align::Left),
            ("SIZE", Align::Right),
            ("DATA", Align::Right),
            ("UNIQUE", Align::Right),
            ("LAST ADDED", Align::Right),
        ]);
        for (images, summary) in machines.values().zip(store.summaries(&latest)) {
            let (Some(first), Some(last)) = (images.first(), images.last()) else { continue };
            let summary = kept(summary, last, terminal);
            let unique = usage.machines.get(&last.folder).copied();
            documents.push(json!({
                "machine": summary.as_ref().map_or(&last.folder, |summary| &summary.machine),
                "images": images.len(), "first": first.time, "latest": last.time, "unique_bytes": unique,
                "summary": summary,
            }));
            let size = |bytes: fn(&Summary) -> u64| summary.as_ref().map(|summary| show_size(bytes(summary)));
            table.row(vec![
                summary.as_ref().map_or(&last.folder, |summary| &summary.machine).clone(),
                images.len().to_string(),
                first.time.clone(),
                last.time.clone(),
                size(|summary| summary.size_bytes).unwrap_or_default(),
                size(|summary| summary.data_bytes).unwrap_or_default(),
                unique.map(show_size).unwrap_or_default(),
                size(|summary| summary.added.stored_bytes).unwrap_or_default(),
            ]);
        }
        let lines =
            if documents.is_empty() { vec!["there are no images yet".to_owned()] } else { table.lines() };
        let document = json!({
            "machines": documents, "used_bytes": usage.used_bytes, "unique_counted": usage.counted,
            "warnings": terminal.warnings(),
        });
        finish(&document, &lines, terminal)
    }

    fn images(&self, store: &Store, images: &[ImageRef], terminal: &Terminal) -> Result<()> {
        let usage = self.usage(store, &store.images()?, terminal)?;
        let mut documents = Vec::new();
        let mut table = Table::new(&[
            ("TIME", Align::Left),
            ("SIZE", Align::Right),
            ("DATA", Align::Right),
            ("UNIQUE", Align::Right),
            ("READ", Align::Right),
            ("NEW", Align::Right),
            ("ADDED", Align::Right),
        ]);
        for (image, summary) in images.iter().zip(store.summaries(images)) {
            let summary = kept(summary, image, terminal);
            let unique = usage.of_image(image);
            documents.push(json!({ "time": image.time, "unique_bytes": unique, "summary": summary }));
            let size = |bytes: fn(&Summary) -> u64| {
                summary.as_ref().map(|summary| show_size(bytes(summary))).unwrap_or_default()
            };
            table.row(vec![
                image.time.clone(),
                size(|summary| summary.size_bytes),
                size(|summary| summary.data_bytes),
                unique.map(show_size).unwrap_or_default(),
                size(|summary| summary.added.read_bytes),
                size(|summary| summary.added.new_bytes),
                size(|summary| summary.added.stored_bytes),
            ]);
        }
        finish(&json!({ "images": documents, "warnings": terminal.warnings() }), &table.lines(), terminal)
    }
}

/// An image that cannot be read is listed by its time, with a warning.
fn kept(summary: Result<Summary>, image: &ImageRef, terminal: &Terminal) -> Option<Summary> {
    summary.map_err(|error| terminal.warn(format!("{}: {}", image.time, error.chain()))).ok()
}
