// SPDX-License-Identifier: Apache-2.0
//! Which parts of a disk are written to while it is read.
//!
//! ```text
//!   request issued    --tracepoint--+                                  +--> marks, 64 KiB a bit
//!                                   +--> our trace instance --pages--> |
//!   request completed --tracepoint--+      (per processor)             +--> lost? then all is marked
//! ```
//!
//! A write is marked when it is issued and once more when it completes, so that whoever reads in between reads again. The kernel
//! counts the events that found no room; as long as it counts none, and the sectors that it has written to the disk are no
//! more than those that we heard of, nothing was lost. One that cannot be sure says [`Changed::Everything`].
//!
//! Why a trace instance and no BPF program: its losses are counted by the kernel in every version since 4.18, in all
//! contexts. A program on a tracepoint is left out silently where another one runs on the same processor, and that was not
//! counted before 5.15.

mod eligible;
mod instance;
mod marks;
mod record;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use unmoor_images::{Error, Result};

use instance::Instance;
use marks::Marks;
use record::Change;

pub use eligible::check;
pub use marks::Changed;

/// How often the kernel's buffers are emptied.
const PERIOD: Duration = Duration::from_millis(10);

/// Follows the writes to some disks until it is dropped.
pub struct Tracker {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

struct State {
    instance: Instance,
    disks: Vec<Tracked>,
    buffer: Vec<u8>,
    lost_before: u64,
    /// What made the marks worth nothing, until somebody has asked.
    failed: Option<String>,
}

struct Tracked {
    /// As the kernel's events have it.
    dev: u32,
    marks: Marks,
    /// Sectors of changes that completed.
    completed: u64,
    /// The kernel's own count of them, and where it stands.
    statistics: PathBuf,
    counted_at_start: u64,
}

/// A disk to follow.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The kernel's number for it (`st_rdev`); a whole disk.
    pub number: u64,
    /// In bytes.
    pub size: u64,
}

impl Tracker {
    /// Begins to follow `disks`: every write that is issued from now on is marked.
    ///
    /// # Errors
    ///
    /// `Unsupported` where the kernel cannot, and says what it lacks.
    pub fn start(disks: &[Source]) -> Result<Self> {
        let devices: Vec<u32> = disks.iter().map(|disk| kernel_number(disk.number)).collect();
        for disk in disks {
            check(disk.number)?;
        }
        let instance = Instance::create(&devices)?;
        let disks = disks
            .iter()
            .zip(devices)
            .map(|(disk, dev)| {
                let (major, minor) = (libc::major(disk.number), libc::minor(disk.number));
                let statistics = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
                let counted_at_start = changed_sectors(&statistics).unwrap_or(u64::MAX);
                Tracked { dev, marks: Marks::new(disk.size), completed: 0, statistics, counted_at_start }
            })
            .collect();
        let state = State { instance, disks, buffer: Vec::new(), lost_before: 0, failed: None };
        let (state, stop) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let reader = std::thread::Builder::new()
            .name("unmoor-track".into())
            .spawn({
                let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        lock(&state).drain();
                        std::thread::sleep(PERIOD);
                    }
                }
            })
            .map_err(|error| Error::io("starting a thread", error))?;
        Ok(Self { state, stop, reader: Some(reader) })
    }

    /// What was written to disk number `disk` (of those given at the start) since this was last asked.
    pub fn take(&self, disk: usize) -> Changed {
        let mut state = lock(&self.state);
        state.drain();
        state.check_lost();
        state.disks.get_mut(disk).map_or(Changed::Everything, |disk| disk.marks.take())
    }

    /// Why an answer of [`take`](Self::take) was [`Changed::Everything`], since this was last asked.
    pub fn lost_because(&self) -> Option<String> {
        lock(&self.state).failed.take()
    }

    /// Bytes of what [`take`](Self::take) would answer.
    pub fn pending_bytes(&self, disk: usize) -> u64 {
        let mut state = lock(&self.state);
        state.drain();
        state.disks.get(disk).map_or(0, |disk| disk.marks.bytes())
    }

    /// Holds the kernel's own count of sectors written against what was heard of. To be asked while nobody writes: else a
    /// request may be counted there and not yet here.
    pub fn prove(&self) -> std::result::Result<(), String> {
        let mut state = lock(&self.state);
        state.drain();
        state.check_lost();
        if let Some(because) = &state.failed {
            return Err(because.clone());
        }
        for disk in &state.disks {
            let Some(now) = changed_sectors(&disk.statistics) else { continue };
            let counted = now.saturating_sub(disk.counted_at_start);
            if counted > disk.completed {
                return Err(format!(
                    "the kernel counts {counted} sectors written, and {} were heard of",
                    disk.completed
                ));
            }
        }
        Ok(())
    }

    /// The folder in the tracing filesystem that is to be removed if this process dies, and the descriptor through which it is
    /// reached where tracefs is mounted for us alone.
    pub fn place(&self) -> (PathBuf, std::os::fd::RawFd) {
        let state = lock(&self.state);
        (state.instance.folder().to_owned(), state.instance.root())
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl State {
    /// Empties the kernel's buffers into the marks.
    fn drain(&mut self) {
        let Self { instance, disks, buffer, .. } = self;
        let (formats, pages) = ([instance.issue, instance.complete], instance.pages);
        let mut lost = None;
        let read = instance.pages(buffer, |bytes| {
            let Some(page) = pages.read(bytes) else {
                lost = Some("a page of trace events makes no sense");
                return;
            };
            if page.missed {
                lost = Some("trace events were lost");
            }
            for event in page.events {
                let id = event.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
                let Some(format) = formats.iter().find(|format| Some(format.id) == id) else { continue };
                let Some(request) = format.read(event) else {
                    lost = Some("a trace event is shorter than its format");
                    continue;
                };
                let Some(disk) = disks.iter_mut().find(|disk| disk.dev == request.dev) else { continue };
                match request.change {
                    Change::Nothing => {}
                    Change::Unknown => disk.marks.mark_everything(),
                    Change::At { offset, len } => {
                        disk.marks.mark(offset, len);
                        if format.id == formats[1].id {
                            disk.completed = disk.completed.saturating_add(len / 512);
                        }
                    }
                }
            }
        });
        let because = lost.map(str::to_owned).or_else(|| read.err().map(|error| error.chain()));
        self.lose(because);
    }

    fn check_lost(&mut self) {
        let because = match self.instance.lost() {
            Ok(lost) if lost == self.lost_before => None,
            Ok(lost) => {
                let more = lost - self.lost_before.min(lost);
                self.lost_before = lost;
                Some(format!("the kernel had no room for {more} trace events"))
            }
            Err(error) => Some(error.chain()),
        };
        self.lose(because);
    }

    fn lose(&mut self, because: Option<String>) {
        if let Some(because) = because {
            for disk in &mut self.disks {
                disk.marks.mark_everything();
                // What was written and not heard of is read again; the counts do not match any more.
                disk.counted_at_start = u64::MAX;
            }
            self.failed = Some(because);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `dev_t` as the kernel has it inside.
fn kernel_number(number: u64) -> u32 {
    (libc::major(number) << 20) | (libc::minor(number) & ((1 << 20) - 1))
}

/// Sectors written and discarded (fields 7 and 14 of `Documentation/block/stat.rst`).
fn changed_sectors(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let fields: Vec<u64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    Some(fields.get(6)?.saturating_add(fields.get(13).copied().unwrap_or(0)))
}

#[cfg(test)]
mod tests;
