// SPDX-License-Identifier: Apache-2.0
//! What the server knows: in SQLite what has to outlast it, in memory which agents are heard of.
//!
//! ```text
//!   Facts --identity--> machine 1--n keys (approved or not) 1--1 Session (memory: last heard of, progress)
//!                          |
//!                          `--n jobs: waiting -> running <-> lost -> ended;  job 1--n tokens (hashes), each for one key
//! ```
//!
//! One connection behind one lock. What decides something is flushed to the disk before it is answered; log lines and times are
//! written without waiting for the disk.

mod ask;
mod identity;
mod jobs;
mod lines;
mod machines;
mod next;
mod schema;
mod sessions;
mod tokens;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, Transaction};
use tokio::sync::broadcast;
use unmoor_images::store::Store;
use unmoor_images::{Error, ErrorKind, Result};

use super::errors;
use super::notes::Notes;
use super::options::{Group, Known};
use crate::api::Event;

pub(crate) use jobs::word;
pub(crate) use next::Next;
use sessions::Session;
pub(crate) use tokens::{draw, hex};

/// SHA-256 of a key's SubjectPublicKeyInfo.
pub(crate) type Key = [u8; 32];

/// Times by which the server judges.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Seconds between two heartbeats.
    pub(crate) heartbeat: u64,
    /// An agent that is not heard of for so long is gone.
    pub(crate) gone: Duration,
    /// Seconds for which a token counts after a heartbeat.
    pub(crate) token: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { heartbeat: 10, gone: Duration::from_secs(35), token: 900 }
    }
}

/// Everything.
pub(crate) struct State {
    inner: Mutex<Inner>,
    events: broadcast::Sender<Arc<Event>>,
    notes: Notes,
    pub(crate) store: Arc<Store>,
    known: Vec<Known>,
    groups: Vec<Group>,
    pub(crate) pace: Pace,
    began: Instant,
}

struct Inner {
    db: Connection,
    sessions: HashMap<Key, Session>,
    /// Last times that are newer than the database's, by machine.
    seen: HashMap<u64, u64>,
    flushed: Instant,
}

/// What a server is opened with, beyond the place of its state.
pub(crate) struct Setting {
    pub(crate) store: Arc<Store>,
    pub(crate) known: Vec<Known>,
    pub(crate) groups: Vec<Group>,
    pub(crate) pace: Pace,
}

impl State {
    /// Opens or makes the database.
    pub(crate) fn open(path: &Path, setting: Setting, notes: Notes) -> Result<Self> {
        let Setting { store, mut known, groups, pace } = setting;
        let db = schema::open(path)?;
        for known in &mut known {
            known.selector = identity::tidy(&known.selector);
        }
        let inner = Inner { db, sessions: HashMap::new(), seen: HashMap::new(), flushed: Instant::now() };
        let (events, _) = broadcast::channel(1024);
        Ok(Self {
            inner: Mutex::new(inner),
            events,
            notes,
            store,
            known,
            groups,
            pace,
            began: Instant::now(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Nothing is made for nobody.
    fn tell(&self, event: impl FnOnce() -> Result<Event>) {
        if self.events.receiver_count() > 0
            && let Ok(event) = event()
        {
            let _ = self.events.send(Arc::new(event));
        }
    }

    /// Machines by presence, jobs by state.
    pub(crate) fn counts(&self) -> Result<(HashMap<String, u64>, HashMap<String, u64>)> {
        let inner = self.lock();
        let mut jobs = HashMap::new();
        let mut statement =
            inner.db.prepare_cached("SELECT state, count(*) FROM jobs GROUP BY state").map_err(failed)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?))).map_err(failed)?;
        for row in rows {
            let (state, count): (String, i64) = row.map_err(failed)?;
            jobs.insert(state, unsigned(count));
        }
        let here: std::collections::HashSet<u64> = inner
            .sessions
            .values()
            .filter(|session| self.is_here(session))
            .map(|session| session.machine)
            .collect();
        let all: i64 =
            inner.db.query_row("SELECT count(*) FROM machines", [], |row| row.get(0)).map_err(failed)?;
        let booting: i64 = inner
            .db
            .query_row("SELECT count(*) FROM machines WHERE facts IS NULL", [], |row| row.get(0))
            .map_err(failed)?;
        let (all, here, booting) = (unsigned(all), here.len() as u64, unsigned(booting));
        let gone = all.saturating_sub(here).saturating_sub(booting);
        let machines = [("here", here), ("booting", booting), ("gone", gone)];
        Ok((machines.map(|(name, count)| (name.to_owned(), count)).into(), jobs))
    }
}

impl Inner {
    /// Decides something: on the disk before this returns.
    fn durably<T>(&mut self, work: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        let transaction = self.db.transaction().map_err(failed)?;
        let value = work(&transaction)?;
        transaction.commit().map_err(failed)?;
        Ok(value)
    }

    /// Writes what may be lost with the machine's power. It is lost with nothing less, and never stands before something durable.
    fn lazily<T>(&mut self, work: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        self.db.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
        let done = self.durably(work);
        self.db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        done
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// RFC 3339.
pub(crate) fn text(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

fn failed(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Io, "using the server's state").source(error)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Numbers of rows; what is no such number finds none.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(-1)
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::Malformed, "writing JSON").source(error))
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(ErrorKind::Malformed, format!("reading {what} of the server's state")).source(error)
    })
}

fn no_machine(id: u64) -> Error {
    errors::missing(format!("looking for machine {id}"))
}

fn no_job(id: u64) -> Error {
    errors::missing(format!("looking for job {id}"))
}
