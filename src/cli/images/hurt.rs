// SPDX-License-Identifier: Apache-2.0
//! Hurt images for people: which ranges of which disks, and what lies there, down to the files.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unmoor_images::affected::{Affected, Disks, Limits, affected};
use unmoor_images::manifest::DiskRecord;
use unmoor_images::store::{HurtDisk, HurtImage, ImageName, Store, StoredImage};
use unmoor_images::{BlockSource, ErrorKind, RangeSet, Result};

use super::diff::{layouts, sources};
use crate::cli::verify::names_at;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::plain;

/// Ranges of a disk, and files of a filesystem, that are shown.
const SHOWN: usize = 20;
/// Files of a filesystem that are in the JSON document.
const LISTED: usize = 1000;
/// How long files of one image, and of all, are looked for.
const ONE_IMAGE: Duration = Duration::from_secs(60);
const ALL_IMAGES: Duration = Duration::from_secs(300);

/// Names what is hurt, as long as there is time.
pub(super) struct Naming<'a> {
    store: &'a Store,
    terminal: &'a Terminal,
    until: Instant,
}

impl<'a> Naming<'a> {
    pub(super) fn new(store: &'a Store, terminal: &'a Terminal) -> Self {
        Self { store, terminal, until: Instant::now() + ALL_IMAGES }
    }

    /// One image, as a document and as lines.
    pub(super) fn describe(&mut self, hurt: &HurtImage) -> Result<(Value, Vec<String>)> {
        let name = format!("{}@{}", plain(&hurt.machine), hurt.time);
        let mut lines = vec![match &hurt.because {
            Some(because) => format!("hurt: {name}: nothing of it can be read: {}", plain(because)),
            None => format!("hurt: {name}"),
        }];
        let mut document = json!({ "machine": hurt.machine, "time": hurt.time, "because": hurt.because });
        let found = ImageName::parse(&format!("{}@{}", hurt.machine, hurt.time))
            .and_then(|name| self.store.find(&name));
        let record = found.as_ref().ok().and_then(|image| self.store.record(image).ok());
        let known = |disk: usize| record.as_ref().and_then(|record| record.manifest.disks.get(disk));
        let disks = hurt.disks.iter().map(|disk| in_disk(disk, known(disk.disk), &mut lines));
        let disks: Vec<Value> = disks.collect();
        document["disks"] = disks.into();
        if hurt.disks.is_empty() {
            return Ok((document, lines));
        }
        // Where a tree of the image is lost, so is what its disks hold.
        let files =
            found.and_then(|image| self.store.open_ref(&image)).and_then(|image| self.files(hurt, &image));
        match files {
            Ok(files) => {
                lines.extend(files.iter().flat_map(in_filesystem));
                document["filesystems"] = json!(files);
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => {
                lines.push(format!("  its files cannot be named: {}", plain(&error.chain())));
                document["files_because"] = error.chain().into();
            }
        }
        Ok((document, lines))
    }

    fn files(&self, hurt: &HurtImage, image: &StoredImage) -> Result<Vec<Affected>> {
        let mut ranges: Vec<RangeSet> = image.disks.iter().map(|_| RangeSet::new()).collect();
        for disk in &hurt.disks {
            if let Some(set) = ranges.get_mut(disk.disk) {
                disk.ranges.iter().for_each(|(start, end)| set.insert(*start..*end));
            }
        }
        let (sources, layouts) = (sources(image), layouts(image));
        let sources: Vec<&dyn BlockSource> = sources.iter().map(|disk| disk as &dyn BlockSource).collect();
        let disks = Disks { sources: &sources, layouts: &layouts };
        let until = self.until.min(Instant::now() + ONE_IMAGE);
        affected(&disks, &mut ranges, &Limits { files: LISTED, until: Some(until) }, self.terminal)
    }
}

fn in_disk(disk: &HurtDisk, known: Option<&DiskRecord>, lines: &mut Vec<String>) -> Value {
    let total: u64 = disk.ranges.iter().map(|(start, end)| end - start).sum();
    lines.push(format!("  disk {}: {} in {} ranges", disk.disk, show_size(total), disk.ranges.len()));
    let mut ranges = Vec::new();
    for (index, (start, end)) in disk.ranges.iter().enumerate() {
        let names =
            known.map(|known| names_at(&(*start..*end), &known.regions).join(", ")).unwrap_or_default();
        if index < SHOWN {
            lines.push(format!("    {start:#x} to {end:#x}: {}", plain(&names)));
        }
        ranges.push(json!({ "start": start, "end": end, "where": names }));
    }
    if disk.ranges.len() > SHOWN {
        lines.push(format!("    and {} more", disk.ranges.len() - SHOWN));
    }
    json!({ "disk": disk.disk, "ranges": ranges })
}

fn in_filesystem(found: &Affected) -> Vec<String> {
    let label = found.label.as_ref().map(|label| format!(" {label}")).unwrap_or_default();
    let place = format!("  {}, {}{}: ", plain(&found.place), found.kind.name(), plain(&label));
    let own = found.bytes.saturating_sub(found.file_bytes).saturating_sub(found.free_bytes);
    let own_name = match &found.incomplete {
        Some(_) => "the filesystem's own, or of files that were not found",
        None => "the filesystem's own",
    };
    let parts = [(found.file_bytes, "of files"), (own, own_name), (found.free_bytes, "used by nothing")];
    let parts = parts.iter().filter(|(bytes, _)| *bytes > 0);
    let parts: Vec<String> = parts.map(|(bytes, what)| format!("{} {what}", show_size(*bytes))).collect();
    let mut lines = vec![place + &parts.join(", ")];
    for file in found.files.iter().take(SHOWN) {
        let what = match (&file.unreadable, file.bytes) {
            (Some(because), _) => format!(": cannot be read: {}", plain(because)),
            (None, bytes) => format!(": {}", show_size(bytes)),
        };
        lines.push(format!("    {}{what}", plain(&file.path)));
    }
    let more = found.more.saturating_add(found.files.len().saturating_sub(SHOWN) as u64);
    if more > 0 {
        lines.push(format!("    and {more} more"));
    }
    lines.extend(
        found.incomplete.as_ref().map(|because| format!("    there may be others: {}", plain(because))),
    );
    lines
}
