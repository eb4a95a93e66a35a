// SPDX-License-Identifier: Apache-2.0
//! The thread that tells the server that this agent lives, what it does, and what it said; and hears what it is to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use unmoor_images::{Error, Result};

use super::{Client, Log};
use crate::api::{Heartbeat, LogLine, Progress, Register, Registered};

/// Bounds of the time between two beats, whatever the server says.
const SECONDS: std::ops::RangeInclusive<u64> = 1..=60;

/// The heart of an agent that has registered; it stops when dropped.
pub struct Heart {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    client: Client,
    register: Register,
    log: Arc<Log>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    registered: Option<Registered>,
    job: Option<u64>,
    progress: Option<Progress>,
    cancel: Option<Arc<AtomicBool>>,
    /// Something is to be told at once.
    urgent: bool,
    stopped: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            {
                let state = self.state();
                let seconds = state.registered.as_ref().map_or(5, |registered| registered.heartbeat_seconds);
                let pause = Duration::from_secs(seconds.clamp(*SECONDS.start(), *SECONDS.end()));
                let waited =
                    self.changed.wait_timeout_while(state, pause, |state| !state.urgent && !state.stopped);
                let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                if state.stopped {
                    return;
                }
                state.urgent = false;
            }
            // A beat that does not arrive is made up for by the next one.
            let _ = self.beat();
        }
    }

    fn beat(&self) -> Result<()> {
        let (job, progress) = {
            let state = self.state();
            (state.job, state.progress.clone())
        };
        let log: Vec<LogLine> = self.log.batch();
        let heartbeat = Heartbeat { boot: self.register.boot.clone(), job, progress, log };
        let orders = self.client.heartbeat(&heartbeat)?;
        if orders.register {
            let registered = self.client.register(&self.register, &|| self.state().stopped, &|_| {})?;
            self.state().registered = Some(registered);
            return Ok(());
        }
        self.log.arrived(orders.next_log);
        let mut state = self.state();
        if let Some(registered) = &mut state.registered {
            registered.approved = orders.approved;
        }
        // The order is for the job of which the server was told.
        if orders.cancel
            && job.is_some()
            && state.job == job
            && let Some(cancel) = &state.cancel
        {
            cancel.store(true, Ordering::Relaxed);
        }
        state.urgent |= !heartbeat.log.is_empty() && !self.log.is_empty();
        Ok(())
    }
}

impl Heart {
    /// Starts to beat.
    pub fn start(
        client: &Client,
        register: &Register,
        registered: Registered,
        log: Arc<Log>,
    ) -> Result<Self> {
        let state = State { registered: Some(registered), ..State::default() };
        let shared = Arc::new(Shared {
            client: client.clone(),
            register: register.clone(),
            log,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let beating = shared.clone();
        let thread = std::thread::Builder::new().name("heart".into()).spawn(move || beating.run());
        let thread = thread.map_err(|error| Error::io("starting a thread", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A job begins; what is told of it from now on is its progress. `cancel` becomes true when the server wants it.
    pub fn begin(&self, job: u64, cancel: Arc<AtomicBool>) {
        let mut state = self.shared.state();
        (state.job, state.progress, state.cancel) = (Some(job), None, Some(cancel));
        self.shared.changed.notify_all();
    }

    /// How far it is.
    pub fn progress(&self, progress: Progress) {
        self.shared.state().progress = Some(progress);
    }

    /// It has ended.
    pub fn end(&self) {
        let mut state = self.shared.state();
        (state.job, state.progress, state.cancel) = (None, None, None);
    }

    /// Tells at once what there is to tell.
    pub fn hurry(&self) {
        self.shared.state().urgent = true;
        self.shared.changed.notify_all();
    }

    /// Whether the key is approved, as of the last beat.
    pub fn is_approved(&self) -> bool {
        self.shared.state().registered.as_ref().is_some_and(|registered| registered.approved)
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It panics only if another thread did.
            let _ = thread.join();
        }
    }
}
