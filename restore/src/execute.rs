// SPDX-License-Identifier: Apache-2.0
//! Carrying out a plan. Nothing is decided here; the order is what makes it safe.
//!
//! ```text
//!   open all -> clear all -> for each disk: copy, verify -> grow -> flush -> commit all (first MiB last) -> record
//! ```

use std::path::{Path, PathBuf};

use unmoor_images::copy::{self, Comparison};
use unmoor_images::formats::{self, CreateOptions, Format};
use unmoor_images::merkle::Leaves;
use unmoor_images::monitor::Phase;
use unmoor_images::{
    BlockSink, BlockSource, Error, ErrorKind, Extent, ExtentMap, LEAF, Monitor, RangeSet, Result, ResultExt,
    State, manifest,
};

use crate::grow;
use crate::plan::{DiskPlan, Options, Plan, Target};
use crate::record::{Change, RestoreRecord};
use crate::target::{DiskFile, Held};
use crate::view::View;

/// What became of one disk.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes of data read from the image.
    pub read_bytes: u64,
    /// Bytes written to the target.
    pub written_bytes: u64,
    /// True if everything was read back and compared.
    pub verified: bool,
    /// The filesystem that was grown, for people.
    pub grown: Option<String>,
    /// What was changed against the image, with hashes: for `verify`.
    pub record: RestoreRecord,
    /// Final map and leaves, for the record's map file.
    pub extents: ExtentMap,
    /// See `extents`.
    pub leaves: Leaves,
}

/// An open target.
enum Open {
    /// Written in place; renamed at the end if it is a file.
    Disk { held: Held, rename: Option<(PathBuf, PathBuf)> },
    /// Written once in an image format.
    Image { sink: Option<Box<dyn BlockSink>>, partial: PathBuf, path: PathBuf, format: Format },
}

/// Removes a partial file unless the restore came to its end.
struct Cleanup(Vec<PathBuf>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Carries out `plan`. On failure no target has a table: none looks bootable, and files stay `.partial` or are removed.
pub fn execute(plan: &Plan, options: &Options, monitor: &dyn Monitor) -> Result<Vec<Outcome>> {
    let mut cleanup = Cleanup(Vec::new());
    let mut targets = Vec::new();
    for disk in &plan.disks {
        let open = open(disk, options).doing(|| format!("opening {}", disk.target))?;
        match &open {
            Open::Disk { rename: Some((partial, _)), .. } | Open::Image { partial, .. } => {
                cleanup.0.push(partial.clone());
            }
            Open::Disk { .. } => {}
        }
        targets.push(open);
    }
    for (disk, target) in plan.disks.iter().zip(&targets) {
        clear(disk, target).doing(|| format!("clearing {}", disk.target))?;
    }
    let mut outcomes = Vec::new();
    for (index, (disk, target)) in plan.disks.iter().zip(&mut targets).enumerate() {
        let outcome = fill(index, disk, target, options, monitor)
            .doing(|| format!("restoring {} to {}", disk.image.path.display(), disk.target))?;
        outcomes.push(outcome);
    }
    if monitor.cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "restoring").because("stopped on request"));
    }
    // From here on disks become bootable: all of them together, each with its first MiB last.
    for (disk, target) in plan.disks.iter().zip(&targets) {
        commit(target).doing(|| format!("writing the table of {}", disk.target))?;
    }
    cleanup.0.clear();
    Ok(outcomes)
}

fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn open(disk: &DiskPlan, options: &Options) -> Result<Open> {
    match &disk.target {
        Target::Device { path, .. } => {
            let file = DiskFile::open_device(path)?;
            if file.size() != disk.size || file.sector_size() != disk.sector_size {
                return Err(
                    Error::refused("opening", "it is not the disk that the plan was made for").path(path)
                );
            }
            Ok(Open::Disk { held: Held::new(file, &disk.held), rename: None })
        }
        Target::File { path, format } => {
            let partial = partial_of(path);
            match std::fs::remove_file(&partial) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", error).path(&partial));
                }
                _ => {}
            }
            if *format == Format::Raw {
                let file = DiskFile::create_raw(&partial, disk.size, disk.sector_size)?;
                return Ok(Open::Disk {
                    held: Held::new(file, &disk.held),
                    rename: Some((partial, path.clone())),
                });
            }
            let create = CreateOptions {
                size: disk.size,
                compression: options.compression,
                cluster_size: options.cluster_size,
            };
            let sink = formats::create(&partial, *format, &create)?;
            Ok(Open::Image { sink: Some(sink), partial, path: path.clone(), format: *format })
        }
    }
}

/// Makes the target unbootable and its old tables unreadable, before anything of the new content comes.
fn clear(disk: &DiskPlan, target: &Open) -> Result<()> {
    let Open::Disk { held, .. } = target else { return Ok(()) };
    let file = held.disk();
    for range in &disk.clear {
        file.zero(range.start, range.end - range.start)?;
    }
    file.flush()
}

fn fill(
    index: usize,
    disk: &DiskPlan,
    target: &mut Open,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let name = disk.target.to_string();
    let run = |phase| copy::Options { threads: options.threads, disk: index, phase, name: name.clone() };
    let view = View::new(&*disk.image.source, &disk.pieces, &disk.patches, disk.size, disk.sector_size);
    let sink: &dyn BlockSink = match target {
        Open::Disk { held, .. } => held,
        Open::Image { sink: Some(sink), .. } => &**sink,
        Open::Image { .. } => return Err(Error::malformed("restoring", "the target is already finished")),
    };
    let report = copy::copy(&view, &disk.extents, sink, &run(Phase::Restore), monitor)?;
    check_image(disk, &report.leaves, &run(Phase::Verify), monitor)?;
    if options.wipe
        && let Open::Disk { held, .. } = &*target
    {
        wipe_holes(held.disk(), &disk.extents, index, &name, monitor)?;
    }
    let written_bytes = match target {
        Open::Disk { held, .. } => {
            held.disk().flush()?;
            held.written_bytes()
        }
        Open::Image { sink, .. } => match sink.take() {
            Some(sink) => sink.finish()?.stored_bytes,
            None => 0,
        },
    };
    if options.verify {
        let read_back = |source: &dyn BlockSource| -> Result<Comparison> {
            copy::verify(source, &disk.extents, &report.leaves, &run(Phase::Verify), monitor)
        };
        let comparison = match &*target {
            Open::Disk { held, .. } => read_back(held)?,
            Open::Image { partial, format, .. } => {
                let options = formats::OpenOptions { format: Some(*format), ..Default::default() };
                read_back(&*formats::open(partial, &options)?.source)?
            }
        };
        refuse_differences("reading back what was written", &comparison)?;
    }
    let mut changes: Vec<Change> = disk.patches.iter().map(Change::from_patch).collect();
    let (mut extents, mut leaves) = (report.extents, report.leaves);
    let mut grown = None;
    if let (Some(growth), Open::Disk { held, .. }) = (&disk.growth, &*target) {
        let attempt = grow::grow(held.disk(), growth);
        // Mounting alone has changed the superblock, so the hashes are made anew either way.
        let after = rehash(held, growth, &extents, &leaves, &run(Phase::Verify), &Quiet(monitor))?;
        let what = if attempt.is_ok() { "grown filesystem" } else { "mounted, not grown" };
        changes.extend(Change::between(&leaves, &after.1, what));
        (extents, leaves) = after;
        match attempt {
            Ok(()) => grown = Some(format!("{} of partition {}", growth.filesystem.kind.name(), growth.partition)),
            Err(error) => monitor.warn(format!(
                "the filesystem of partition {} was not grown: {}. The partition is larger; grow it after the first boot",
                growth.partition,
                error.chain()
            )),
        }
    }
    let record = RestoreRecord::new(disk, changes);
    Ok(Outcome {
        read_bytes: report.read_bytes,
        written_bytes,
        verified: options.verify,
        grown,
        record,
        extents,
        leaves,
    })
}

/// Holds what was read from the image against the manifest's hashes.
///
/// Where the view shows the image unchanged at its own address, the hashes of the copy are compared; the few
/// leaves that were patched or moved are read again.
fn check_image(disk: &DiskPlan, copied: &Leaves, run: &copy::Options, monitor: &dyn Monitor) -> Result<()> {
    let Some(expected) = &disk.image.leaves else { return Ok(()) };
    let mut same = RangeSet::new();
    for piece in disk.pieces.iter().filter(|piece| piece.to == piece.from) {
        same.insert(piece.to..piece.to + piece.len);
    }
    let mut touched = RangeSet::new();
    for patch in &disk.patches {
        touched.insert(patch.offset / LEAF * LEAF..patch.end().div_ceil(LEAF) * LEAF);
    }
    let mut again = Vec::new();
    let mut comparison = Comparison::default();
    let mut at = 0;
    for leaves in expected.differing(copied) {
        for leaf in leaves {
            let range = leaf * LEAF..((leaf + 1) * LEAF).min(expected.size());
            let unchanged = same.covers(range.clone())
                && !overlaps(&mut touched, &range)
                && (range.end - range.start == LEAF || expected.size() == copied.size());
            if unchanged {
                comparison.differing.push(range);
            } else {
                if at < range.start {
                    again.push(Extent { offset: at, len: range.start - at, state: State::Hole });
                }
                again.extend(disk.image.extents.within(range.clone()));
                at = range.end;
            }
        }
    }
    refuse_differences("reading the image", &comparison)?;
    if at == 0 {
        return Ok(());
    }
    if at < expected.size() {
        again.push(Extent { offset: at, len: expected.size() - at, state: State::Hole });
    }
    let map = ExtentMap::from_extents(again)?;
    let quiet = copy::Options { threads: 1, ..run.clone() };
    let comparison = copy::verify(&*disk.image.source, &map, expected, &quiet, &Quiet(monitor))?;
    refuse_differences("reading the image", &comparison)
}

fn overlaps(set: &mut RangeSet, range: &std::ops::Range<u64>) -> bool {
    let ranges = set.ranges();
    let index = ranges.partition_point(|have| have.end <= range.start);
    ranges.get(index).is_some_and(|have| have.start < range.end)
}

/// Passes on cancelling only: a second look at a few leaves is no phase of its own.
struct Quiet<'a>(&'a dyn Monitor);

impl Monitor for Quiet<'_> {
    fn event(&self, _event: unmoor_images::monitor::Event) {}
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

fn refuse_differences(doing: &'static str, comparison: &Comparison) -> Result<()> {
    if let Some((range, why)) = comparison.unreadable.first() {
        return Err(Error::new(ErrorKind::Io, doing).at(range.start).because(why.clone()));
    }
    let Some(first) = comparison.differing.first() else { return Ok(()) };
    let because = format!(
        "its hash differs from the recorded one, as in {} place(s) in all; the target was left without a table",
        comparison.differing.len()
    );
    Err(Error::new(ErrorKind::Mismatch, doing).at(first.start).because(because))
}

fn wipe_holes(
    file: &DiskFile,
    extents: &ExtentMap,
    index: usize,
    name: &str,
    monitor: &dyn Monitor,
) -> Result<()> {
    use unmoor_images::monitor::Event;
    const PIECE: u64 = 1 << 30;
    let total_bytes = extents.bytes(State::Hole);
    monitor.event(Event::Started { disk: index, phase: Phase::Wipe, total_bytes, name: name.to_owned() });
    let mut done_bytes = 0;
    for hole in extents.iter().filter(|extent| extent.state == State::Hole) {
        let mut at = hole.offset;
        while at < hole.end() {
            if monitor.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "wiping").because("stopped on request"));
            }
            let len = PIECE.min(hole.end() - at);
            file.wipe(at, len)?;
            at += len;
            done_bytes += len;
            monitor.event(Event::Advanced { disk: index, done_bytes, written_bytes: done_bytes });
        }
    }
    monitor.event(Event::Finished { disk: index });
    Ok(())
}

/// The map and leaves after a filesystem grew: what it uses now, hashed again.
fn rehash(
    held: &Held,
    growth: &grow::Growth,
    extents: &ExtentMap,
    leaves: &Leaves,
    run: &copy::Options,
    monitor: &dyn Monitor,
) -> Result<(ExtentMap, Leaves)> {
    let part = unmoor_images::adapt::Window::new(held, growth.start, growth.len)?;
    let facts = unmoor_images::filesystem::probe(&part)?
        .ok_or_else(|| Error::malformed("looking at the grown filesystem", "it is no longer recognised"))?;
    let mut used = unmoor_images::filesystem::used(&part, &facts)?;
    let mut data = RangeSet::new();
    let mut zeros = RangeSet::new();
    for extent in extents.iter() {
        match extent.state {
            State::Data => data.insert(extent.offset..extent.end()),
            State::Zero => zeros.insert(extent.offset..extent.end()),
            State::Hole => {}
        }
    }
    data.insert_all(&mut used.ranges, growth.start);
    data.truncate(extents.size());
    let grown = ExtentMap::from_data(extents.size(), &mut data, State::Hole).zero_holes(&mut zeros);
    // Only leaves that the partition touches can have changed.
    let first = growth.start / LEAF * LEAF;
    let end = ((growth.start + growth.len).div_ceil(LEAF) * LEAF).min(grown.size());
    let mut only = vec![Extent { offset: 0, len: first, state: State::Hole }];
    only.extend(grown.within(first..end));
    only.push(Extent { offset: end, len: grown.size() - end, state: State::Hole });
    only.retain(|extent| extent.len > 0);
    let only = ExtentMap::from_extents(only)?;
    let report = copy::copy(held, &only, &Nowhere, run, monitor)?;
    Ok((grown, leaves.replaced(first / LEAF..end.div_ceil(LEAF), &report.leaves)?))
}

/// A sink for hashing alone.
struct Nowhere;

impl BlockSink for Nowhere {
    fn granule(&self) -> u64 {
        LEAF
    }
    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Ok(())
    }
    fn write_zeros(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
    fn written_bytes(&self) -> u64 {
        0
    }
    fn finish(self: Box<Self>) -> Result<unmoor_images::sink::Finished> {
        Ok(unmoor_images::sink::Finished::default())
    }
}

fn commit(target: &Open) -> Result<()> {
    match target {
        Open::Disk { held, rename } => {
            held.commit()?;
            if let Some((partial, path)) = rename {
                rename_durably(partial, path)?;
            }
            held.disk().reread();
            Ok(())
        }
        Open::Image { partial, path, .. } => rename_durably(partial, path),
    }
}

fn rename_durably(partial: &Path, path: &Path) -> Result<()> {
    std::fs::rename(partial, path).doing(|| format!("renaming {}", partial.display()))?;
    manifest::sync_folder(path)
}
