// SPDX-License-Identifier: Apache-2.0
//! Which job an agent gets.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{OptionalExtension, params};
use tokio::sync::Notify;
use unmoor_images::store::ImageName;
use unmoor_images::{Error, ErrorKind, Result};

use super::identity::Marks;
use super::{Inner, Key, State, failed, json, parsed, signed, tokens, unsigned};
use crate::api::{Assignment, Event, JobState, Task};

/// What an agent that asks for a job is told.
pub(crate) enum Next {
    /// To do that.
    Job(Box<Assignment>),
    /// There is none yet: it may be asked again when woken.
    Wait(Arc<Notify>),
    /// The agent is not known yet.
    Unknown,
    /// A later request of the same agent waits.
    Superseded,
    /// A job's image has to be found first; then it may be asked again.
    Pin(u64, ImageName),
}

impl State {
    /// An agent begins to ask. The number tells this request from later ones.
    pub(crate) fn ask(&self, key: &Key, address: Option<IpAddr>) -> Result<u64> {
        let mut inner = self.lock();
        Ok(match inner.session(key, address)? {
            Some(session) => {
                session.asked = session.asked.saturating_add(1);
                session.heard = Instant::now();
                // The one before it may go.
                session.wake.notify_waiters();
                session.asked
            }
            None => 0,
        })
    }

    /// The job that an agent is to do now, given to it.
    pub(crate) fn next(&self, key: &Key, asked: u64) -> Result<Next> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(session) = inner.sessions.get(key) else { return Ok(Next::Unknown) };
        if session.asked != asked {
            return Ok(if asked == 0 { Next::Unknown } else { Next::Superseded });
        }
        let (machine, approved, wake) = (session.machine, session.approved, session.wake.clone());
        let wait = Ok(Next::Wait(wake));
        if !approved && self.is_taken(inner, machine, key) {
            return wait;
        }
        let Some((id, state, holder)) = first(inner, machine)? else { return wait };
        if state == "running" && holder.as_ref() != Some(key) {
            return wait;
        }
        let job = self.read_job(inner, id)?;
        if job.task.needs_approval() && !approved {
            let code: Option<String> = inner
                .db
                .query_row("SELECT code FROM keys WHERE key = ?1", [key], |row| row.get(0))
                .optional()
                .map_err(failed)?;
            self.explain(
                inner,
                id,
                &format!("waits until the key {} is approved", code.unwrap_or_default()),
            )?;
            return wait;
        }
        let mut task = job.task;
        if let Task::Restore { image, profile, .. } = &mut task {
            let name = ImageName::parse(image)?;
            if job.attempts == 0 && !name.time.as_deref().is_some_and(|time| time.contains('Z')) {
                return Ok(Next::Pin(id, name));
            }
            let marks = Marks::read(&inner.db, machine)?;
            let group = self.group(self.known(&marks)).and_then(|group| group.profile.clone());
            if profile.as_str() == "auto"
                && let Some(own) = group
            {
                *profile = own;
            }
        }
        let seconds = self.pace.token;
        let token = inner.durably(|db| {
            let token = tokens::give(db, key, id, seconds)?;
            db.execute(
                "UPDATE jobs SET state = 'running', key = ?2, attempts = attempts + 1, began = ?3, message = NULL WHERE id = ?1",
                params![signed(id), key, signed(super::now())],
            )
            .map_err(failed)?;
            Ok(token)
        })?;
        self.notes.note(format!(
            "job={id} machine={machine} task={} attempt={} begins",
            task.name(),
            job.attempts
        ));
        self.tell(|| Ok(Event::Job { job: Box::new(self.read_job(inner, id)?) }));
        let (attempt, rate_limit) = (job.attempts, job.rate_limit);
        Ok(Next::Job(Box::new(Assignment { job: id, task, token, attempt, rate_limit })))
    }

    /// Says of a job that waits what it waits for.
    fn explain(&self, inner: &mut Inner, id: u64, message: &str) -> Result<()> {
        let changed = inner.lazily(|db| {
            db.execute(
                "UPDATE jobs SET message = ?2 WHERE id = ?1 AND message IS NOT ?2",
                params![signed(id), message],
            )
            .map_err(failed)
        })?;
        if changed > 0 {
            self.tell(|| Ok(Event::Job { job: Box::new(self.read_job(inner, id)?) }));
        }
        Ok(())
    }

    /// Finds the image that a restore means, once: one that goes on has to go on with the same. Reads the store.
    pub(crate) fn pin(&self, id: u64, name: &ImageName) -> Result<()> {
        let found = self.store.find(name);
        let mut guard = self.lock();
        let inner = &mut *guard;
        let found = match found {
            Err(error) if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Usage) => {
                return self.end(inner, id, JobState::Refused, Some(&error.chain()), None);
            }
            other => other?,
        };
        let mut task: Task = parsed(
            &inner
                .db
                .query_row("SELECT task FROM jobs WHERE id = ?1", [signed(id)], |row| row.get::<_, String>(0))
                .map_err(failed)?,
            "a task",
        )?;
        let Task::Restore { image, .. } = &mut task else {
            return Err(Error::new(ErrorKind::Malformed, "finding a job's image").because("it is no restore"));
        };
        *image = ImageName { machine: name.machine.clone(), time: Some(found.time) }.to_string();
        let task = json(&task)?;
        inner.durably(|db| {
            db.execute("UPDATE jobs SET task = ?2 WHERE id = ?1 AND attempts = 0", params![signed(id), task])
                .map_err(failed)?;
            Ok(())
        })
    }
}

/// The machine's job that comes first: one that was begun, else the oldest that waits.
fn first(inner: &Inner, machine: u64) -> Result<Option<(u64, String, Option<Key>)>> {
    inner
        .db
        .prepare_cached(
            "SELECT id, state, key FROM jobs WHERE machine = ?1 AND state IN ('running', 'lost', 'waiting')
             ORDER BY state = 'waiting', id LIMIT 1",
        )
        .map_err(failed)?
        .query_row([signed(machine)], |row| Ok((unsigned(row.get(0)?), row.get(1)?, row.get(2)?)))
        .optional()
        .map_err(failed)
}
