// SPDX-License-Identifier: Apache-2.0
//! Packs on their way to the backend, in threads of their own, so that reading and compressing go on meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::Store;
use super::pack::PackTable;
use super::pool::Buffers;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Packs in memory at a time: one that is filled, and two that are sent. With two of them on their way, one waits for its
/// answers while the other's bytes go.
const PACKS: usize = 3;

/// Takes packs that are closed, and sends them.
pub(super) struct Sending {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    store: Store,
    buffers: Buffers,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(PackTable, Vec<u8>)>,
    /// Packs that a thread is sending.
    busy: usize,
    /// What has arrived.
    done: Vec<PackTable>,
    failed: bool,
    /// Why, until somebody has been told.
    failure: Option<Error>,
    stopped: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.state();
        loop {
            let Some((table, mut pack)) = state.waiting.pop_front() else {
                if state.stopped {
                    return;
                }
                state = self.wait(state);
                continue;
            };
            state.busy += 1;
            // After a failure nothing more is of use; the buffers are, to those who wait for one.
            let useless = state.failed;
            drop(state);
            let object = PackTable::object(&table.id);
            let sent = match useless {
                true => Ok(()),
                false => {
                    self.store.backend().put_buffer(&object, &mut pack).doing(|| format!("storing {object}"))
                }
            };
            self.buffers.give(pack);
            state = self.state();
            state.busy -= 1;
            match sent {
                Ok(()) if useless => {}
                Ok(()) => state.done.push(table),
                Err(error) => {
                    state.failed = true;
                    state.failure.get_or_insert(error);
                }
            }
            self.changed.notify_all();
        }
    }
}

impl State {
    fn check(&mut self) -> Result<()> {
        match (self.failed, self.failure.take()) {
            (false, _) => Ok(()),
            (true, Some(error)) => Err(error),
            // Of the kind that gives way to the one that says why.
            (true, None) => {
                Err(Error::new(ErrorKind::Cancelled, "storing packs").because("one could not be stored"))
            }
        }
    }
}

impl Sending {
    pub(super) fn new(store: &Store) -> Result<Self> {
        let shared = Arc::new(Shared {
            store: store.clone(),
            buffers: Buffers::new(PACKS),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut sending = Self { shared, threads: Vec::new() };
        for _ in 1..PACKS {
            let shared = sending.shared.clone();
            let thread = std::thread::Builder::new().name("pack".into()).spawn(move || shared.run());
            sending.threads.push(thread.doing(|| "starting a thread")?);
        }
        Ok(sending)
    }

    /// An empty buffer for a pack; waits until one has been sent.
    pub(super) fn buffer(&self, capacity: usize) -> Vec<u8> {
        self.shared.buffers.take(capacity)
    }

    /// Sends a pack. A failure is that of an earlier one.
    pub(super) fn send(&self, table: PackTable, pack: Vec<u8>) -> Result<()> {
        let mut state = self.shared.state();
        state.waiting.push_back((table, pack));
        self.shared.changed.notify_all();
        state.check()
    }

    /// Gives a buffer back that came to nothing.
    pub(super) fn give(&self, pack: Vec<u8>) {
        self.shared.buffers.give(pack);
    }

    /// Waits until all packs have arrived; answers their tables.
    pub(super) fn finish(&self) -> Result<Vec<PackTable>> {
        let mut state = self.shared.state();
        while state.busy > 0 || !state.waiting.is_empty() {
            state = self.shared.wait(state);
        }
        state.check()?;
        Ok(state.done.clone())
    }
}

impl Drop for Sending {
    /// What was given is sent: the next capture finds it.
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // It panics only if another thread did.
            let _ = thread.join();
        }
    }
}
