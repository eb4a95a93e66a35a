// SPDX-License-Identifier: Apache-2.0
//! `unmoor images diff`.

use clap::Args;
use serde_json::{Value, json};
use unmoor_images::adapt::WithSectors;
use unmoor_images::diff::{self, Change, Difference};
use unmoor_images::filesystem::files::Kind;
use unmoor_images::layout::DiskLayout;
use unmoor_images::store::{ImageName, ImageRef, Location, Store, StoredImage};
use unmoor_images::{BlockSource, Error, ErrorKind, Monitor, Result};

use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::plain;

const EXAMPLES: &str = "\
Examples:
  unmoor images diff dir:/srv/images/web01
      What the latest image has that the one before had not, and the reverse

  unmoor images diff dir:/srv/images/web01@20261124T215000Z @20261125T215000Z
      Two images of one machine

  unmoor images diff dir:/srv/images/web01 dir:/srv/images/web02
      Two machines";

/// Show what differs between two images
///
/// Files of ext2/3/4, XFS, btrfs and FAT, on partitions and logical volumes: + is new, - is gone, ~ is changed, with what of it.
/// Of other filesystems, swap and boot loaders, the bytes that differ. Contents are compared, whatever the files' times
/// say.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Diff {
    /// STORE/NAME or STORE/NAME@TIME. With STORE/NAME alone its latest two images are compared
    #[arg(value_name = "IMAGE")]
    before: String,
    /// Another image, or @TIME of the same machine
    #[arg(value_name = "IMAGE")]
    after: Option<String>,
    #[command(flatten)]
    options: StoreOptions,
}

impl Diff {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let (before, after) = self.open(terminal)?;
        let names =
            [&before, &after].map(|image| format!("{}@{}", image.record.summary.machine, image.image.time));
        if !terminal.json() {
            terminal.print(&format!("{} -> {}", plain(&names[0]), plain(&names[1])))?;
        }
        let mut shown =
            Shown { terminal, filesystems: Vec::new(), others: Vec::new(), counts: Counts::default() };
        compare(&before, &after, terminal, &mut |difference| shown.take(difference))?;
        shown.finish(&names)
    }

    fn open(&self, terminal: &Terminal) -> Result<(StoredImage, StoredImage)> {
        let (location, name) = Location::parse_image(&self.before)?;
        let store = self.options.open_for(&location, &name.machine)?;
        let (old, (other, new)) = match &self.after {
            None => {
                let (old, new) = latest_two(&store, &name)?;
                (old, (store.clone(), new))
            }
            Some(text) => {
                let (other, later) = match text.strip_prefix('@') {
                    Some(_) => (store.clone(), ImageName::parse(&format!("{}{text}", name.machine))?),
                    None => {
                        let (place, later) = Location::parse_image(text)?;
                        let other = match place == location {
                            true => store.clone(),
                            false => self.options.open_for(&place, &later.machine)?,
                        };
                        (other, later)
                    }
                };
                let new = other.find(&later)?;
                (store.find(&name)?, (other, new))
            }
        };
        let open = |store: &Store, image: &ImageRef| -> Result<StoredImage> {
            let image = store.open_ref(image)?;
            image.warnings.iter().for_each(|warning| terminal.warn(warning.clone()));
            Ok(image)
        };
        Ok((open(&store, &old)?, open(&other, &new)?))
    }
}

fn latest_two(store: &Store, name: &ImageName) -> Result<(ImageRef, ImageRef)> {
    let images = store.images_of(&name.machine)?;
    let last = store.find(name)?;
    let at = images.iter().position(|image| *image == last);
    let before = at.and_then(|at| at.checked_sub(1)).and_then(|at| images.get(at));
    match before {
        Some(before) => Ok((before.clone(), last)),
        None => Err(Error::new(ErrorKind::Usage, "comparing images")
            .because(format!("{} has no image before {}: name another one", name.machine, last.time))),
    }
}

/// Everything that differs.
fn compare(
    before: &StoredImage,
    after: &StoredImage,
    terminal: &Terminal,
    each: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    let sources = [before, after].map(sources);
    let disks = [0, 1].map(|index| {
        let sources = sources.get(index).into_iter().flatten();
        sources.map(|disk| disk as &dyn BlockSource).collect::<Vec<_>>()
    });
    let layouts = [before, after].map(layouts);
    let leaves = [before, after].map(|image| image.disks.iter().map(|disk| &disk.leaves).collect::<Vec<_>>());
    let image = |disks, layouts, leaves| diff::Image { disks, layouts, leaves };
    let [one, two] = &disks;
    let [old, new] = &layouts;
    let [first, second] = &leaves;
    diff::diff(&image(one, old, first), &image(two, new, second), terminal, each)
}

type Source<'a> = WithSectors<&'a dyn BlockSource>;

pub(super) fn sources(image: &StoredImage) -> Vec<Source<'_>> {
    let disks = image.disks.iter().zip(&image.record.manifest.disks);
    disks
        .map(|(disk, record)| WithSectors::new(&disk.source as &dyn BlockSource, record.sector_size))
        .collect()
}

pub(super) fn layouts(image: &StoredImage) -> Vec<DiskLayout> {
    let disks = image.disks.iter().zip(&image.record.manifest.disks);
    disks
        .map(|(disk, record)| DiskLayout {
            table: record.table.clone(),
            regions: record.regions.clone(),
            extents: disk.extents.clone(),
            warnings: Vec::new(),
            patches: Vec::new(),
        })
        .collect()
}

#[derive(Default)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
    unreadable: u64,
    elsewhere: u64,
}

/// What was found, as lines as it comes or as one document.
struct Shown<'a> {
    terminal: &'a Terminal,
    filesystems: Vec<Value>,
    others: Vec<Value>,
    counts: Counts,
}

impl Shown<'_> {
    fn line(&self, text: &str) -> Result<()> {
        if self.terminal.json() { Ok(()) } else { self.terminal.print(text) }
    }

    fn take(&mut self, difference: Difference) -> Result<()> {
        match difference {
            Difference::Filesystem { place, kind, label } => {
                let label = label.map(|label| format!(" {label}")).unwrap_or_default();
                self.line(&format!("{}: {}{}", plain(&place), kind.name(), plain(&label)))?;
                self.filesystems.push(json!({ "place": place, "filesystem": kind.name(), "files": [] }));
                Ok(())
            }
            Difference::File(file) => self.file(&String::from_utf8_lossy(&file.path), &file.change),
            Difference::Extents { place, content, disk, ranges } => {
                let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                self.counts.elsewhere += bytes;
                let content = if content.is_empty() { content } else { format!(" ({content})") };
                let (count, first) = (ranges.len(), ranges.first().map_or(0, |range| range.start));
                self.line(&format!(
                    "{}{}: {} differ in {count} ranges, the first at {first:#x} of disk {disk}",
                    plain(&place),
                    plain(&content),
                    show_size(bytes)
                ))?;
                let ranges: Vec<_> = ranges.iter().map(|range| json!([range.start, range.end])).collect();
                self.others.push(json!({ "place": place, "disk": disk, "bytes": bytes, "ranges": ranges }));
                Ok(())
            }
            Difference::Appeared(place) => {
                self.others.push(json!({ "place": place, "change": "appeared" }));
                self.line(&format!("{}: only in the second image", plain(&place)))
            }
            Difference::Gone(place) => {
                self.others.push(json!({ "place": place, "change": "gone" }));
                self.line(&format!("{}: only in the first image", plain(&place)))
            }
        }
    }

    fn file(&mut self, path: &str, change: &Change) -> Result<()> {
        let (line, mut document) = match change {
            Change::Added { kind, size } => {
                self.counts.added += 1;
                (
                    format!("+ {}{}", plain(path), tail(*kind)),
                    json!({ "change": "added", "size_bytes": size }),
                )
            }
            Change::Removed { kind, size } => {
                self.counts.removed += 1;
                (
                    format!("- {}{}", plain(path), tail(*kind)),
                    json!({ "change": "removed", "size_bytes": size }),
                )
            }
            Change::Changed { what, sizes } => {
                self.counts.changed += 1;
                let what: Vec<String> = what.iter().map(ToString::to_string).collect();
                let (before, after) = sizes;
                let size = if before == after {
                    String::new()
                } else {
                    format!(", {} -> {}", show_size(*before), show_size(*after))
                };
                let line = format!("~ {}  ({}{size})", plain(path), what.join(", "));
                (
                    line,
                    json!({ "change": "changed", "what": what, "size_bytes": after, "size_before_bytes": before }),
                )
            }
            Change::Unreadable(reason) => {
                self.counts.unreadable += 1;
                let line = format!("? {}  ({})", plain(path), plain(reason));
                (line, json!({ "change": "unreadable", "reason": reason }))
            }
        };
        if !self.terminal.json() {
            return self.terminal.print(&line);
        }
        if let Some(document) = document.as_object_mut() {
            document.insert("path".to_owned(), path.into());
        }
        let files = self.filesystems.last_mut().and_then(|last| last.get_mut("files"));
        files.and_then(Value::as_array_mut).into_iter().for_each(|files| files.push(document.clone()));
        Ok(())
    }

    fn finish(&self, names: &[String; 2]) -> Result<()> {
        let counts = &self.counts;
        let unreadable = match counts.unreadable {
            0 => String::new(),
            count => format!(", {count} that cannot be read"),
        };
        self.line(&format!(
            "{} files added, {} removed, {} changed{unreadable}; {} differ outside of files",
            counts.added,
            counts.removed,
            counts.changed,
            show_size(counts.elsewhere)
        ))?;
        if !self.terminal.json() {
            return Ok(());
        }
        let document = json!({
            "before": names[0], "after": names[1],
            "added": counts.added, "removed": counts.removed, "changed": counts.changed, "unreadable": counts.unreadable,
            "filesystems": self.filesystems, "others": self.others, "warnings": self.terminal.warnings(),
        });
        self.terminal.print(&document.to_string())
    }
}

/// Directories are told from files.
fn tail(kind: Kind) -> &'static str {
    if kind == Kind::Directory { "/" } else { "" }
}
