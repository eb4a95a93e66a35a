// SPDX-License-Identifier: Apache-2.0
//! One capture of disks in use, from the first pass to the thaw.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use unmoor_images::copy;
use unmoor_images::layout::{DiskLayout, Moment};
use unmoor_images::manifest::LiveRecord;
use unmoor_images::merkle::Hash;
use unmoor_images::{BlockSink, Error, ErrorKind, Monitor, Result};

use super::filesystems::{self, Filesystem};
use super::frozen::freeze_all;
use super::held::Held;
use super::passes::{Known, Passes, show_bytes};
use super::watchdog::Watchdog;
use super::{Method, Options, hooks};
use crate::disk::{Disk, Kind};
use crate::in_use::{self, User};
use crate::request::{Request, Target, usage};
use crate::sys::freeze;
use crate::track::{Source, Tracker};

/// Passes before the freeze, at most.
const MOST_PASSES: u32 = 30;
/// Freezes that came too early, at most.
const MOST_FREEZES: u32 = 3;

/// What was taken.
pub(crate) struct Taken {
    /// One element a disk.
    pub(crate) copies: Vec<copy::Report>,
    /// As they were at the instant.
    pub(crate) layouts: Vec<DiskLayout>,
    /// How it went.
    pub(crate) record: LiveRecord,
}

/// Disks whose writes are followed.
pub(crate) struct Session {
    options: Options,
    filesystems: Vec<Filesystem>,
    /// Who writes to the disks without a filesystem.
    raw_users: Vec<String>,
    /// None where all is read twice instead.
    tracker: Option<Tracker>,
    watchdog: Watchdog,
    known: Mutex<Known>,
}

impl Session {
    /// Finds what is mounted on `disks`, refuses a target that would be frozen with them, and begins to follow their writes.
    pub(crate) fn start(
        request: &Request,
        options: &Options,
        disks: &[Disk<'_>],
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let mut sources = Vec::new();
        for disk in disks {
            let Kind::Device { number, .. } = disk.kind() else {
                return Err(usage(
                    format!("capturing {} live", disk.path().display()),
                    "it is an image file: --live is for the disks of this host",
                ));
            };
            if !disk.is_direct() {
                let because =
                    "its driver has no direct reads, and what the kernel remembers of it may be old";
                return Err(Error::unsupported("capturing live", because).path(disk.path()));
            }
            sources.push(Source { number: *number, size: unmoor_images::BlockSource::size(disk) });
        }
        let paths: Vec<PathBuf> = disks.iter().map(|disk| disk.path().to_owned()).collect();
        let filesystems = filesystems::find(&paths)?;
        refuse_target(&request.target, &filesystems)?;
        let raw_users = raw_users(&paths, &filesystems)?;
        for user in &raw_users {
            monitor.warn(format!(
                "no freeze stops it, so that what it writes is crash-consistent at best: {user}"
            ));
        }
        let tracker = match options.method {
            Method::Converge => None,
            Method::Track => Some(start_tracker(&sources, &filesystems)?),
            Method::Best => match start_tracker(&sources, &filesystems) {
                Ok(tracker) => Some(tracker),
                Err(error) => {
                    monitor.warn(format!(
                        "{}: all is read once more under the freeze instead (--consistency converge)",
                        error.chain()
                    ));
                    None
                }
            },
        };
        let files: Vec<&File> = filesystems.iter().map(|filesystem| &filesystem.file).collect();
        let (folder, root) = match &tracker {
            Some(tracker) => {
                let (folder, root) = tracker.place();
                (Some(folder), vec![root])
            }
            None => (None, Vec::new()),
        };
        let watchdog = Watchdog::start(&files, folder.as_deref(), &root)?;
        drop(files);
        Ok(Self {
            options: options.clone(),
            filesystems,
            raw_users,
            tracker,
            watchdog,
            known: Mutex::default(),
        })
    }

    /// Copies the disks to `sinks`, which the caller finishes.
    pub(crate) fn take(
        &self,
        request: &Request,
        disks: &[Disk<'_>],
        sinks: &[Box<dyn BlockSink + '_>],
        monitor: &dyn Monitor,
    ) -> Result<Taken> {
        sinks.iter().try_for_each(|sink| sink.rewrite())?;
        let known = std::mem::take(&mut *self.known());
        let mut passes =
            Passes::new(request, disks, sinks, self.tracker.as_ref(), known, self.options.rate_limit);
        let taken = self.take_passes(&mut passes, monitor);
        *self.known() = passes.into_known();
        taken
    }

    /// Gives the copies of the last capture back, for the next to build upon.
    pub(crate) fn keep(&self, copies: Vec<copy::Report>) {
        self.known().copies = copies;
    }

    /// Asks the receiver of the next capture for what the last has copied.
    pub(crate) fn check_known(&self, relies: &dyn Fn(&Hash) -> bool, monitor: &dyn Monitor) {
        let lost = self.known().check(relies);
        if lost > 0 {
            monitor.note(format!(
                "{} of the last image are not in the store any more, and are read again",
                show_bytes(lost)
            ));
        }
    }

    /// Bytes written since the last pass.
    pub(crate) fn pending_bytes(&self, disks: usize) -> u64 {
        self.tracker.as_ref().map_or(0, |tracker| (0..disks).map(|disk| tracker.pending_bytes(disk)).sum())
    }

    /// True where writes are followed.
    pub(crate) fn tracks(&self) -> bool {
        self.tracker.is_some()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_passes(&self, passes: &mut Passes<'_, '_>, monitor: &dyn Monitor) -> Result<Taken> {
        let mut freezes = 0;
        loop {
            let left = self.converge(passes, monitor)?;
            freezes += 1;
            if let Some(taken) = self.freeze(passes, left, monitor)? {
                return Ok(taken);
            }
            if freezes == MOST_FREEZES {
                let because = format!(
                    "{freezes} times so much was written until the filesystems were frozen that copying it would have taken \
                     longer than --max-freeze-hard: raise it, or capture when there is less to do"
                );
                return Err(Error::new(ErrorKind::Refused, "capturing disks in use").because(because));
            }
            monitor
                .note("more was written until the freeze than fits it: going on before the next".to_owned());
        }
    }

    /// Copies until what is left fits the freeze. Answers how long copying that will take.
    fn converge(&self, passes: &mut Passes<'_, '_>, monitor: &dyn Monitor) -> Result<Duration> {
        let mut before = u64::MAX;
        for _ in 0..MOST_PASSES {
            self.sync();
            let began = Instant::now();
            let copied = passes.run(Moment::Mounted, None, monitor)?.unwrap_or(0);
            let spent = began.elapsed();
            if let Some(because) = self.tracker.as_ref().and_then(Tracker::lost_because) {
                monitor.note(format!("{because}: all is copied once more"));
            }
            let left = passes.pending_bytes();
            let time = passes.time_for(left);
            monitor.note(format!(
                "pass {}: {} copied in {:.1} s, {} written meanwhile",
                passes.done(),
                show_bytes(copied),
                spent.as_secs_f64(),
                show_bytes(left),
            ));
            if time <= self.options.max_freeze / 2 {
                return Ok(time);
            }
            // Nine tenths of the last time is no progress.
            if self.tracker.is_none() || left / 9 > before / 10 {
                if time > self.options.max_freeze_hard / 2 {
                    let because = format!(
                        "{} are written while as much is copied, so that a freeze would take {:.1} s: give --max-freeze-hard {} or \
                         more, or capture when there is less to do",
                        show_bytes(left),
                        time.as_secs_f64(),
                        (time.as_secs_f64() * 2.0).ceil(),
                    );
                    return Err(Error::refused("capturing disks in use", because));
                }
                monitor.warn(format!(
                    "what is left does not shrink: writers will wait for about {:.1} s, which is more than --max-freeze",
                    time.as_secs_f64()
                ));
                return Ok(time);
            }
            before = left;
        }
        let left = passes.pending_bytes();
        Ok(passes.time_for(left))
    }

    /// Freezes, copies the last of it, and thaws. None if that was too much after all.
    fn freeze(
        &self,
        passes: &mut Passes<'_, '_>,
        left: Duration,
        monitor: &dyn Monitor,
    ) -> Result<Option<Taken>> {
        let hooks = match &self.options.hooks {
            Some(folder) => Some(hooks::freeze(folder, self.options.hook_limit, monitor)?),
            None => None,
        };
        let names = hooks.as_ref().map(hooks::Hooks::names).unwrap_or_default();
        self.settle();
        let _locked = Locked::new();
        let held = Held::new(monitor);
        let began = Instant::now();
        let (frozen, left_out) = freeze_all(&self.filesystems, &self.watchdog, self.options.max_freeze_hard)?;
        let freezing = began.elapsed();
        let instant = jiff::Timestamp::now();
        let limit = self.options.max_freeze_hard * 7 / 10;
        let enough = passes.run(Moment::Frozen, Some(limit.saturating_sub(frozen.elapsed())), &held)?;
        let strangers = if enough.is_some() { passes.follow_strangers(&held)? } else { 0 };
        #[cfg(test)]
        if let Some(look) = &self.options.while_frozen {
            (look.0)();
        }
        let proof = self.tracker.as_ref().map_or(Ok(()), Tracker::prove);
        let spent = frozen.thaw()?;
        drop(hooks);
        held.release();
        let Some(copied) = enough else { return Ok(None) };
        if let Err(because) = proof {
            monitor.warn(format!("the writes were not all followed ({because}): all is copied once more"));
            passes.distrust();
            return Ok(None);
        }
        if !left_out.is_empty() {
            monitor.note(format!("synced, for they cannot be frozen: {}", left_out.join(", ")));
        }
        if strangers > 0 {
            monitor.warn(format!(
                "{} were written while all filesystems were frozen, by somebody who uses a disk without one (a database or a \
                 virtual machine on a volume, swap in use): those are crash-consistent at best",
                show_bytes(strangers)
            ));
        }
        if spent > self.options.max_freeze {
            monitor.note(format!(
                "writers waited for {} ms, {} of them while the kernel froze, and {} were expected",
                spent.as_millis(),
                freezing.as_millis(),
                left.as_millis()
            ));
        }
        let record = LiveRecord {
            instant: instant.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
            method: if self.tracker.is_some() { "track" } else { "converge" }.to_owned(),
            passes: passes.done(),
            frozen_milliseconds: spent.as_millis() as u64,
            freezing_milliseconds: freezing.as_millis() as u64,
            last_pass_bytes: copied,
            filesystems: self
                .filesystems
                .iter()
                .map(|filesystem| filesystem.at.display().to_string())
                .collect(),
            not_frozen: left_out,
            hooks: names,
            raw_users: self.raw_users.clone(),
            written_while_frozen_bytes: strangers,
        };
        let (copies, layouts) = passes.finish()?;
        Ok(Some(Taken { copies, layouts, record }))
    }

    fn sync(&self) {
        for filesystem in &self.filesystems {
            // A failure shows when it is frozen.
            let _ = freeze::sync(&filesystem.file);
        }
    }

    /// Syncs until doing so is quick: freezing syncs too, and keeps writers waiting meanwhile.
    fn settle(&self) {
        for _ in 0..8 {
            let began = Instant::now();
            self.sync();
            if began.elapsed() < self.options.max_freeze / 4 {
                return;
            }
        }
    }
}

/// Memory that is not paged out while it lives: a page that is read back may wait for the frozen disk.
struct Locked(bool);

impl Locked {
    fn new() -> Self {
        Self(freeze::lock_memory())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if self.0 {
            freeze::unlock_memory();
        }
    }
}

/// Who has a device of the disks open for itself, and is neither a filesystem that will be frozen nor swap: a database or a virtual machine on a
/// volume, an iSCSI export, ZFS.
fn raw_users(disks: &[PathBuf], filesystems: &[Filesystem]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in disks {
        for user in in_use::claim(path)?.users {
            let frozen = |device: &PathBuf| {
                let number = std::fs::metadata(device).map_or(0, |device| device.rdev());
                filesystems.iter().any(|filesystem| filesystem.number == number)
            };
            match &user {
                User::Claimed { device } if !frozen(device) => found.push(device.display().to_string()),
                User::Qemu { image } => found.push(image.display().to_string()),
                User::Claimed { .. } | User::Mounted { .. } | User::Swap { .. } => {}
            }
        }
    }
    Ok(found)
}

/// A target on a frozen filesystem would be waited for by a thaw that waits for it.
fn refuse_target(target: &Target, filesystems: &[Filesystem]) -> Result<()> {
    let folder = match target {
        Target::Files { path, .. } => match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        },
        Target::Store { location: unmoor_images::store::Location::Directory(folder), .. } => folder.clone(),
        Target::Store { .. } | Target::Server { .. } => return Ok(()),
        Target::Stream(_) => {
            return Err(usage(
                "capturing live",
                "what was streamed cannot be corrected: name a file or a store",
            ));
        }
    };
    let Some(device) =
        folder.ancestors().find_map(|folder| std::fs::metadata(folder).ok()).map(|folder| folder.dev())
    else {
        return Ok(());
    };
    let own = |filesystem: &&Filesystem| {
        device == filesystem.number || filesystem.file.metadata().is_ok_and(|file| file.dev() == device)
    };
    match filesystems.iter().find(own) {
        None => Ok(()),
        Some(filesystem) => Err(Error::refused(
            format!("capturing to {target}"),
            format!(
                "{} lies on a disk that is captured, and will be frozen: choose a target on another disk, a store on S3, or a server",
                filesystem.at.display()
            ),
        )),
    }
}

/// Begins to follow, and makes sure by a write of our own that writes are heard of.
fn start_tracker(sources: &[Source], filesystems: &[Filesystem]) -> Result<Tracker> {
    let tracker = Tracker::start(sources)?;
    let mut tried = false;
    for filesystem in filesystems {
        tried |= write_something(&filesystem.file).is_ok();
    }
    let heard = (0..sources.len()).any(|disk| tracker.pending_bytes(disk) > 0);
    if tried && !heard {
        let because = "the kernel did not tell of a write of our own";
        return Err(Error::unsupported("tracking writes", because));
    }
    Ok(tracker)
}

/// Writes a page to a file without a name, which is gone afterwards.
fn write_something(root: &File) -> std::io::Result<()> {
    // SAFETY: the path ends in zero; the descriptor that comes back is ours alone.
    let file = unsafe {
        let flags = libc::O_TMPFILE | libc::O_WRONLY | libc::O_CLOEXEC;
        let descriptor = libc::openat(root.as_raw_fd(), c".".as_ptr(), flags, 0o600);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        File::from_raw_fd(descriptor)
    };
    file.write_all_at(&[0x55; 4096], 0)?;
    file.sync_all()
}

/// The sources, opened for reading while they are in use.
pub(crate) fn open_disks<'a>(request: &Request, monitor: &'a dyn Monitor) -> Result<Vec<Disk<'a>>> {
    request.sources.iter().map(|path| Disk::open(path, &request.open, monitor)).collect()
}
