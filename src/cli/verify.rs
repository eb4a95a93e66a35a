// SPDX-License-Identifier: Apache-2.0
//! `unmoor verify`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use unmoor_capture::disk::{Disk, OpenOptions};
use unmoor_images::copy::{self, Comparison};
use unmoor_images::layout::Region;
use unmoor_images::manifest::{self, Conversion, DiskRecord, Manifest};
use unmoor_images::merkle::Leaves;
use unmoor_images::monitor::Phase;
use unmoor_images::store::Location;
use unmoor_images::{BlockSource, Error, ErrorKind, ExtentMap, Monitor, Result, ResultExt, formats, overlay};
use unmoor_restore::record::{Change, RestoreRecord};

use super::inspect::place;
use super::store::StoreOptions;
use crate::output::size::show_size;
use crate::output::table::plain;
use crate::output::{Outcome, Terminal};
use crate::records;

const EXAMPLES: &str = "\
Examples:
  unmoor verify web01.qcow2
      Every hash of the image, and of the further disks of its machine

  unmoor verify web01.qcow2 /dev/sdb
      The disk that it was restored to

  unmoor verify dir:/srv/images/web01
      Every chunk of the latest image in a store";

/// Check every hash of an image, or of a disk that it was restored to
///
/// All used bytes are read and compared with the hashes that the capture recorded. What a restore has changed, such
/// as a partition table moved to a larger disk, is known from its record, and told from damage.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// An image with its manifest beside it, the manifest NAME.unmoor.json, or an image of a store: STORE/NAME or
    /// STORE/NAME@TIME
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The disk or file that the image was restored to
    #[arg(value_name = "DISK")]
    disk: Option<PathBuf>,
    /// The record that the restore wrote, where it is not in its usual place
    #[arg(long, value_name = "FILE", requires = "disk")]
    record: Option<PathBuf>,
    /// Which disk of the machine DISK is, where an image of a store has several: by its name, its place (0, 1, ...) or its
    /// image's name
    #[arg(long, value_name = "OLD", requires = "disk")]
    of: Option<String>,
    /// Worker threads; 0 chooses by the number of processors
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    #[command(flatten)]
    store: StoreOptions,
}

/// One disk that was compared.
struct Checked {
    path: PathBuf,
    comparison: Comparison,
    /// Damaged ranges with what lies there.
    damage: Vec<(Range<u64>, String)>,
    /// What the restore had changed.
    changes: Vec<Change>,
    /// What was changed in the image itself since the capture; its hashes are those of afterwards.
    conversions: Vec<Conversion>,
}

/// Compares, prints, and fails if anything differs.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    if Location::is_path(&arguments.image) {
        return conclude(&check_stored(arguments, terminal)?, terminal);
    }
    let (manifest, named) = find_manifest(&arguments.image, terminal)?;
    let folder = arguments.image.parent().unwrap_or(Path::new(""));
    let checked = match &arguments.disk {
        Some(disk) => {
            let record =
                manifest.disks.get(named.unwrap_or(0)).ok_or_else(|| no_manifest(&arguments.image))?;
            let map = || record.read_map(folder);
            let place = RestoreRecord::for_device(&folder.join(&record.image), disk);
            vec![check_disk(disk, Some(&place), (record, &map), arguments, terminal)?]
        }
        None => {
            let wanted = |index: &usize| named.is_none_or(|named| named == 0 || named == *index);
            let records = manifest.disks.iter().enumerate().filter(|(index, _)| wanted(index));
            records
                .map(|(index, record)| check_image(index, record, folder, arguments, terminal))
                .collect::<Result<Vec<_>>>()?
        }
    };
    conclude(&checked, terminal)
}

/// Prints, and fails if anything differs.
fn conclude(checked: &[Checked], terminal: &Terminal) -> Result<Outcome> {
    print(checked, terminal)?;
    match checked.iter().find(|disk| !disk.comparison.is_exact()) {
        None => Ok(Outcome::Done),
        Some(bad) => {
            let total: u64 = bad.damage.iter().map(|(range, _)| range.end - range.start).sum();
            Err(Error::new(ErrorKind::Mismatch, "verifying").path(&bad.path).because(format!(
                "{} in {} ranges are not as they were captured",
                show_size(total),
                bad.damage.len()
            )))
        }
    }
}

/// The manifest of an image, and which disk the image is; all disks where the manifest itself is named.
fn find_manifest(path: &Path, terminal: &Terminal) -> Result<(Manifest, Option<usize>)> {
    if path.to_string_lossy().ends_with(".unmoor.json") {
        for disk in &Manifest::read(path)?.disks {
            if let Some(name) = Path::new(&disk.image).file_name() {
                overlay::finish_interrupted(&path.with_file_name(name), terminal)?;
            }
        }
        return Ok((Manifest::read(path)?, None));
    }
    std::fs::metadata(path).map_err(|error| Error::io("opening", error).path(path))?;
    overlay::finish_interrupted(path, terminal)?;
    Manifest::beside(path)?.map(|(manifest, disk)| (manifest, Some(disk))).ok_or_else(|| no_manifest(path))
}

fn no_manifest(image: &Path) -> Error {
    let manifest = manifest::path_for(image);
    Error::refused(
        "verifying",
        format!(
            "there is no manifest {} beside it: it was not captured by unmoor, its capture was not completed, or the \
             manifest was left behind when the image was moved",
            manifest.display()
        ),
    )
    .path(image)
}

fn check_image(
    index: usize,
    record: &DiskRecord,
    folder: &Path,
    arguments: &Arguments,
    terminal: &Terminal,
) -> Result<Checked> {
    let name = Path::new(&record.image);
    if name.file_name() != Some(name.as_os_str()) {
        return Err(Error::malformed("reading the manifest", format!("{name:?} is not a file name")));
    }
    let path = folder.join(name);
    let (extents, leaves) = record.read_map(folder)?;
    let options = formats::OpenOptions { allow_backing: false, format: Some(record.image_format) };
    let opened = formats::open(&path, &options)?;
    manifest::check_holes(&*opened.source, &extents).doing(|| format!("verifying {}", path.display()))?;
    let comparison = compare(&*opened.source, &path, index, (&extents, &leaves), arguments, terminal)?;
    let damage = damage(&comparison, &record.regions, &[]);
    Ok(Checked { damage, path, comparison, changes: Vec::new(), conversions: record.conversions.clone() })
}

/// An image of a store, or the disk that it was restored to.
fn check_stored(arguments: &Arguments, terminal: &Terminal) -> Result<Vec<Checked>> {
    let image = arguments.store.open_image(&arguments.image, terminal)?;
    let name = format!("{}@{}", image.record.summary.machine, image.image.time);
    let records = &image.record.manifest.disks;
    let several = records.len() > 1;
    let path = |record: &DiskRecord| records::stored_name(&name, several.then_some(&record.image));
    let mut disks = image.disks.into_iter().zip(records).enumerate();
    if let Some(disk) = &arguments.disk {
        let usage = |because: String| Error::new(ErrorKind::Usage, "choosing a disk").because(because);
        let known = || records.iter().map(|disk| disk.source.as_str()).collect::<Vec<_>>().join(", ");
        let number = match (&arguments.of, records.as_slice()) {
            (None, [_]) => 0,
            (None, _) => return Err(usage(format!("say with --of which of {} this is", known()))),
            (Some(of), _) => records
                .iter()
                .enumerate()
                .position(|(index, disk)| disk.is_called(of) || index.to_string() == *of)
                .ok_or_else(|| usage(format!("the machine has no disk {of}; it has {}", known())))?,
        };
        let Some((_, (stored, record))) = disks.nth(number) else { return Ok(Vec::new()) };
        let map = || Ok((stored.extents.clone(), stored.leaves.clone()));
        let place = records::of_stored(&path(record), disk);
        return Ok(vec![check_disk(disk, place.as_deref(), (record, &map), arguments, terminal)?]);
    }
    disks
        .map(|(index, (disk, record))| {
            let path = path(record);
            let maps = (&disk.extents, &disk.leaves);
            let comparison = compare(&disk.source, &path, index, maps, arguments, terminal)?;
            let damage = damage(&comparison, &record.regions, &[]);
            let conversions = record.conversions.clone();
            Ok(Checked { damage, path, comparison, changes: Vec::new(), conversions })
        })
        .collect()
}

/// A disk's extents and leaves, read when they are wanted.
type ReadMap<'a> = &'a dyn Fn() -> Result<(ExtentMap, Leaves)>;

fn check_disk(
    path: &Path,
    of_device: Option<&Path>,
    (record, read_map): (&DiskRecord, ReadMap<'_>),
    arguments: &Arguments,
    terminal: &Terminal,
) -> Result<Checked> {
    let disk = Disk::open(path, &OpenOptions::default(), terminal)?;
    let beside = RestoreRecord::beside(path);
    let usual = of_device.into_iter().chain([&*beside]);
    let told = arguments.record.iter().map(PathBuf::as_path);
    let found = told.chain(usual).find(|path| path.exists() || arguments.record.is_some());
    let (extents, leaves, changes) = match found {
        Some(found) => {
            let (restored, extents, leaves) = RestoreRecord::read(found)?;
            // The image may have been changed since it was restored.
            let known = |root: &String| {
                *root == record.root || record.conversions.iter().any(|change| change.root_before == *root)
            };
            if restored.image_root.as_ref().is_some_and(|root| !known(root)) {
                return Err(Error::new(ErrorKind::Mismatch, "reading the record")
                    .path(found)
                    .because("it is of the restore of another image"));
            }
            (extents, leaves, restored.changes)
        }
        None => {
            terminal.note(format!(
                "there is no record of a restore to {}: every change since the capture counts as damage",
                path.display()
            ));
            let (extents, leaves) = read_map()?;
            (extents, leaves, Vec::new())
        }
    };
    let comparison = compare(&disk, path, 0, (&extents, &leaves), arguments, terminal)?;
    let damage = damage(&comparison, &record.regions, &changes);
    Ok(Checked { path: path.to_owned(), comparison, damage, changes, conversions: Vec::new() })
}

fn compare(
    disk: &dyn BlockSource,
    path: &Path,
    index: usize,
    (extents, leaves): (&ExtentMap, &Leaves),
    arguments: &Arguments,
    terminal: &Terminal,
) -> Result<Comparison> {
    let options = copy::Options {
        threads: arguments.threads,
        disk: index,
        phase: Phase::Verify,
        name: path.display().to_string(),
    };
    copy::verify(disk, extents, leaves, &options, terminal)
}

/// What is damaged, with the names of what lies there.
fn damage(comparison: &Comparison, regions: &[Region], changes: &[Change]) -> Vec<(Range<u64>, String)> {
    let differing = comparison.differing.iter().map(|range| (range.clone(), String::new()));
    let unreadable = comparison.unreadable.iter().map(|(range, because)| (range.clone(), because.clone()));
    let mut damage: Vec<_> = differing
        .chain(unreadable)
        .map(|(range, because)| {
            let mut names = names_at(&range, regions);
            let changed =
                changes.iter().filter(|change| change.start < range.end && range.start < change.end);
            names.extend(changed.map(|change| format!("{}, which the restore wrote", change.what)));
            if !because.is_empty() {
                names.push(because);
            }
            (range, names.join(", "))
        })
        .collect();
    damage.sort_by_key(|(range, _)| range.start);
    damage
}

/// The innermost regions of the disk that a range touches. What lies inside a volume is not addressed by the disk.
pub(super) fn names_at(range: &Range<u64>, regions: &[Region]) -> Vec<String> {
    let mut names = Vec::new();
    for region in regions {
        let (name, start, len) = place(&region.place);
        let Some(start) = start else { continue };
        if start < range.end && range.start < start.saturating_add(len) {
            let inner = names_at(range, &region.children);
            if inner.is_empty() { names.push(name) } else { names.extend(inner) }
        }
    }
    names
}

fn print(checked: &[Checked], terminal: &Terminal) -> Result<()> {
    if terminal.json() {
        let disks: Vec<Value> = checked.iter().map(document).collect();
        return terminal.print_result(&json!({ "disks": disks, "warnings": terminal.warnings() }));
    }
    for disk in checked {
        for change in &disk.changes {
            let (start, end) = (change.start, change.end);
            terminal.print(&format!(
                "  {start:#x} to {end:#x}: changed by the restore: {}",
                plain(&change.what)
            ))?;
        }
        for conversion in &disk.conversions {
            let bytes: u64 = conversion.changed.iter().map(|(start, end)| end.saturating_sub(*start)).sum();
            terminal.print(&format!(
                "  {} in {} ranges changed since the capture: {}, {}",
                show_size(bytes),
                conversion.changed.len(),
                plain(&conversion.what),
                plain(&conversion.time),
            ))?;
        }
        for (range, names) in &disk.damage {
            terminal.print(&format!(
                "  {:#x} to {:#x}: damaged: {}",
                range.start,
                range.end,
                plain(names)
            ))?;
        }
        let read = show_size(disk.comparison.read_bytes);
        let verdict = if disk.comparison.is_exact() { "exact" } else { "damaged" };
        terminal.print(&format!("{}: {verdict}, {read} compared", disk.path.display()))?;
    }
    Ok(())
}

fn document(disk: &Checked) -> Value {
    let damage: Vec<Value> = disk
        .damage
        .iter()
        .map(|(range, names)| json!({ "start": range.start, "end": range.end, "where": names }))
        .collect();
    json!({
        "disk": disk.path,
        "exact": disk.comparison.is_exact(),
        "compared_bytes": disk.comparison.read_bytes,
        "damage": damage,
        "changed_by_restore": disk.changes,
        "conversions": disk.conversions,
    })
}
