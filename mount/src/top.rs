// SPDX-License-Identifier: Apache-2.0
//! What the mounted directory has: a list of disks, partitions and volumes, each as a file, some as a directory as well.

use std::sync::Mutex;

use unmoor_images::adapt::Window;
use unmoor_images::filesystem::FilesystemKind;
use unmoor_images::filesystem::files::{self, Limited};
use unmoor_images::layout::{self, DiskLayout, Hibernated, Place};
use unmoor_images::{BlockSource, Monitor, Result};

use crate::files::Tree;

/// A disk that lives as long as the process.
pub(crate) type Source = &'static dyn BlockSource;

/// One entry of the directory.
pub struct Entry {
    /// `disk0.raw`, `disk0.p1`.
    pub name: String,
    /// In bytes; 0 for a directory.
    pub size: u64,
    /// "ext4, label root"; for people.
    pub what: String,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    Raw(Box<dyn BlockSource>),
    Tree(Mutex<Tree>),
}

/// All entries.
pub struct Top {
    pub(crate) entries: Vec<Entry>,
}

/// Reads of one tree of files end after so many bytes: a mount may be used for long, and no loop of broken structures lasts.
const BUDGET: u64 = 1 << 60;

impl Top {
    /// Looks at the disks, and lists what is on them. They are kept until the process ends, as a mount is.
    pub fn of(disks: Vec<Box<dyn BlockSource>>, monitor: &dyn Monitor) -> Result<Self> {
        let disks: Vec<Source> = disks.into_iter().map(|disk| &*Box::leak(disk)).collect();
        // Only recognised: which bytes a filesystem uses does not matter here.
        let options = layout::Options { all: true, hibernated: Hibernated::Keep };
        let layouts = layout::analyze(&disks, &options, monitor)?;
        let mut entries = Vec::new();
        for (index, disk) in disks.iter().enumerate() {
            let layout = layouts.get(index);
            let what = layout.map_or_else(String::new, |layout| table(layout).to_owned());
            let content = Content::Raw(Box::new(*disk));
            entries.push(Entry { name: format!("disk{index}.raw"), size: disk.size(), what, content });
            let regions = layout.into_iter().flat_map(DiskLayout::all_regions);
            for region in regions {
                let base = match &region.place {
                    Place::Disk { partition: Some(number), offset, len } => {
                        let base = format!("disk{index}.p{number}");
                        let window =
                            Window::new(*disk, *offset, (*len).min(disk.size().saturating_sub(*offset)));
                        if let Ok(window) = window {
                            entries.push(raw(&base, Box::new(window), region.filesystem().map(describe)));
                        }
                        base
                    }
                    Place::LogicalVolume { vg, lv, .. } => {
                        let base = format!("{vg}-{lv}").replace('/', "_");
                        match layout::open(&disks, &layouts, index, &region.place) {
                            Ok(volume) => {
                                entries.push(raw(&base, Box::new(volume), region.filesystem().map(describe)));
                            }
                            Err(error) => monitor.note(format!("{base}: {}", error.chain())),
                        }
                        base
                    }
                    Place::Md { name, uuid, .. } => {
                        format!("md-{}", name.as_ref().unwrap_or(uuid)).replace('/', "_")
                    }
                    Place::Disk { partition: None, .. } => format!("disk{index}"),
                };
                let Some(facts) = region.filesystem() else { continue };
                if facts.kind == FilesystemKind::Swap {
                    continue;
                }
                let device = layout::open(&disks, &layouts, index, &region.place);
                let opened = device.and_then(|device| {
                    let limited: &'static Limited<'static> =
                        Box::leak(Box::new(Limited::new(Box::leak(Box::new(device)), BUDGET)));
                    files::open(limited, facts.kind)
                });
                match opened {
                    Ok(volume) => {
                        volume.note().into_iter().for_each(|note| monitor.note(format!("{base}: {note}")));
                        let content = Content::Tree(Mutex::new(Tree::new(volume)));
                        entries.push(Entry { name: base, size: 0, what: describe(facts), content });
                    }
                    Err(error) => monitor.note(format!("{base}: no files are shown: {}", error.chain())),
                }
            }
        }
        // A name of the image might be another's: the first keeps it.
        let mut names = std::collections::HashSet::new();
        entries.retain(|entry| names.insert(entry.name.clone()));
        Ok(Self { entries })
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Entry {
    /// True for a tree of files.
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Tree(_))
    }
}

fn raw(base: &str, source: Box<dyn BlockSource>, what: Option<String>) -> Entry {
    let size = source.size();
    Entry { name: format!("{base}.raw"), size, what: what.unwrap_or_default(), content: Content::Raw(source) }
}

fn describe(facts: &unmoor_images::filesystem::FilesystemFacts) -> String {
    match &facts.label {
        Some(label) => format!("{}, label {label}", facts.kind.name()),
        None => facts.kind.name().to_owned(),
    }
}

fn table(layout: &DiskLayout) -> &'static str {
    match layout.table.kind {
        unmoor_images::partition::TableKind::Gpt => "GPT",
        unmoor_images::partition::TableKind::Mbr => "MBR",
        unmoor_images::partition::TableKind::None => "no partition table",
    }
}
