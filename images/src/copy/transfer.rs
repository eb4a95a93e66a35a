// SPDX-License-Identifier: Apache-2.0
//! Source to sink, with leaf hashes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cursor::{Cursor, Work};
use super::{Options, refine};
use crate::formats::AlignedBuffer;
use crate::merkle::{self, Hash, Leaves};
use crate::monitor::Event;
use crate::{BlockSink, BlockSource, Error, ErrorKind, ExtentMap, LEAF, Monitor, Result, State};

/// What a copy did.
#[derive(Debug)]
pub struct Report {
    /// The hash of every leaf, holes as zeros.
    pub leaves: Leaves,
    /// The map as copied: data that the container knew to be zero is zero here.
    pub extents: ExtentMap,
    /// Bytes read from the source.
    pub read_bytes: u64,
}

/// The workers' common state.
struct Shared<'a> {
    cursor: Mutex<Cursor<'a>>,
    failed: AtomicBool,
    first_error: Mutex<Option<Error>>,
    done_bytes: AtomicU64,
    last_report: Mutex<Instant>,
}

/// Copies every data and zero byte of `extents` from `source` to `sink`, which the caller finishes.
///
/// A granule that is partly hole gets zeros there. The first failure stops all workers and is returned.
pub fn copy(
    source: &dyn BlockSource,
    extents: &ExtentMap,
    sink: &dyn BlockSink,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Report> {
    if source.size() < extents.size() {
        return Err(Error::malformed("copying a disk", "the extent map is larger than the disk"));
    }
    let extents = refine(source, extents)?;
    let total_bytes = extents.bytes(State::Data);
    monitor.event(Event::Started {
        disk: options.disk,
        phase: options.phase,
        total_bytes,
        name: options.name.clone(),
    });
    let shared = Shared {
        cursor: Mutex::new(Cursor::new(&extents, sink.granule())),
        failed: AtomicBool::new(false),
        first_error: Mutex::new(None),
        done_bytes: AtomicU64::new(0),
        last_report: Mutex::new(Instant::now()),
    };
    let slab = lock(&shared.cursor).slab();
    sink.begin(&extents);
    let mut pairs = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.worker_count())
            .map(|_| {
                scope.spawn(|| {
                    let mut worker = Worker {
                        source,
                        extents: &extents,
                        sink,
                        buffer: AlignedBuffer::new(slab as usize),
                        pairs: Vec::new(),
                        hashes: Vec::new(),
                    };
                    if let Err(error) = worker.run(&shared, options, monitor) {
                        keep_cause(&mut lock(&shared.first_error), error);
                        shared.failed.store(true, Ordering::Relaxed);
                        // Others may wait for their turn in an ordered stream.
                        source.abort();
                        sink.abort();
                    }
                    worker.pairs
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(mut found) if pairs.is_empty() => pairs = std::mem::take(&mut found),
                Ok(found) => pairs.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    if let Some(error) = lock(&shared.first_error).take() {
        return Err(error);
    }
    monitor.event(Event::Advanced {
        disk: options.disk,
        done_bytes: shared.done_bytes.load(Ordering::Relaxed),
        written_bytes: sink.written_bytes(),
    });
    monitor.event(Event::Finished { disk: options.disk });
    let read_bytes = shared.done_bytes.load(Ordering::Relaxed);
    drop(shared);
    let leaves = Leaves::from_pairs(extents.size(), pairs)?;
    Ok(Report { leaves, extents, read_bytes })
}

/// Keeps the first error, but for one that only says that something else failed: a stream wakes its waiters
/// before the thread that failed has come to tell why.
fn keep_cause(kept: &mut Option<Error>, error: Error) {
    if kept.as_ref().is_none_or(|kept| kept.kind() == ErrorKind::Cancelled) {
        *kept = Some(error);
    }
}

/// A poisoned lock only means that another worker panicked, which is resumed anyway.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker<'a> {
    source: &'a dyn BlockSource,
    extents: &'a ExtentMap,
    sink: &'a dyn BlockSink,
    buffer: AlignedBuffer,
    pairs: Vec<(u64, Hash)>,
    /// Of the slab at hand.
    hashes: Vec<Hash>,
}

impl Worker<'_> {
    fn run(&mut self, shared: &Shared<'_>, options: &Options, monitor: &dyn Monitor) -> Result<()> {
        loop {
            if shared.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            if monitor.cancelled() {
                return Err(
                    Error::new(ErrorKind::Cancelled, options.phase.label()).because("stopped on request")
                );
            }
            // The guard must not live through the work.
            let work = lock(&shared.cursor).next();
            let read = match work {
                None => return Ok(()),
                Some(Work::Zeros { offset, len }) => {
                    self.sink.write_zeros(offset, len)?;
                    0
                }
                Some(Work::Slab { offset, len }) => self.slab(offset, len)?,
            };
            let done_bytes = shared.done_bytes.fetch_add(read, Ordering::Relaxed) + read;
            if let Ok(mut last) = shared.last_report.try_lock()
                && last.elapsed() >= Duration::from_millis(100)
            {
                *last = Instant::now();
                let written_bytes = self.sink.written_bytes();
                monitor.event(Event::Advanced { disk: options.disk, done_bytes, written_bytes });
            }
        }
    }

    /// Reads, hashes and writes one slab; answers how many bytes of data it had.
    fn slab(&mut self, offset: u64, len: u64) -> Result<u64> {
        let buffer = self.buffer.get_mut(..len as usize).unwrap_or(&mut []);
        let began = Instant::now();
        let mut read = 0;
        for extent in self.extents.within(offset..offset + len) {
            let from = (extent.offset - offset) as usize;
            let Some(part) = buffer.get_mut(from..from + extent.len as usize) else { continue };
            if extent.state == State::Data {
                self.source.read_at(part, extent.offset)?;
                read += extent.len;
            } else {
                part.fill(0);
            }
        }
        self.sink.observe_read(began.elapsed());
        self.hashes.clear();
        for (index, data) in buffer.chunks(LEAF as usize).enumerate() {
            let hash = merkle::leaf(data);
            self.hashes.push(hash);
            if hash != merkle::zero_leaf(data.len() as u64) {
                self.pairs.push((offset / LEAF + index as u64, hash));
            }
        }
        write_granules(self.sink, self.extents, buffer, offset, &self.hashes)?;
        Ok(read)
    }
}

/// What a granule of a slab needs.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Need {
    Nothing,
    Zeros,
    Data,
}

/// Hands a slab to the sink as the longest runs of granules that need the same.
fn write_granules(
    sink: &dyn BlockSink,
    extents: &ExtentMap,
    buffer: &[u8],
    offset: u64,
    leaves: &[Hash],
) -> Result<()> {
    let granule = sink.granule();
    let needs = |start: u64, data: &[u8]| {
        let end = start + data.len() as u64;
        let mut all_hole = true;
        let mut any_data = false;
        for extent in extents.within(start..end) {
            all_hole &= extent.state == State::Hole;
            any_data |= extent.state == State::Data;
        }
        match (all_hole, any_data && !merkle::is_zero(data)) {
            (true, _) => Need::Nothing,
            (false, true) => Need::Data,
            (false, false) => Need::Zeros,
        }
    };
    let flush = |from: usize, to: usize, need: Need| -> Result<()> {
        let data = buffer.get(from..to).unwrap_or(&[]);
        let start = offset + from as u64;
        match need {
            _ if data.is_empty() => Ok(()),
            Need::Nothing => Ok(()),
            Need::Zeros => sink.write_zeros(start, data.len() as u64),
            Need::Data => {
                let first = from / LEAF as usize;
                let whole = from.is_multiple_of(LEAF as usize);
                let leaves = if whole { leaves.get(first..).unwrap_or_default() } else { &[] };
                sink.write_hashed(data, start, leaves)
            }
        }
    };
    let (mut from, mut at, mut current) = (0, 0, Need::Nothing);
    for data in buffer.chunks(granule as usize) {
        let need = needs(offset + at as u64, data);
        if need != current {
            flush(from, at, current)?;
            (from, current) = (at, need);
        }
        at += data.len();
    }
    flush(from, at, current)
}
