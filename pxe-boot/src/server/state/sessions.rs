// SPDX-License-Identifier: Apache-2.0
//! Agents that are heard of. All of it is in memory: a server that starts again learns it from the next heartbeats.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, params};
use tokio::sync::Notify;
use unmoor_images::Result;

use super::{Inner, Key, State, failed, lines, now, signed, unsigned};
use crate::api::{Event, Heartbeat, JobState, Orders, Progress};

/// Between two writings of when machines were heard of.
const FLUSH: Duration = Duration::from_secs(30);
/// So long an agent that is gone is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// An agent.
pub(super) struct Session {
    pub(super) machine: u64,
    pub(super) boot: String,
    pub(super) approved: bool,
    pub(super) heard: Instant,
    pub(super) address: Option<IpAddr>,
    pub(super) progress: Option<(u64, Progress)>,
    pub(super) next_log: u64,
    /// Counts requests for a job: an older one that still waits must not take what a newer one could tell the agent.
    pub(super) asked: u64,
    pub(super) wake: Arc<Notify>,
    renewed: Instant,
    told_gone: bool,
}

impl Session {
    pub(super) fn new(machine: u64, boot: String, approved: bool, address: Option<IpAddr>) -> Self {
        let now = Instant::now();
        Self {
            machine,
            boot,
            approved,
            heard: now,
            address,
            progress: None,
            next_log: 0,
            asked: 0,
            wake: Arc::default(),
            renewed: now,
            told_gone: false,
        }
    }
}

impl Inner {
    /// The agent with this key; one from before the server's start is known by the database.
    pub(super) fn session(&mut self, key: &Key, address: Option<IpAddr>) -> Result<Option<&mut Session>> {
        if !self.sessions.contains_key(key) {
            let found = self
                .db
                .prepare_cached("SELECT machine, boot, approved FROM keys WHERE key = ?1")
                .map_err(failed)?
                .query_row([key], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get(2)?)))
                .optional()
                .map_err(failed)?;
            let Some((machine, boot, approved)) = found else { return Ok(None) };
            let mut session = Session::new(unsigned(machine), boot, approved, address);
            session.next_log = lines::next(&self.db, unsigned(machine), key)?;
            // Its token may be about to end.
            session.renewed = Instant::now().checked_sub(REMEMBERED).unwrap_or(session.renewed);
            self.sessions.insert(*key, session);
        }
        Ok(self.sessions.get_mut(key))
    }

    /// Tells agents of `machine` to look for a job.
    pub(super) fn wake(&self, machine: u64) {
        for session in self.sessions.values().filter(|session| session.machine == machine) {
            session.wake.notify_one();
        }
    }
}

impl State {
    pub(super) fn is_here(&self, session: &Session) -> bool {
        session.heard.elapsed() < self.pace.gone
    }

    /// Whether another agent says that it is this machine, with an approved key.
    pub(super) fn is_taken(&self, inner: &Inner, machine: u64, key: &Key) -> bool {
        inner.sessions.iter().any(|(other, session)| {
            other != key && session.machine == machine && session.approved && self.is_here(session)
        })
    }

    /// An agent lives.
    pub(crate) fn heartbeat(&self, key: &Key, address: Option<IpAddr>, beat: &Heartbeat) -> Result<Orders> {
        let mut inner = self.lock();
        let Some(session) = inner.session(key, address)?.filter(|session| session.boot == beat.boot) else {
            return Ok(Orders { register: true, ..Orders::default() });
        };
        let came_back = session.told_gone;
        session.told_gone = false;
        session.heard = Instant::now();
        session.address = address;
        let (machine, next_log) = (session.machine, session.next_log);
        let next_log = self.keep(&mut inner, machine, key, next_log, &beat.log)?;
        let cancel = match beat.job {
            Some(job) => self.works(&mut inner, key, job, beat.progress.as_ref())?,
            None => false,
        };
        inner.seen.insert(machine, now());
        let Some(session) = inner.sessions.get_mut(key) else { return Ok(Orders::default()) };
        session.next_log = next_log;
        if beat.job.is_none() {
            session.progress = None;
        }
        let approved = session.approved;
        if came_back {
            self.tell_machine(&inner, machine);
        }
        Ok(Orders { register: false, approved, cancel, next_log })
    }

    /// An agent says that it does `job`. True where it is to stop.
    fn works(&self, inner: &mut Inner, key: &Key, job: u64, progress: Option<&Progress>) -> Result<bool> {
        let found = inner
            .db
            .prepare_cached(
                "SELECT state, cancel FROM jobs WHERE id = ?1 AND key = ?2 AND state IN ('running', 'lost')",
            )
            .map_err(failed)?
            .query_row(params![signed(job), key], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
            .optional()
            .map_err(failed)?;
        let Some((state, cancel)) = found else { return Ok(true) };
        if state == "lost" {
            inner.durably(|db| {
                db.execute("UPDATE jobs SET state = 'running', message = NULL WHERE id = ?1", [signed(job)])
                    .map_err(failed)
            })?;
            self.notes.note(format!("job={job} goes on: its agent is heard of again"));
        }
        let half = Duration::from_secs(self.pace.token / 2);
        if let Some(session) = inner.sessions.get_mut(key) {
            let changed = progress.map(|progress| (job, progress.clone()));
            let tell = state == "lost" || session.progress != changed;
            session.progress = changed;
            let renew = session.renewed.elapsed() > half;
            if renew {
                session.renewed = Instant::now();
                self.renew(inner, key, job)?;
            }
            if tell {
                self.tell(|| Ok(Event::Job { job: Box::new(self.read_job(inner, job)?) }));
            }
        }
        Ok(cancel)
    }

    /// What passes with time: agents that are gone, jobs that are lost with them, what was to be written now and then. Every second.
    pub(crate) fn tick(&self) -> Result<()> {
        let mut inner = self.lock();
        let mut gone = Vec::new();
        for session in inner.sessions.values_mut() {
            if !session.told_gone && session.heard.elapsed() >= self.pace.gone {
                session.told_gone = true;
                gone.push(session.machine);
            }
        }
        inner.sessions.retain(|_, session| session.heard.elapsed() < REMEMBERED.max(self.pace.gone));
        for machine in gone {
            self.notes.note(format!("machine={machine} is not heard of any more"));
            self.tell_machine(&inner, machine);
        }
        // Agents of a server that has just started had no time yet.
        if self.began.elapsed() >= self.pace.gone {
            self.lose(&mut inner)?;
        }
        if inner.flushed.elapsed() >= FLUSH {
            self.flush_times(&mut inner)?;
        }
        Ok(())
    }

    fn lose(&self, inner: &mut Inner) -> Result<()> {
        let mut running: Vec<(u64, Option<u64>, Key, bool)> = Vec::new();
        {
            let mut statement = inner
                .db
                .prepare_cached("SELECT id, machine, key, cancel FROM jobs WHERE state = 'running'")
                .map_err(failed)?;
            let rows = statement
                .query_map([], |row| {
                    let machine: Option<i64> = row.get(1)?;
                    Ok((unsigned(row.get(0)?), machine.map(unsigned), row.get(2)?, row.get(3)?))
                })
                .map_err(failed)?;
            for row in rows {
                running.push(row.map_err(failed)?);
            }
        }
        for (job, machine, key, cancel) in running {
            if inner.sessions.get(&key).is_some_and(|session| self.is_here(session)) {
                continue;
            }
            if cancel {
                self.end(inner, job, JobState::Cancelled, Some("its agent is not heard of any more"), None)?;
            } else {
                let message = "its agent is not heard of: it goes on when the machine appears again";
                inner.durably(|db| {
                    db.execute(
                        "UPDATE jobs SET state = 'lost', message = ?2 WHERE id = ?1",
                        params![signed(job), message],
                    )
                    .map_err(failed)
                })?;
            }
            self.notes.warn(format!("job={job} is lost: its agent is not heard of"));
            self.tell(|| Ok(Event::Job { job: Box::new(self.read_job(inner, job)?) }));
            if let Some(machine) = machine {
                inner.wake(machine);
            }
        }
        Ok(())
    }

    fn flush_times(&self, inner: &mut Inner) -> Result<()> {
        inner.flushed = Instant::now();
        let seen = std::mem::take(&mut inner.seen);
        inner.lazily(|db| {
            let mut statement =
                db.prepare_cached("UPDATE machines SET last_seen = max(last_seen, ?2) WHERE id = ?1").map_err(failed)?;
            for (machine, time) in &seen {
                statement.execute([signed(*machine), signed(*time)]).map_err(failed)?;
            }
            db.execute("DELETE FROM tokens WHERE expires < ?1 AND job NOT IN (SELECT id FROM jobs WHERE state IN ('running', 'lost'))",
                [signed(now())]).map_err(failed)?;
            Ok(())
        })
    }

    /// Whether the key was seen before.
    pub(crate) fn knows(&self, key: &Key) -> Result<bool> {
        Ok(self.lock().session(key, None)?.is_some())
    }

    /// The key with this code, and who listens; for tests.
    #[cfg(test)]
    pub(crate) fn key_of(&self, code: &str) -> Result<Key> {
        let inner = self.lock();
        inner.db.query_row("SELECT key FROM keys WHERE code = ?1", [code], |row| row.get(0)).map_err(failed)
    }

    #[cfg(test)]
    pub(crate) fn listeners(&self) -> usize {
        self.events.receiver_count()
    }

    /// Whoever waits for a job looks again.
    pub(crate) fn wake_all(&self) {
        self.lock().sessions.values().for_each(|session| session.wake.notify_one());
    }

    /// Writes what waits; before the end.
    pub(crate) fn flush(&self) -> Result<()> {
        self.flush_times(&mut self.lock())
    }
}
