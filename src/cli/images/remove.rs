// SPDX-License-Identifier: Apache-2.0
//! `unmoor images remove`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;
use unmoor_images::store::{ImageName, ImageRef, Location, Store};
use unmoor_images::{Error, ErrorKind, Result};

use super::finish;
use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::plain;

const EXAMPLES: &str = "\
Examples:
  unmoor images remove dir:/srv/images/web01@20261124T215000Z
  unmoor images remove --all dir:/srv/images/web01
      Every image of the machine";

/// Remove images from a store
///
/// No other image needs them: each is complete by itself. The room of what nothing else uses comes back at the next `unmoor images prune`,
/// which can say beforehand how much that is (--dry-run).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Remove {
    /// STORE/NAME@TIME; with --all also STORE/NAME
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// All images of the machines that are named
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    options: StoreOptions,
}

impl Remove {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let mut stores: BTreeMap<String, (Location, Vec<ImageName>)> = BTreeMap::new();
        for text in &self.images {
            let (location, name) = Location::parse_image(text)?;
            if name.time.is_none() && Store::is_at(&Location::parse(text)?).unwrap_or(false) {
                let because = "it is a whole store: name an image in it, STORE/NAME@TIME";
                return Err(Error::new(ErrorKind::Usage, format!("removing {text:.300}")).because(because));
            }
            if name.time.is_none() && !self.all {
                let because =
                    "it names a machine: say which image, NAME@TIME, or give --all for every image of it";
                return Err(Error::new(ErrorKind::Usage, format!("removing {text:.300}")).because(because));
            }
            stores.entry(location.to_string()).or_insert_with(|| (location, Vec::new())).1.push(name);
        }
        let mut opened = Vec::new();
        for (location, names) in stores.into_values() {
            let store = self.options.open(&location)?;
            let mut images: Vec<ImageRef> = Vec::new();
            for name in &names {
                let one = store.find(name)?;
                images.extend(if name.time.is_some() {
                    vec![one]
                } else {
                    store.images_of(&name.machine)?
                });
            }
            images.sort();
            images.dedup();
            opened.push((location, store, images));
        }
        let (mut documents, mut lines) = (Vec::new(), Vec::new());
        for (location, store, images) in &opened {
            for (image, summary) in images.iter().zip(store.summaries(images)) {
                let summary = summary.ok();
                let machine = summary.as_ref().map_or(&image.folder, |summary| &summary.machine);
                let size =
                    summary.as_ref().map(|summary| format!(", {} of data", show_size(summary.data_bytes)));
                lines.push(format!(
                    "{location}/{}@{}{}",
                    plain(machine),
                    image.time,
                    size.unwrap_or_default()
                ));
                documents.push(json!({
                    "store": location.to_string(), "machine": machine, "time": image.time, "summary": summary,
                }));
            }
        }
        if !self.yes {
            if !terminal.json() {
                lines.iter().try_for_each(|line| terminal.print(line))?;
            }
            if !terminal.confirm("These images will be removed.") {
                return Err(Error::refused(
                    "removing images",
                    "it was not confirmed: answer yes, or give --yes",
                ));
            }
            lines.clear();
        }
        for (_, store, images) in &opened {
            store.remove_images(images)?;
        }
        lines.push(format!(
            "removed {} images; what only they used goes with the next `unmoor images prune`",
            documents.len()
        ));
        finish(&json!({ "removed": documents, "warnings": terminal.warnings() }), &lines, terminal)
    }
}
