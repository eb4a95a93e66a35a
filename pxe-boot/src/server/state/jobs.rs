// SPDX-License-Identifier: Apache-2.0
//! Jobs: taken, given up, done again, ended.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;
use unmoor_images::store::ImageName;
use unmoor_images::{Error, ErrorKind, Result};

use super::identity::{self, Marks};
use super::{
    Inner, Key, State, errors, failed, json, machines, no_job, no_machine, now, parsed, signed, text, tokens,
    unsigned,
};
use crate::api::{Committed, Done, Event, Job, JobState, NewJob, Outcome, Selector, Task};
use crate::server::store::{Access, Reach};

/// Ended jobs that are kept.
const KEPT: i64 = 10_000;
/// Jobs that may wait.
const WAITING: i64 = 100_000;

const COLUMNS: &str = "id, machine, selector, task, state, attempts, created, began, ended, message, result, rate_limit, cancel";

struct Raw {
    id: u64,
    machine: Option<u64>,
    selector: String,
    task: String,
    state: String,
    attempts: u32,
    created: u64,
    began: Option<u64>,
    ended: Option<u64>,
    message: Option<String>,
    result: Option<String>,
    rate_limit: u64,
    cancel: bool,
}

fn raw(row: &Row) -> rusqlite::Result<Raw> {
    let number = |index| row.get::<_, Option<i64>>(index).map(|number| number.map(unsigned));
    Ok(Raw {
        id: unsigned(row.get(0)?),
        machine: number(1)?,
        selector: row.get(2)?,
        task: row.get(3)?,
        state: row.get(4)?,
        attempts: row.get(5)?,
        created: unsigned(row.get(6)?),
        began: number(7)?,
        ended: number(8)?,
        message: row.get(9)?,
        result: row.get(10)?,
        rate_limit: unsigned(row.get(11)?),
        cancel: row.get(12)?,
    })
}

pub(crate) fn word(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Lost => "lost",
        JobState::Done => "done",
        JobState::Refused => "refused",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn is_open(state: JobState) -> bool {
    matches!(state, JobState::Waiting | JobState::Running | JobState::Lost)
}

impl State {
    fn job_from(&self, inner: &Inner, raw: Raw) -> Result<Job> {
        let state: JobState = serde_json::from_value(Value::String(raw.state)).map_err(|error| {
            Error::new(ErrorKind::Malformed, "reading a job of the server's state").source(error)
        })?;
        let mut sessions = inner.sessions.values().filter(|session| Some(session.machine) == raw.machine);
        let progress = sessions
            .find_map(|session| session.progress.as_ref().filter(|(job, _)| *job == raw.id))
            .map(|(_, progress)| progress.clone());
        let message = match state {
            JobState::Running if raw.cancel => {
                Some("it is to be given up; its agent hears that next".to_owned())
            }
            _ => raw.message,
        };
        Ok(Job {
            id: raw.id,
            selector: parsed(&raw.selector, "a selector")?,
            machine: raw.machine,
            task: parsed(&raw.task, "a task")?,
            state,
            attempts: raw.attempts,
            created: text(raw.created),
            began: raw.began.map(text),
            ended: raw.ended.map(text),
            progress: progress.filter(|_| state == JobState::Running),
            message,
            result: raw
                .result
                .as_deref()
                .map(|text| parsed(text, "a result"))
                .transpose()?
                .unwrap_or_default(),
            rate_limit: raw.rate_limit,
        })
    }

    pub(super) fn read_job(&self, inner: &Inner, id: u64) -> Result<Job> {
        let found = inner
            .db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1"))
            .map_err(failed)?
            .query_row([signed(id)], raw)
            .optional()
            .map_err(failed)?;
        self.job_from(inner, found.ok_or_else(|| no_job(id))?)
    }

    /// What a machine does or did last.
    pub(super) fn job_of(&self, inner: &Inner, machine: u64) -> Result<Option<Job>> {
        let found = inner
            .db
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM jobs WHERE machine = ?1
                 ORDER BY state IN ('running', 'lost') DESC, began DESC NULLS LAST, id LIMIT 1"
            ))
            .map_err(failed)?
            .query_row([signed(machine)], raw)
            .optional()
            .map_err(failed)?;
        found.map(|raw| self.job_from(inner, raw)).transpose()
    }

    fn tell_job(&self, inner: &Inner, id: u64) {
        self.tell(|| Ok(Event::Job { job: Box::new(self.read_job(inner, id)?) }));
    }

    /// One.
    pub(crate) fn job(&self, id: u64) -> Result<Job> {
        self.read_job(&self.lock(), id)
    }

    /// The newest ones, newest first.
    pub(crate) fn jobs(&self, most: usize) -> Result<Vec<Job>> {
        let inner = self.lock();
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut statement = inner
            .db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM jobs ORDER BY id DESC LIMIT ?1"))
            .map_err(failed)?;
        let rows = statement.query_map([most], raw).map_err(failed)?;
        let rows: Vec<Raw> = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
        rows.into_iter().map(|raw| self.job_from(&inner, raw)).collect()
    }

    /// Takes a job.
    pub(crate) fn add_job(&self, new: &NewJob) -> Result<Job> {
        let doing = "taking a job";
        let selector = identity::tidy(&new.machine);
        if selector == Selector::default() {
            return Err(Error::new(ErrorKind::Usage, doing)
                .because("say which machine: id, name, mac, uuid or serial"));
        }
        check(&new.task)?;
        let mut guard = self.lock();
        let inner = &mut *guard;
        let found = self.select(&inner.db, &selector)?;
        let machine = match (found.as_slice(), selector.id) {
            ([one], _) => Some(*one),
            ([], Some(id)) => return Err(no_machine(id)),
            ([], None) => None,
            (many, _) => {
                let because = format!("{} machines fit: name one of them", many.len());
                return Err(Error::refused(doing, because));
            }
        };
        let message = machine.is_none().then_some("waits for its machine to appear");
        let rate = i64::try_from(new.rate_limit).map_err(|_| {
            Error::new(ErrorKind::Usage, doing).because("so many bytes per second there are not")
        })?;
        let id = inner.durably(|db| {
            let waiting: i64 = db
                .query_row("SELECT count(*) FROM jobs WHERE state = 'waiting'", [], |row| row.get(0))
                .map_err(failed)?;
            if waiting >= WAITING {
                return Err(Error::refused(doing, format!("{waiting} jobs wait already")));
            }
            db.execute(
                "DELETE FROM jobs WHERE ended IS NOT NULL AND id <= (SELECT id FROM jobs WHERE ended IS NOT NULL
                 ORDER BY id DESC LIMIT 1 OFFSET ?1)",
                [KEPT],
            )
            .map_err(failed)?;
            db.execute(
                "INSERT INTO jobs(machine, selector, task, state, created, message, rate_limit)
                 VALUES(?1, ?2, ?3, 'waiting', ?4, ?5, ?6)",
                params![machine.map(signed), json(&selector)?, json(&new.task)?, signed(now()), message, rate],
            )
            .map_err(failed)?;
            Ok(unsigned(db.last_insert_rowid()))
        })?;
        self.notes.note(format!("job={id} task={} taken", new.task.name()));
        if let Some(machine) = machine {
            inner.wake(machine);
        }
        self.tell_job(inner, id);
        self.read_job(inner, id)
    }

    /// The machines that a selector fits.
    fn select(&self, db: &Connection, selector: &Selector) -> Result<Vec<u64>> {
        let mut statement = db
            .prepare_cached(
                "SELECT id FROM machines WHERE (?1 IS NULL OR id = ?1) AND (?2 IS NULL OR name = ?2)",
            )
            .map_err(failed)?;
        let rows = statement
            .query_map(params![selector.id.map(signed), selector.name], |row| row.get::<_, i64>(0))
            .map_err(failed)?;
        let mut found = Vec::new();
        for row in rows {
            let id = unsigned(row.map_err(failed)?);
            if Marks::read(db, id)?.fit(selector) {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// A machine has appeared or is better known: jobs that wait for one like it are its own.
    pub(super) fn match_jobs(&self, inner: &mut Inner, machine: u64) -> Result<()> {
        let mut fitting = Vec::new();
        {
            let mut statement = inner
                .db
                .prepare_cached("SELECT id, selector FROM jobs WHERE machine IS NULL AND state = 'waiting'")
                .map_err(failed)?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
                .map_err(failed)?;
            let waiting: Vec<(i64, String)> = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
            if waiting.is_empty() {
                return Ok(());
            }
            let marks = Marks::read(&inner.db, machine)?;
            let name = machines::name(&inner.db, machine)?;
            for (id, selector) in waiting {
                let selector: Selector = parsed(&selector, "a selector")?;
                let named = selector.name.as_ref().is_none_or(|wanted| *wanted == name);
                let numbered = selector.id.is_none_or(|wanted| wanted == machine);
                if named && numbered && marks.fit(&selector) {
                    fitting.push(id);
                }
            }
        }
        inner.durably(|db| {
            for id in &fitting {
                db.execute(
                    "UPDATE jobs SET machine = ?2, message = NULL WHERE id = ?1",
                    [*id, signed(machine)],
                )
                .map_err(failed)?;
            }
            Ok(())
        })?;
        for id in fitting {
            self.tell_job(inner, unsigned(id));
        }
        Ok(())
    }

    /// Whether a job waits for a machine with these marks that has not appeared, by that name where it has one.
    pub(super) fn is_awaited(&self, db: &Connection, marks: &Marks, name: Option<&str>) -> Result<bool> {
        let mut statement = db
            .prepare_cached("SELECT selector FROM jobs WHERE machine IS NULL AND state = 'waiting'")
            .map_err(failed)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
        for row in rows {
            let selector: Selector = parsed(&row.map_err(failed)?, "a selector")?;
            let named = selector.name.as_deref().is_none_or(|wanted| Some(wanted) == name);
            if named && selector.id.is_none() && marks.fit(&selector) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives a job up.
    pub(crate) fn cancel_job(&self, id: u64) -> Result<Job> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let job = self.read_job(inner, id)?;
        match job.state {
            JobState::Waiting | JobState::Lost => {
                self.end(inner, id, JobState::Cancelled, Some("given up by an administrator"), None)?;
            }
            JobState::Running => inner.durably(|db| {
                db.execute("UPDATE jobs SET cancel = 1 WHERE id = ?1", [signed(id)]).map_err(failed)?;
                Ok(())
            })?,
            JobState::Cancelled => return Ok(job),
            ended => {
                return Err(Error::refused(
                    format!("giving up job {id}"),
                    format!("it has ended: {}", word(ended)),
                ));
            }
        }
        self.notes.note(format!("job={id} is to be given up"));
        self.tell_job(inner, id);
        self.read_job(inner, id)
    }

    /// Does an ended job again, as a new one.
    pub(crate) fn retry_job(&self, id: u64) -> Result<Job> {
        let job = self.job(id)?;
        if is_open(job.state) {
            return Err(Error::refused(format!("doing job {id} again"), "it has not ended"));
        }
        // The machine that it was for, though more fit its selector now.
        let machine = match job.machine {
            Some(machine) => Selector { id: Some(machine), ..Selector::default() },
            None => job.selector,
        };
        self.add_job(&NewJob { machine, task: job.task, rate_limit: job.rate_limit })
    }

    pub(super) fn end(
        &self,
        inner: &mut Inner,
        id: u64,
        state: JobState,
        message: Option<&str>,
        result: Option<&Value>,
    ) -> Result<()> {
        let result = result.map(json).transpose()?;
        let machine: Option<i64> = inner.durably(|db| {
            db.query_row(
                "UPDATE jobs SET state = ?2, ended = ?3, message = ?4, result = ?5 WHERE id = ?1 RETURNING machine",
                params![signed(id), word(state), signed(now()), message, result],
                |row| row.get(0),
            )
            .map_err(failed)
        })?;
        let message = message.unwrap_or_default();
        self.notes.note(format!("job={id} state={} {message}", word(state)).trim_end().to_owned());
        if let Some(machine) = machine {
            inner.wake(unsigned(machine));
            self.tell_machine(inner, unsigned(machine));
        }
        Ok(())
    }

    /// A job has ended, says its agent; that may be said twice.
    pub(crate) fn done(&self, key: &Key, token: &str, id: u64, done: &Done) -> Result<()> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        // Also one that has expired meanwhile: the key says who it is, and an end must not be lost with a long outage.
        tokens::expires(&inner.db, key, id, token)?;
        let job = self.read_job(inner, id)?;
        if let Some(machine) = job.machine {
            let next = inner.session(key, None)?.map(|session| session.next_log);
            let next = self.keep(inner, machine, key, next.unwrap_or(0), &done.log)?;
            if let Some(session) = inner.sessions.get_mut(key) {
                (session.next_log, session.progress) = (next, None);
            }
        }
        if !is_open(job.state) {
            return Ok(());
        }
        let (state, message) = match &done.outcome {
            Outcome::Done => (JobState::Done, None),
            Outcome::Refused(why) => (JobState::Refused, Some(why)),
            Outcome::Failed(why) => (JobState::Failed, Some(why)),
            Outcome::Cancelled => (JobState::Cancelled, None),
        };
        let message: Option<String> = message.map(|why| why.chars().take(8000).collect());
        self.end(inner, id, state, message.as_deref(), Some(&done.result))?;
        if let (Task::Reboot { into }, JobState::Done, Some(machine)) = (&job.task, state, job.machine) {
            let rescue = into == "network";
            inner.durably(|db| {
                db.execute("UPDATE machines SET rescue = ?2 WHERE id = ?1", params![signed(machine), rescue])
                    .map_err(failed)?;
                Ok(())
            })?;
        }
        self.tell_job(inner, id);
        Ok(())
    }

    /// What the bearer of this token may do, with this key.
    pub(crate) fn admit(&self, key: &Key, token: &str, id: u64) -> Result<Access> {
        let doing = "checking a job's token";
        let inner = self.lock();
        if tokens::expires(&inner.db, key, id, token)? <= now() {
            return Err(errors::denied(doing, "it has expired: its agent was not heard of for long"));
        }
        let job = self.read_job(&inner, id)?;
        if !matches!(job.state, JobState::Running | JobState::Lost) {
            return Err(errors::denied(doing, format!("the job has ended: {}", word(job.state))));
        }
        let reach = match job.task {
            Task::Capture { name, .. } => Reach::Capture { machine: name },
            Task::Restore { image, .. } => Reach::Restore { image: ImageName::parse(&image)? },
            other => return Err(errors::forbidden(doing, format!("{} needs no image", other.name()))),
        };
        Ok(Access { job: id, reach, rate_limit: job.rate_limit })
    }

    /// An image has come of it.
    pub(crate) fn committed(&self, id: u64, committed: &Committed) -> Result<()> {
        let text = json(committed)?;
        self.lock().durably(|db| {
            db.execute("UPDATE jobs SET committed = ?2 WHERE id = ?1", params![signed(id), text])
                .map_err(failed)?;
            Ok(())
        })?;
        let image = format!("{}@{}", committed.summary.machine, committed.time);
        self.notes.note(format!("job={id} image={image} stored"));
        self.tell(|| Ok(Event::Image { image }));
        Ok(())
    }

    /// The image that has come of it already.
    pub(crate) fn committed_before(&self, id: u64) -> Result<Option<Committed>> {
        let inner = self.lock();
        let text: Option<Option<String>> = inner
            .db
            .query_row("SELECT committed FROM jobs WHERE id = ?1", [signed(id)], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        text.ok_or_else(|| no_job(id))?.map(|text| parsed(&text, "an image")).transpose()
    }
}

/// What no agent could do is said at once.
fn check(task: &Task) -> Result<()> {
    let usage = |because: String| Err(Error::new(ErrorKind::Usage, "taking a job").because(because));
    let one_of = |what: &str, word: &str, words: &[&str]| match words.contains(&word) {
        true => Ok(()),
        false => usage(format!("{what} {word:.80?} is none of {}", words.join(", "))),
    };
    match task {
        Task::Capture { name, .. } => {
            if ImageName::parse(name)?.time.is_some() {
                return usage("a capture makes an image of its own time: give NAME alone".to_owned());
            }
            Ok(())
        }
        Task::Restore { image, firmware, then, .. } => {
            ImageName::parse(image)?;
            one_of("the firmware", firmware, &["auto", "keep", "bios", "uefi"])?;
            one_of("what comes then", then, &["reboot", "poweroff", "stay"])
        }
        Task::Wipe { disks } if disks.is_empty() => usage("say which disks are to be wiped".to_owned()),
        Task::Reboot { into } => one_of("where to", into, &["disk", "network"]),
        Task::Wipe { .. } | Task::Inspect | Task::Idle => Ok(()),
    }
}
