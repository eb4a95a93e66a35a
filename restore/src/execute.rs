// SPDX-License-Identifier: Apache-2.0
//! Carrying out a plan. Nothing is decided here; the order is what makes it safe.
//!
//! ```text
//!   open all -> clear all -> for each disk: copy, verify, grow -> flush -> commit all: backup tables and last MiBs,
//!   then first MiBs -> names of files
//! ```

mod check;
mod grown;
mod resume;

use std::path::Path;

use unmoor_images::copy::{self, Comparison};
use unmoor_images::formats::{self, CreateOptions, Format};
use unmoor_images::merkle::Leaves;
use unmoor_images::monitor::Phase;
use unmoor_images::{BlockSink, BlockSource, Error, ErrorKind, ExtentMap, Monitor, Result, ResultExt, State};

use crate::grow;
use crate::plan::{DiskPlan, Options, Plan, Target};
use crate::record::{Change, RestoreRecord};
use crate::target::{DiskFile, Held, Partial};
use crate::view::View;

/// What became of one disk.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes of data read from the image.
    pub read_bytes: u64,
    /// Bytes written to the target.
    pub written_bytes: u64,
    /// Bytes of data that were on it already, where an interrupted restore was resumed.
    pub kept_bytes: u64,
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
    /// Written in place; a file gets its name at the end.
    Disk { held: Held, partial: Option<Partial> },
    /// Written once in an image format.
    Image { sink: Option<Box<dyn BlockSink>>, partial: Partial, format: Format },
}

/// Carries out `plan`.
///
/// # Errors
///
/// After a failure no target has a table or a name: devices hold nothing that can be found, files are removed, unless the restore
/// was to be resumed: then what they hold is kept. Only an error of kind `Refused` comes before anything was written.
pub fn execute(plan: &Plan, options: &Options, monitor: &dyn Monitor) -> Result<Vec<Outcome>> {
    let mut targets = Vec::new();
    for disk in &plan.disks {
        targets.push(open(disk, options).doing(|| format!("opening {}", disk.target))?);
    }
    let written = write(plan, &mut targets, options, monitor);
    let devices: Vec<String> = plan
        .disks
        .iter()
        .filter(|disk| matches!(disk.target, Target::Device { .. }))
        .map(|disk| disk.target.to_string())
        .collect();
    if written.is_err() && !devices.is_empty() {
        monitor.warn(format!(
            "{} left without a partition table, and what was on it is lost: run the restore again, with --resume \
             to go on from here",
            devices.join(" and ")
        ));
    }
    if written.is_err() && options.resume {
        let kept = targets.iter().filter_map(|target| match target {
            Open::Disk { partial: Some(partial), .. } => Some(partial.now().display().to_string()),
            _ => None,
        });
        kept.for_each(|kept| monitor.warn(format!("{kept} is kept: give --resume again to go on from here")));
    }
    // From now on a refusal would be a lie.
    written.map_err(|error| match error.kind() {
        ErrorKind::Refused => Error::new(ErrorKind::Io, "restoring").source(error),
        _ => error,
    })
}

fn write(
    plan: &Plan,
    targets: &mut [Open],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Vec<Outcome>> {
    for (disk, target) in plan.disks.iter().zip(&*targets) {
        clear(disk, target, options).doing(|| format!("clearing {}", disk.target))?;
    }
    let mut outcomes = Vec::new();
    for (index, (disk, target)) in plan.disks.iter().zip(&mut *targets).enumerate() {
        let outcome = fill(index, disk, target, options, monitor)
            .doing(|| format!("restoring {} to {}", disk.image.path.display(), disk.target))?;
        outcomes.push(outcome);
    }
    if monitor.cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "restoring").because("stopped on request"));
    }
    // From here on disks become bootable: all of them together, each with its first page last.
    let committed = commit(plan, targets);
    if committed.is_err() {
        // Some of the machine's disks may be complete; a machine with a part of them is not.
        for (disk, target) in plan.disks.iter().zip(&*targets) {
            let _ = clear(disk, target, options);
        }
    }
    committed.map(|()| outcomes)
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
            Ok(Open::Disk { held: Held::new(file, &disk.held), partial: None })
        }
        Target::File { path, format: Format::Raw } => {
            let create = |now: &Path| match options.resume {
                true => DiskFile::open_raw(now, disk.size, disk.sector_size),
                false => DiskFile::create_raw(now, disk.size, disk.sector_size),
            };
            let (partial, file) = Partial::create(path, options.resume, create)?;
            Ok(Open::Disk { held: Held::new(file, &disk.held), partial: Some(partial) })
        }
        Target::File { path, .. } if options.resume => Err(Error::refused(
            "resuming",
            "only a device or a raw file can be gone on with: this format is written once, so run it without --resume",
        )
        .path(path)),
        Target::File { path, format } => {
            let create = CreateOptions {
                size: disk.size,
                sector_size: disk.sector_size,
                compression: options.compression,
                cluster_size: options.cluster_size,
            };
            let (partial, sink) = Partial::create(path, false, |now| formats::create(now, *format, &create))?;
            Ok(Open::Image { sink: Some(sink), partial, format: *format })
        }
    }
}

/// Makes the target unbootable and its old tables unreadable, before anything of the new content comes.
fn clear(disk: &DiskPlan, target: &Open, options: &Options) -> Result<()> {
    let Open::Disk { held, partial } = target else { return Ok(()) };
    // A new file is empty. One that is resumed may have come as far as its table.
    if partial.is_some() && !options.resume {
        return Ok(());
    }
    let tables = disk.held.iter().filter(|_| partial.is_some());
    for range in disk.clear.iter().chain(tables) {
        held.disk().zero(range.start, range.end - range.start)?;
        held.disk().flush()?;
    }
    Ok(())
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
    let found = match &*target {
        Open::Disk { held, .. } if options.resume && disk.image.stream.is_none() => {
            Some(resume::find(disk, held, &view, &run(Phase::Compare), monitor)?)
        }
        _ => None,
    };
    let sink: &dyn BlockSink = match target {
        Open::Disk { held, .. } => held,
        Open::Image { sink: Some(sink), .. } => &**sink,
        Open::Image { .. } => return Err(Error::malformed("restoring", "the target is already finished")),
    };
    let kept_bytes = found.as_ref().map_or(0, |found| found.kept_bytes);
    let todo = found.as_ref().map_or(&disk.extents, |found| &found.todo);
    let mut report = copy::copy(&view, todo, sink, &run(Phase::Restore), monitor)?;
    if let Some(found) = found {
        report = found.complete(&report, &view, &disk.extents)?;
    }
    if let Some(stream) = &disk.image.stream {
        stream.finish(disk.image.source.size())?;
    }
    check::image(disk, &report.leaves, &run(Phase::Verify), monitor)?;
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
                read_back(&*formats::open(partial.now(), &options)?.source)?
            }
        };
        check::refuse_differences("reading back what was written", &comparison)?;
    }
    let mut changes: Vec<Change> = disk.patches.iter().map(Change::from_patch).collect();
    let (mut extents, mut leaves) = (report.extents, report.leaves);
    let mut grew = None;
    if let (Some(growth), Open::Disk { held, .. }) = (&disk.growth, &*target) {
        let attempt = grow::grow(held.disk(), growth);
        // Mounting alone has changed the superblock, so the hashes are made anew either way.
        let quiet = check::Quiet(monitor);
        let after = grown::rehash(held, growth, &extents, &leaves, &run(Phase::Verify), &quiet)?;
        let what = if attempt.is_ok() { "grown filesystem" } else { "mounted, not grown" };
        changes.extend(Change::between(&leaves, &after.1, what));
        (extents, leaves) = after;
        match attempt {
            Ok(()) => grew = Some(format!("{} of {}", growth.filesystem.kind.name(), growth.name)),
            Err(error) => monitor.warn(format!(
                "the filesystem of {} was not grown: {}. Its room is larger; grow it after the first boot",
                growth.name,
                error.chain()
            )),
        }
    }
    let record = RestoreRecord::new(disk, changes);
    Ok(Outcome {
        read_bytes: report.read_bytes,
        written_bytes,
        kept_bytes,
        verified: options.verify,
        grown: grew,
        record,
        extents,
        leaves,
    })
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

fn commit(plan: &Plan, targets: &mut [Open]) -> Result<()> {
    let doing = |disk: &DiskPlan| format!("writing the table of {}", disk.target);
    let disks = || plan.disks.iter();
    for (disk, target) in disks().zip(&*targets) {
        if let Open::Disk { held, .. } = target {
            held.commit_rest().doing(|| doing(disk))?;
        }
    }
    for (disk, target) in disks().zip(&*targets) {
        if let Open::Disk { held, .. } = target {
            held.commit_first().doing(|| doing(disk))?;
        }
    }
    for target in targets {
        match target {
            Open::Disk { held, partial: None } => held.disk().reread(),
            Open::Disk { partial: Some(partial), .. } | Open::Image { partial, .. } => partial.rename()?,
        }
    }
    Ok(())
}
