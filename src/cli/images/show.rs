// SPDX-License-Identifier: Apache-2.0
//! `unmoor images show`.

use clap::Args;
use serde_json::json;
use unmoor_images::Result;
use unmoor_images::store::Location;

use super::finish;
use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::plain;

const EXAMPLES: &str = "\
Examples:
  unmoor images show dir:/srv/images/web01
  unmoor images show --json dir:/srv/images/web01@20261124T215000Z";

/// Show what an image is
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
        let store = self.options.open(&location)?;
        let image = store.find(&name)?;
        let record = store.record(&image)?;
        let summary = &record.summary;
        let mut lines = vec![
            format!("{location}/{}@{}", plain(&summary.machine), image.time),
            format!("captured {} by {}", plain(&summary.created), plain(&record.manifest.tool)),
        ];
        for (index, disk) in record.manifest.disks.iter().enumerate() {
            lines.push(format!(
                "  disk {index}: {}, {} of data on {}",
                plain(&disk.source),
                show_size(disk.data_bytes),
                show_size(disk.size)
            ));
        }
        let (added, packs) =
            (&summary.added, record.packs.iter().map(|list| list.packs.len()).sum::<usize>());
        lines.push(format!(
            "  read {}, {} of it new to the store, {} stored; its chunks lie in {packs} packs",
            show_size(added.read_bytes),
            show_size(added.new_bytes),
            show_size(added.stored_bytes)
        ));
        lines.extend(
            record.manifest.warnings.iter().map(|warning| format!("  at the capture: {}", plain(warning))),
        );
        let document = json!({ "image": image.time, "record": record, "warnings": terminal.warnings() });
        finish(&document, &lines, terminal)
    }
}
