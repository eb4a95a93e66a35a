// SPDX-License-Identifier: Apache-2.0
//! The disks of one machine, opened, claimed and taken apart. Nothing is written.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use unmoor_images::layout::{self, DiskLayout};
use unmoor_images::manifest::{Consistency, DiskFacts, MachineFacts};
use unmoor_images::monitor::{Event, Phase};
use unmoor_images::{BlockSource, Error, Monitor, Result, ResultExt, State};

use crate::disk::{Disk, Kind, OpenOptions};
use crate::facts::{self, Tree};
use crate::in_use::{self, Claim};

/// How to survey.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How to open the sources.
    pub open: OpenOptions,
    /// How to take them apart.
    pub layout: layout::Options,
    /// What to do about a source that somebody may write to.
    pub in_use: InUse,
}

/// What to do about a source that somebody may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// Refuse it, naming who; and keep writers out while the survey lives.
    Refuse,
    /// Take it, with a warning.
    Take,
    /// Say it in a warning; the content is only looked at.
    Mention,
}

/// Disks of one machine, ready to be read.
pub struct Survey<'a> {
    /// The disks in the order in which they were named.
    pub disks: Vec<Disk<'a>>,
    /// What is on each.
    pub layouts: Vec<DiskLayout>,
    /// How consistent reading them can be.
    pub consistency: Consistency,
    /// Keeps others from writing.
    _claims: Vec<Claim>,
}

/// Opens and takes apart the disks at `paths`: block devices or images.
pub fn survey<'a>(paths: &[PathBuf], options: &Options, monitor: &'a dyn Monitor) -> Result<Survey<'a>> {
    let (claims, consistency) = claim(paths, options.in_use, monitor)?;
    let mut disks = Vec::new();
    for path in paths {
        let disk = Disk::open(path, &options.open, monitor)?;
        for warning in disk.warnings() {
            monitor.warn(format!("{}: {warning}", path.display()));
        }
        disks.push(disk);
    }
    analyze(disks, claims, consistency, options, monitor)
}

/// Takes apart disks that are open already, and that nobody writes to.
pub fn survey_disks<'a>(
    disks: Vec<Disk<'a>>,
    options: &Options,
    monitor: &'a dyn Monitor,
) -> Result<Survey<'a>> {
    analyze(disks, Vec::new(), Consistency::Offline, options, monitor)
}

fn analyze<'a>(
    disks: Vec<Disk<'a>>,
    claims: Vec<Claim>,
    consistency: Consistency,
    options: &Options,
    monitor: &'a dyn Monitor,
) -> Result<Survey<'a>> {
    for (index, disk) in disks.iter().enumerate() {
        let name = disk.path().display().to_string();
        monitor.event(Event::Started { disk: index, phase: Phase::Analyze, total_bytes: 0, name });
    }
    let sources: Vec<&dyn BlockSource> = disks.iter().map(|disk| disk as &dyn BlockSource).collect();
    let layouts = layout::analyze(&sources, &options.layout, monitor)
        .doing(|| format!("analyzing {}", join(&disks)))?;
    for (index, (disk, layout)) in disks.iter().zip(&layouts).enumerate() {
        monitor.event(Event::Finished { disk: index });
        for warning in layout.table.warnings.iter().chain(&layout.warnings) {
            monitor.warn(format!("{}: {warning}", disk.path().display()));
        }
    }
    Ok(Survey { disks, layouts, consistency, _claims: claims })
}

pub(crate) fn claim(
    paths: &[PathBuf],
    in_use: InUse,
    monitor: &dyn Monitor,
) -> Result<(Vec<Claim>, Consistency)> {
    let mut claims = Vec::new();
    let mut consistency = Consistency::Offline;
    for path in paths {
        let claim = in_use::claim(path)?;
        let users: Vec<String> = claim.users.iter().map(in_use::User::explain).collect();
        let users = users.join("; ");
        match in_use {
            _ if claim.users.is_empty() => {}
            InUse::Refuse => {
                return Err(Error::refused(
                    "capturing",
                    format!("{users}. Or give --unsafe-live for a copy that is crash-consistent at best"),
                )
                .path(path));
            }
            InUse::Take => {
                monitor.warn(format!(
                    "crash-consistent at best, and spread over the time of the capture: {users}"
                ));
                consistency = Consistency::Live;
                // What filesystems hold back in memory is not on the disk. They go on changing it after this.
                nix::unistd::sync();
            }
            InUse::Mention => {
                monitor
                    .warn(format!("{} is in use, and may change while it is read: {users}", path.display()));
                consistency = Consistency::Live;
            }
        }
        if in_use == InUse::Refuse {
            claims.push(claim);
        }
    }
    Ok((claims, consistency))
}

impl Survey<'_> {
    /// Bytes of data on disk number `index`.
    pub fn data_bytes(&self, index: usize) -> u64 {
        self.layouts.get(index).map_or(0, |layout| layout.extents.bytes(State::Data))
    }

    /// Facts of the machine, if every disk is hardware of this one: not for image files, loop or network devices.
    pub fn machine(&self) -> Option<MachineFacts> {
        machine_of(&self.disks)
    }
}

/// See [`Survey::machine`].
pub(crate) fn machine_of(disks: &[Disk<'_>]) -> Option<MachineFacts> {
    let here = disks.iter().all(|disk| disk_facts(disk).is_some());
    here.then(|| facts::read(&Tree::default()))
}

/// Facts of the hardware behind a disk, if it is some.
pub(crate) fn disk_facts(disk: &Disk<'_>) -> Option<DiskFacts> {
    let Kind::Device { number, .. } = disk.kind() else { return None };
    facts::describe_disk(&Tree::default(), *number)
}

/// When a source was last written, for noticing that somebody wrote during the capture: of files alone, for the kernel
/// keeps no such time for devices.
pub(crate) fn written_at(path: &Path) -> Option<(i64, i64, u64)> {
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

fn join(disks: &[Disk<'_>]) -> String {
    let names: Vec<String> = disks.iter().map(|disk| disk.path().display().to_string()).collect();
    names.join(", ")
}
