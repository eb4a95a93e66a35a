// SPDX-License-Identifier: Apache-2.0
//! Requests of one connection between the thread that reads them and those that answer, with bounds on number and memory.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Most requests of a connection at a time; more wait in the socket.
const REQUESTS: usize = 128;
/// Most bytes that a connection's requests hold at a time. One request of the largest size always fits.
const BYTES: u64 = 64 << 20;

struct State<T> {
    jobs: VecDeque<(T, u64)>,
    /// Admitted and not answered.
    requests: usize,
    bytes: u64,
    idle: usize,
    workers: usize,
    closed: bool,
}

/// Jobs in the order of their arrival.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    room: Condvar,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let state =
            State { jobs: VecDeque::new(), requests: 0, bytes: 0, idle: 0, workers: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), room: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request that will hold `bytes` may come in.
    pub(super) fn admit(&self, bytes: u64) {
        let full = |state: &mut State<T>| {
            state.requests >= REQUESTS || (state.requests > 0 && state.bytes + bytes > BYTES)
        };
        let mut state = self.room.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner);
        state.requests += 1;
        state.bytes += bytes;
    }

    /// Takes an admitted request's job. True if another worker is to be started, at most `most` in all.
    pub(super) fn push(&self, job: T, bytes: u64, most: usize) -> bool {
        let mut state = self.state();
        state.jobs.push_back((job, bytes));
        let start = state.idle < state.jobs.len() && state.workers < most;
        state.workers += usize::from(start);
        drop(state);
        self.changed.notify_one();
        start
    }

    /// No more jobs come: workers end when they have done what is here.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Does jobs until the queue is closed and empty.
    pub(super) fn work(&self, mut answer: impl FnMut(T)) {
        loop {
            let mut state = self.state();
            state.idle += 1;
            let nothing = |state: &mut State<T>| state.jobs.is_empty() && !state.closed;
            let mut state = self.changed.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            let Some((job, bytes)) = state.jobs.pop_front() else { return };
            drop(state);
            answer(job);
            let mut state = self.state();
            state.requests -= 1;
            state.bytes -= bytes;
            drop(state);
            self.room.notify_one();
        }
    }
}
