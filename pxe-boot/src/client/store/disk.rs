// SPDX-License-Identifier: Apache-2.0
//! A disk of an image, read through the server: units of some leaves are fetched, compared with the map's hashes, and kept for a
//! while; for who reads from front to back the next units are on their way already.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use unmoor_images::merkle::{self, Hash, Leaves};
use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Error, ErrorKind, Extent, LEAF, Result, ResultExt, State};
use zstd::bulk::Decompressor;

use super::Rate;
use super::frame::{Frame, MOST_FRAME, read_frames};
use crate::client::Job;

/// Leaves of a unit: 1 MiB is one request.
const UNIT: u64 = 4;
const UNIT_BYTES: u64 = UNIT * LEAF;
/// Units that are kept: 64 MiB.
const KEPT: usize = 64;
/// Units that are fetched before they are asked for.
const AHEAD: u64 = 16;
/// Requests in flight beside those of who reads.
const THREADS: usize = 4;
/// Units by which reads of one run may be out of order.
const SPREAD: u64 = 32;

/// A disk.
pub struct RemoteDisk {
    shared: Arc<Shared>,
    sector_size: u32,
}

struct Shared {
    job: Job,
    number: usize,
    leaves: Leaves,
    rate: Arc<Rate>,
    state: Mutex<Units>,
    changed: Condvar,
}

#[derive(Default)]
struct Units {
    units: BTreeMap<u64, Unit>,
    /// Counts uses, for who goes first.
    clock: u64,
    /// Where a run of reads has come to, and how long it is.
    position: u64,
    run: u64,
    waiting: VecDeque<u64>,
    threads: bool,
    stopped: bool,
}

struct Unit {
    used: u64,
    /// None while it is fetched.
    bytes: Option<Arc<Vec<u8>>>,
}

impl RemoteDisk {
    pub(super) fn new(job: &Job, number: usize, leaves: Leaves, sector_size: u32, rate: &Arc<Rate>) -> Self {
        let shared = Shared {
            job: job.clone(),
            number,
            leaves,
            rate: rate.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Self { shared: Arc::new(shared), sector_size }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Units> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unit_len(&self, unit: u64) -> u64 {
        UNIT_BYTES.min(self.leaves.size().saturating_sub(unit.saturating_mul(UNIT_BYTES)))
    }

    fn leaf_len(&self, leaf: u64) -> u64 {
        LEAF.min(self.leaves.size().saturating_sub(leaf.saturating_mul(LEAF)))
    }

    /// The leaves of a unit that are not zeros.
    fn wanted(&self, unit: u64) -> Vec<(u64, Hash)> {
        let first = unit.saturating_mul(UNIT);
        let leaves =
            (first..first.saturating_add(UNIT)).filter_map(|leaf| Some((leaf, self.leaves.get(leaf)?)));
        leaves.filter(|(leaf, hash)| *hash != merkle::zero_leaf(self.leaf_len(*leaf))).collect()
    }

    /// A unit's bytes, fetched now or before.
    fn unit(&self, unit: u64) -> Result<Arc<Vec<u8>>> {
        let mut state = self.state();
        loop {
            state.clock += 1;
            let clock = state.clock;
            match state.units.get_mut(&unit) {
                Some(Unit { used, bytes: Some(bytes) }) => {
                    *used = clock;
                    return Ok(bytes.clone());
                }
                Some(_) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                None => {
                    state.units.insert(unit, Unit { used: clock, bytes: None });
                    break;
                }
            }
        }
        drop(state);
        self.fetch_into(unit)
    }

    /// Fetches a unit that this thread has entered as on its way. One that fails is forgotten: who waits for it tries itself.
    fn fetch_into(&self, unit: u64) -> Result<Arc<Vec<u8>>> {
        let fetched = self.fetch(unit).map(Arc::new);
        let mut state = self.state();
        match &fetched {
            Ok(bytes) => {
                state.clock += 1;
                let used = state.clock;
                state.units.insert(unit, Unit { used, bytes: Some(bytes.clone()) });
                state.trim();
            }
            Err(_) => drop(state.units.remove(&unit)),
        }
        self.changed.notify_all();
        fetched
    }

    /// What is not what the map says may be damaged on the server, who then looks for another copy.
    fn fetch(&self, unit: u64) -> Result<Vec<u8>> {
        match self.fetch_once(unit, "") {
            Err(error) if error.kind() == ErrorKind::Mismatch => self.fetch_once(unit, "&check=1"),
            other => other,
        }
    }

    fn fetch_once(&self, unit: u64, more: &str) -> Result<Vec<u8>> {
        let doing = || format!("fetching from {}", self.job.server());
        let mut bytes = vec![0; usize::try_from(self.unit_len(unit)).unwrap_or(0)];
        let wanted = self.wanted(unit);
        let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else { return Ok(bytes) };
        let count = last - first + 1;
        let path = format!("image/disks/{}/frames?first={first}&count={count}{more}", self.number);
        let answer = self.job.get_bytes(&path, count * MOST_FRAME, "fetching leaves from the server")?;
        self.rate.take(answer.len() as u64, &|| self.job.is_cancelled())?;
        let frames = read_frames(&answer).doing(doing)?;
        let frames: HashMap<Hash, Frame<'_>> = frames.into_iter().map(|frame| (frame.hash, frame)).collect();
        let mut decompressor = Decompressor::new().doing(|| "preparing zstd")?;
        for (leaf, hash) in wanted {
            let at = leaf.saturating_mul(LEAF);
            let frame = frames.get(&hash).ok_or_else(|| {
                Error::new(ErrorKind::Mismatch, doing())
                    .at(at)
                    .because("a leaf that the map has did not come")
            })?;
            let from =
                usize::try_from(at.saturating_sub(unit.saturating_mul(UNIT_BYTES))).unwrap_or(usize::MAX);
            let len = usize::try_from(self.leaf_len(leaf)).unwrap_or(0);
            let out = bytes.get_mut(from..from.saturating_add(len)).unwrap_or_default();
            frame
                .unpack(&mut decompressor, out)
                .map_err(|error| Error::new(error.kind(), doing()).at(at).source(error))?;
        }
        Ok(bytes)
    }

    /// Takes note of a read, and has the next units fetched where it is one of a run.
    fn reading(self: &Arc<Self>, first: u64, last: u64) {
        let mut state = self.state();
        let follows =
            first <= state.position.saturating_add(SPREAD) && first.saturating_add(SPREAD) >= state.position;
        if !follows {
            state.run = 0;
            state.position = last;
            state.waiting.clear();
            return;
        }
        if last > state.position {
            state.run = state.run.saturating_add(last - state.position);
            state.position = last;
        }
        if state.run < 2 || state.stopped {
            return;
        }
        let end = self.leaves.size().div_ceil(UNIT_BYTES);
        let next = state.position.saturating_add(1);
        for unit in next..next.saturating_add(AHEAD).min(end) {
            if !state.units.contains_key(&unit)
                && !state.waiting.contains(&unit)
                && !self.wanted(unit).is_empty()
            {
                state.waiting.push_back(unit);
            }
        }
        if !state.threads && !state.waiting.is_empty() {
            state.threads = true;
            for _ in 0..THREADS {
                let shared = Arc::downgrade(self);
                // Without a thread the reader fetches all by itself.
                let _ = std::thread::Builder::new().name("fetch".into()).spawn(move || run(&shared));
            }
        }
        self.changed.notify_all();
    }
}

impl Units {
    fn trim(&mut self) {
        while self.units.len() > KEPT {
            let there = self.units.iter().filter(|(_, unit)| unit.bytes.is_some());
            let Some(oldest) = there.min_by_key(|(_, unit)| unit.used).map(|(number, _)| *number) else {
                return;
            };
            self.units.remove(&oldest);
        }
    }
}

/// A thread that fetches ahead, until nobody reads the disk any more.
fn run(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let unit = {
            let mut state = shared.state();
            if state.stopped {
                return;
            }
            if state.waiting.is_empty() {
                let pause = std::time::Duration::from_millis(200);
                let waited =
                    shared.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
            }
            let next = state.waiting.pop_front().filter(|unit| !state.units.contains_key(unit));
            if let Some(unit) = next {
                state.clock += 1;
                let used = state.clock;
                state.units.insert(unit, Unit { used, bytes: None });
            }
            next
        };
        if let Some(unit) = unit {
            // Whatever fails here, the reader finds out itself.
            let _ = shared.fetch_into(unit);
        }
    }
}

impl Drop for RemoteDisk {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
    }
}

impl BlockSource for RemoteDisk {
    fn size(&self) -> u64 {
        self.shared.leaves.size()
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        if buf.is_empty() {
            return Ok(());
        }
        let last = offset.saturating_add(buf.len() as u64 - 1) / UNIT_BYTES;
        self.shared.reading(offset / UNIT_BYTES, last);
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let unit = at / UNIT_BYTES;
            let from = at % UNIT_BYTES;
            let len = (self.shared.unit_len(unit).saturating_sub(from)).min(rest.len() as u64);
            let bytes = self.shared.unit(unit)?;
            let (from, len) = (from as usize, len as usize);
            let (out, behind) = rest.split_at_mut(len);
            let content = bytes.get(from..from.saturating_add(len));
            out.copy_from_slice(
                content.ok_or_else(|| Error::malformed("reading the disk", "a unit is too short"))?,
            );
            rest = behind;
            at = at.saturating_add(len as u64);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        let leaf = offset / LEAF;
        let zero = |leaf: u64| {
            self.shared
                .leaves
                .get(leaf)
                .is_some_and(|hash| hash == merkle::zero_leaf(self.shared.leaf_len(leaf)))
        };
        let state = if zero(leaf) { State::Zero } else { State::Data };
        let end = offset.saturating_add(len);
        let mut until = leaf.saturating_add(1);
        // So far at most; who asks asks again.
        let most = leaf.saturating_add(4096);
        while until < most && until.saturating_mul(LEAF) < end && zero(until) == (state == State::Zero) {
            until = until.saturating_add(1);
        }
        Ok(Extent { offset, len: until.saturating_mul(LEAF).min(end).saturating_sub(offset), state })
    }
}
