// SPDX-License-Identifier: Apache-2.0
//! Reading back: every leaf of a disk against its recorded hash.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cursor::{Cursor, Work};
use super::{Options, refine};
use crate::formats::AlignedBuffer;
use crate::merkle::{self, Leaves};
use crate::monitor::Event;
use crate::{BlockSource, Error, ErrorKind, ExtentMap, LEAF, Monitor, Result, State};

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Byte ranges, in whole leaves, that differ from their hashes. Ascending.
    pub differing: Vec<Range<u64>>,
    /// Byte ranges that could not be read, with the reason.
    pub unreadable: Vec<(Range<u64>, String)>,
    /// Bytes read.
    pub read_bytes: u64,
}

impl Comparison {
    /// True if every leaf was read and is as recorded.
    pub fn is_exact(&self) -> bool {
        self.differing.is_empty() && self.unreadable.is_empty()
    }
}

/// Compares all data and zero bytes of `extents` on `disk` with `leaves`; holes count as zeros without being read.
pub fn verify(
    disk: &dyn BlockSource,
    extents: &ExtentMap,
    leaves: &Leaves,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Comparison> {
    if disk.size() < extents.size() || leaves.size() != extents.size() {
        return Err(Error::new(ErrorKind::Mismatch, "verifying a disk").because(format!(
            "it has {} bytes, the image {}",
            disk.size(),
            leaves.size()
        )));
    }
    // A zero extent of the map must be read on the disk, unless its container knows it to be zero.
    let to_read = ExtentMap::from_extents(extents.iter().map(|mut extent| {
        if extent.state == State::Zero {
            extent.state = State::Data;
        }
        extent
    }))?;
    let to_read = refine(disk, &to_read)?;
    let total_bytes = to_read.bytes(State::Data);
    monitor.event(Event::Started {
        disk: options.disk,
        phase: options.phase,
        total_bytes,
        name: options.name.clone(),
    });
    let cursor = Mutex::new(Cursor::new(&to_read, LEAF));
    let done = AtomicU64::new(0);
    let found = Mutex::new((Comparison::default(), None::<Error>));
    std::thread::scope(|scope| {
        for _ in 0..options.worker_count() {
            scope.spawn(|| {
                let mut buffer = AlignedBuffer::new(4 * LEAF as usize);
                loop {
                    let work = lock(&cursor).next();
                    let outcome = match work {
                        None => return,
                        Some(_) if monitor.cancelled() => {
                            Err(Error::new(ErrorKind::Cancelled, "verifying").because("stopped on request"))
                        }
                        Some(Work::Zeros { offset, len }) => {
                            expect_zeros(leaves, offset, len, &mut lock(&found).0);
                            Ok(0)
                        }
                        Some(Work::Slab { offset, len }) => {
                            let data = buffer.get_mut(..len as usize).unwrap_or(&mut []);
                            compare_slab(disk, &to_read, leaves, data, offset, &found)
                        }
                    };
                    match outcome {
                        Ok(read) => {
                            let done_bytes = done.fetch_add(read, Ordering::Relaxed) + read;
                            monitor.event(Event::Advanced {
                                disk: options.disk,
                                done_bytes,
                                written_bytes: 0,
                            });
                        }
                        Err(error) => {
                            lock(&found).1.get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    let (mut comparison, error) = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    comparison.read_bytes = done.into_inner();
    comparison.differing.sort_by_key(|range| range.start);
    comparison.differing.dedup_by(|next, kept| {
        let touches = next.start <= kept.end;
        if touches {
            kept.end = kept.end.max(next.end);
        }
        touches
    });
    comparison.unreadable.sort_by_key(|(range, _)| range.start);
    monitor.event(Event::Finished { disk: options.disk });
    Ok(comparison)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The disk is known to read as zeros here: so must the leaves say.
fn expect_zeros(leaves: &Leaves, offset: u64, len: u64, found: &mut Comparison) {
    let (first, end) = (offset / LEAF, (offset + len).div_ceil(LEAF));
    for (run, count, hash) in leaves.runs_within(first..end) {
        let bytes = run * LEAF..((run + count) * LEAF).min(leaves.size());
        if hash != merkle::zero_leaf((bytes.end - bytes.start).min(LEAF)) {
            found.differing.push(bytes);
        }
    }
}

fn compare_slab(
    disk: &dyn BlockSource,
    to_read: &ExtentMap,
    leaves: &Leaves,
    buffer: &mut [u8],
    offset: u64,
    found: &Mutex<(Comparison, Option<Error>)>,
) -> Result<u64> {
    let mut read = 0;
    let end = offset + buffer.len() as u64;
    let mut failed = false;
    for extent in to_read.within(offset..end) {
        let from = (extent.offset - offset) as usize;
        let Some(part) = buffer.get_mut(from..from + extent.len as usize) else { continue };
        if extent.state != State::Data {
            part.fill(0);
            continue;
        }
        match disk.read_at(part, extent.offset) {
            Ok(()) => read += extent.len,
            // Leaf by leaf, so that one that cannot be read hides no other.
            Err(_) if end - offset > LEAF => {
                let mut read = 0;
                for (index, leaf) in buffer.chunks_mut(LEAF as usize).enumerate() {
                    read += compare_slab(disk, to_read, leaves, leaf, offset + index as u64 * LEAF, found)?;
                }
                return Ok(read);
            }
            Err(error) => {
                failed = true;
                lock(found).0.unreadable.push((extent.offset..extent.end(), error.chain()));
            }
        }
    }
    if failed {
        return Ok(read);
    }
    for (index, data) in buffer.chunks(LEAF as usize).enumerate() {
        let index = offset / LEAF + index as u64;
        if leaves.get(index) != Some(merkle::leaf(data)) {
            let start = index * LEAF;
            lock(found).0.differing.push(start..start + data.len() as u64);
        }
    }
    Ok(read)
}
