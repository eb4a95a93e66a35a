// SPDX-License-Identifier: Apache-2.0
//! Who works next: jobs take turns by what they have had, however many requests each has open.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng 1996): each job has a clock that goes on by the cost of what it was given; the
//! job whose clock is least is next; who comes (back) starts where the others are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// What may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// A number of places, and those who wait for one.
pub(super) struct Turns {
    state: Mutex<State>,
}

struct State {
    free: usize,
    /// The clock of whoever was given a place last.
    now: u64,
    jobs: BTreeMap<u64, Waiting>,
}

#[derive(Default)]
struct Waiting {
    clock: u64,
    requests: VecDeque<(u64, oneshot::Sender<Turn>)>,
}

/// A place; free again when it is dropped.
pub(super) struct Turn(Option<Arc<Turns>>);

impl Turns {
    pub(super) fn new(places: usize) -> Arc<Self> {
        let state = State { free: places.max(1), now: 0, jobs: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place for work of `job` that costs about `cost` bytes.
    pub(super) async fn take(self: &Arc<Self>, job: u64, cost: u64) -> Turn {
        let receiver = {
            let mut state = self.state();
            let now = state.now;
            let waiting = state.jobs.entry(job).or_default();
            if waiting.requests.is_empty() {
                waiting.clock = waiting.clock.max(now);
            }
            let (sender, receiver) = oneshot::channel();
            waiting.requests.push_back((cost.max(1), sender));
            self.hand_out(&mut state);
            receiver
        };
        // A sender is dropped with the queue alone, and the queue is here.
        receiver.await.unwrap_or(Turn(None))
    }

    fn hand_out(self: &Arc<Self>, state: &mut State) {
        while state.free > 0 {
            let waiting = state.jobs.values_mut().filter(|waiting| !waiting.requests.is_empty());
            let Some(next) = waiting.min_by_key(|waiting| waiting.clock) else { break };
            let Some((cost, sender)) = next.requests.pop_front() else { break };
            match sender.send(Turn(Some(self.clone()))) {
                Ok(()) => {
                    state.now = next.clock;
                    next.clock = next.clock.saturating_add(cost);
                    state.free = state.free.saturating_sub(1);
                }
                // Nobody waits for it any more. Its place was never taken.
                Err(mut turn) => turn.0 = None,
            }
        }
        let now = state.now;
        state.jobs.retain(|_, waiting| !waiting.requests.is_empty() || waiting.clock > now);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            let mut state = turns.state();
            state.free = state.free.saturating_add(1);
            turns.hand_out(&mut state);
        }
    }
}

/// Most bytes per second of all jobs together, shared equally by those that want some.
pub(super) struct Pace {
    bytes_per_second: u64,
    turns: Arc<Turns>,
    /// When what was sent so far has been paid for.
    until: Mutex<Instant>,
}

impl Pace {
    /// 0 means as many as there are.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, turns: Turns::new(1), until: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` of `job` may pass.
    pub(super) async fn pay(&self, job: u64, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let _turn = self.turns.take(job, bytes as u64).await;
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let wait = {
            let now = Instant::now();
            let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*until).max(now);
            *until = begin.checked_add(cost).unwrap_or(begin);
            begin.saturating_duration_since(now).saturating_sub(BURST)
        };
        tokio::time::sleep(wait).await;
    }
}
