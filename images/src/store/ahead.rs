// SPDX-License-Identifier: Apache-2.0
//! What a reader from front to back will want next, fetched before it asks: large ranges of packs, several at a time.
//!
//! ```text
//!   reads of leaves --run on?--> plan: the next leaves -> ranges of packs -> jobs -> threads -> slots -> who reads the leaf
//! ```
//!
//! What is fetched stays compressed; who reads unpacks and checks it. The window grows with the run, so that a few reads in a row
//! cost little, and is dropped when the reader goes elsewhere. Whatever fails here is left to the reader, who fetches it alone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::near::{Reach, together};
use super::pool::IN_FLIGHT;
use super::reader::{Place, Places};
use crate::merkle::{self, Hash, Leaves};
use crate::{LEAF, Result};

/// At 16 reads of 2 MiB in flight and 50 ms of latency it is 640 MiB/s.
const REACH: Reach = Reach { gap: 64 << 10, most: 2 << 20 };
/// Leaves that are planned at a time: what is to be read together has to be known together.
const STEP: u64 = 64;
/// Leaves of a run before anything is fetched ahead: 2 MiB.
const RUN: u64 = 8;
/// Leaves by which reads of one run may be out of order: those of 16 threads that have 1 MiB each.
const SPREAD: u64 = 64;
/// Leaves that wait at most.
const MOST_SLOTS: usize = 4096;

/// A disk of an image, and where its chunks are.
pub(super) struct Chunks {
    pub(super) places: Arc<Places>,
    pub(super) leaves: Leaves,
}

impl Chunks {
    /// True for what is not stored.
    pub(super) fn is_zero(&self, leaf: u64, hash: &Hash) -> bool {
        *hash == merkle::zero_leaf(self.bytes_of(leaf))
    }

    /// Bytes that a leaf stands for.
    pub(super) fn bytes_of(&self, leaf: u64) -> u64 {
        LEAF.min(self.leaves.size().saturating_sub(leaf.saturating_mul(LEAF)))
    }

    /// The next leaf with a chunk, at `from` or behind it.
    fn next_stored(&self, from: u64) -> Option<u64> {
        let mut runs = self.leaves.runs_within(from..self.leaves.count());
        runs.find_map(|(start, count, hash)| {
            let last = start + count - 1;
            match (self.is_zero(start, &hash), self.is_zero(last, &hash)) {
                (false, _) => Some(start),
                // A disk's last leaf may be short.
                (true, false) => Some(last),
                (true, true) => None,
            }
        })
    }
}

/// Reads ahead for one disk.
pub(super) struct Ahead {
    shared: Arc<Shared>,
}

struct Shared {
    chunks: Arc<Chunks>,
    threads: usize,
    /// Bytes that wait at most.
    window: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Where reads of the run have come to.
    position: u64,
    /// Leaves that the run has had.
    run: u64,
    /// The leaf that is planned next.
    planned: u64,
    slots: BTreeMap<u64, Slot>,
    /// Bytes of all slots.
    held: u64,
    jobs: VecDeque<Job>,
    /// Buffers for the next jobs.
    spare: Vec<Vec<u8>>,
    threads: usize,
    /// True once nobody reads any more, or where there are no threads to be had.
    stopped: bool,
}

/// A leaf that was planned.
struct Slot {
    stored: u64,
    bytes: Option<Fetched>,
}

/// A chunk as it is stored, within what was read with it.
pub(super) struct Fetched {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Fetched {
    pub(super) fn stored(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

/// A range of a pack, and the leaves that are in it with their places.
struct Job {
    pack: u32,
    range: Range<u64>,
    leaves: Vec<(u64, Place)>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans until the window is full.
    fn plan(&self, state: &mut State) {
        let window = self.window.min(state.run.saturating_mul(LEAF).saturating_mul(2));
        let end = self.chunks.leaves.count();
        while state.planned < end && state.held < window && state.slots.len() < MOST_SLOTS {
            let Some(first) = self.chunks.next_stored(state.planned) else {
                state.planned = end;
                return;
            };
            let until = first.saturating_add(STEP).min(end);
            let mut wants: Vec<(u64, Place)> = Vec::new();
            for (start, count, hash) in self.chunks.leaves.runs_within(first..until) {
                for leaf in start..start + count {
                    if self.chunks.is_zero(leaf, &hash) || state.slots.contains_key(&leaf) {
                        continue;
                    }
                    let id = self.chunks.places.store().seal().id(&hash);
                    // What no pack has, the reader will say.
                    let Some(place) = self.chunks.places.place(&id) else { continue };
                    wants.push((leaf, *place));
                    state.held += u64::from(place.stored);
                    state.slots.insert(leaf, Slot { stored: place.stored.into(), bytes: None });
                }
            }
            state.planned = until;
            wants.sort_unstable_by_key(|(_, place)| (place.pack, place.at));
            let mut jobs: Vec<Job> = together(&wants, REACH, |(_, place)| place.span())
                .into_iter()
                .filter_map(|(members, range)| {
                    let leaves = wants.get(members)?.to_vec();
                    let pack = leaves.first()?.1.pack;
                    Some(Job { pack, range, leaves })
                })
                .collect();
            jobs.sort_by_key(|job| job.leaves.iter().map(|(leaf, _)| *leaf).min());
            state.jobs.extend(jobs);
        }
    }

    fn run(&self) {
        let mut state = self.state();
        while !state.stopped {
            let Some(job) = state.jobs.pop_front() else {
                state = self.wait(state);
                continue;
            };
            if !job.leaves.iter().any(|(leaf, _)| state.slots.contains_key(leaf)) {
                continue;
            }
            let mut buffer = state.spare.pop().unwrap_or_default();
            drop(state);
            let read = self.fetch(&job, &mut buffer);
            state = self.state();
            match read {
                Ok(()) => {
                    let bytes = Arc::new(buffer);
                    for (leaf, place) in &job.leaves {
                        let Some(slot) = state.slots.get_mut(leaf) else { continue };
                        let from = (u64::from(place.at) - job.range.start) as usize;
                        let range = from..from + place.stored as usize;
                        slot.bytes = Some(Fetched { bytes: bytes.clone(), range });
                    }
                }
                Err(_) => {
                    for (leaf, _) in &job.leaves {
                        if state.slots.get(leaf).is_some_and(|slot| slot.bytes.is_none()) {
                            state.forget(*leaf);
                        }
                    }
                }
            }
            self.changed.notify_all();
        }
    }

    fn fetch(&self, job: &Job, buffer: &mut Vec<u8>) -> Result<()> {
        let places = &self.chunks.places;
        buffer.resize((job.range.end - job.range.start) as usize, 0);
        let pack = places.pack_name(job.pack);
        places.store().backend().read(pack, buffer, job.range.start)
    }
}

impl State {
    fn forget(&mut self, leaf: u64) -> Option<Slot> {
        let slot = self.slots.remove(&leaf)?;
        self.held = self.held.saturating_sub(slot.stored);
        Some(slot)
    }

    /// The reader has gone elsewhere.
    fn reset(&mut self, to: u64) {
        self.slots.clear();
        self.jobs.clear();
        self.held = 0;
        (self.run, self.position, self.planned) = (0, to, to);
    }
}

impl Ahead {
    pub(super) fn new(chunks: Arc<Chunks>) -> Self {
        let remote = chunks.places.store().backend().is_remote();
        // A local file costs no trip: two threads keep a disk busy, and a smaller window does.
        let (threads, window) = if remote { (IN_FLIGHT, 48 << 20) } else { (2, 16 << 20) };
        let state = Mutex::default();
        Self { shared: Arc::new(Shared { chunks, threads, window, state, changed: Condvar::new() }) }
    }

    /// Takes note of a read, before it begins.
    pub(super) fn reading(&self, leaves: &Range<u64>) {
        let mut state = self.shared.state();
        if state.stopped {
            return;
        }
        let known = state.position.max(state.planned).saturating_add(SPREAD);
        let back = leaves.start.saturating_add(SPREAD) >= state.position;
        let follows = back
            && (leaves.start <= known
                || self
                    .shared
                    .chunks
                    .next_stored(state.position)
                    .is_some_and(|next| leaves.start <= next.saturating_add(SPREAD)));
        if !follows {
            state.reset(leaves.end);
            // Who waits for what was planned has to fetch it now.
            self.shared.changed.notify_all();
            return;
        }
        // Many reads of one leaf are no run.
        let further = leaves.end.saturating_sub(leaves.start.max(state.position));
        state.run = state.run.saturating_add(further);
        state.position = state.position.max(leaves.end);
        // What was passed by is not wanted any more.
        let passed = state.position.saturating_sub(2 * SPREAD);
        let first = |state: &State| state.slots.first_key_value().map(|(leaf, _)| *leaf);
        while let Some(leaf) = first(&state).filter(|leaf| *leaf < passed) {
            state.forget(leaf);
            self.shared.changed.notify_all();
        }
        if state.run < RUN {
            return;
        }
        state.planned = state.planned.max(leaves.end);
        self.shared.plan(&mut state);
        if state.jobs.is_empty() {
            return;
        }
        while state.threads < self.shared.threads {
            let shared = self.shared.clone();
            // With fewer threads it is slower and no more.
            if std::thread::Builder::new().name("ahead".into()).spawn(move || shared.run()).is_err() {
                break;
            }
            state.threads += 1;
        }
        if state.threads == 0 {
            // Nobody would fetch what `take` waits for.
            state.reset(0);
            state.stopped = true;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// The chunk of a leaf, if it was planned; waits for it.
    pub(super) fn take(&self, leaf: u64) -> Option<Fetched> {
        let mut state = self.shared.state();
        while state.slots.get(&leaf)?.bytes.is_none() {
            state = self.shared.wait(state);
        }
        state.forget(leaf)?.bytes
    }

    /// Gives back what was taken, for the next read.
    pub(super) fn give(&self, fetched: Fetched) {
        if let Some(buffer) = Arc::into_inner(fetched.bytes) {
            let mut state = self.shared.state();
            if state.spare.len() < self.shared.threads {
                state.spare.push(buffer);
            }
        }
    }
}

impl Drop for Ahead {
    /// Threads end by themselves: one may be waiting for a server that does not answer.
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopped = true;
        state.reset(0);
        state.spare.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}
