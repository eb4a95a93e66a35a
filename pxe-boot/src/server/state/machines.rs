// SPDX-License-Identifier: Apache-2.0
//! Machines and the keys of their agents.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};
use unmoor_images::manifest::MachineFacts;
use unmoor_images::{Error, Result};

use super::identity::Marks;
use super::sessions::Session;
use super::tokens::hex;
use super::{Inner, Key, State, failed, json, no_machine, now, parsed, signed, text, unsigned};
use crate::api::{Approve, Event, Machine, Presence, Register, Registered};
use crate::server::options::{Group, Known};

/// Machines that are kept; then those that never did anything go first.
const MOST: i64 = 20_000;
/// Keys that are kept of a machine.
const KEYS: i64 = 16;

/// A machine's row.
struct Row {
    name: String,
    facts: Option<String>,
    disks: Option<String>,
    verdict: Option<String>,
    first_seen: i64,
    last_seen: i64,
    booted: Option<i64>,
    address: Option<String>,
}

impl Inner {
    pub(super) fn has_machine(&self, id: u64) -> Result<bool> {
        let found: Option<i64> = self
            .db
            .query_row("SELECT id FROM machines WHERE id = ?1", [signed(id)], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        Ok(found.is_some())
    }
}

/// A machine's name.
pub(super) fn name(db: &Connection, id: u64) -> Result<String> {
    db.query_row("SELECT name FROM machines WHERE id = ?1", [signed(id)], |row| row.get(0))
        .optional()
        .map_err(failed)?
        .ok_or_else(|| no_machine(id))
}

/// A name for a machine that has none: its product and the end of an address.
fn invented(marks: &Marks, product: Option<&str>) -> String {
    let product: String = product.unwrap_or("machine").to_lowercase().chars().take(40).collect();
    let words: Vec<&str> =
        product.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut name = if words.is_empty() { "machine".to_owned() } else { words.join("-") };
    let id = marks.macs.first().or(marks.uuid.as_ref()).or(marks.serial.as_ref());
    let digits: Vec<char> =
        id.map_or("", String::as_str).chars().filter(char::is_ascii_alphanumeric).collect();
    if !digits.is_empty() {
        name.push('-');
        name.extend(digits.iter().skip(digits.len().saturating_sub(6)).map(char::to_ascii_lowercase));
    }
    name
}

/// The name, or with a number where another machine has it.
fn free(db: &Connection, name: &str) -> Result<String> {
    let mut statement = db.prepare_cached("SELECT count(*) FROM machines WHERE name = ?1").map_err(failed)?;
    for number in 1..=MOST {
        let wanted = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
        let taken: i64 = statement.query_row([&wanted], |row| row.get(0)).map_err(failed)?;
        if taken == 0 {
            return Ok(wanted);
        }
    }
    Err(Error::refused("naming a machine", "there are too many of that name"))
}

impl State {
    pub(super) fn known(&self, marks: &Marks) -> Option<&Known> {
        self.known.iter().find(|known| known.selector != Default::default() && marks.fit(&known.selector))
    }

    pub(super) fn group(&self, known: Option<&Known>) -> Option<&Group> {
        match known {
            Some(known) => self.groups.iter().find(|group| Some(&group.name) == known.group.as_ref()),
            None => self.groups.iter().find(|group| group.unknown),
        }
    }

    /// Whether the configuration approves the key: by its hash or code, or all keys of the machine's group.
    fn is_trusted(&self, marks: &Marks, key: &Key, code: &str) -> bool {
        let known = self.known(marks);
        let own = known.and_then(|known| known.key.as_deref()).is_some_and(|wanted| {
            let wanted = wanted.trim().replace(':', "");
            wanted.eq_ignore_ascii_case(&hex(key)) || wanted.eq_ignore_ascii_case(code)
        });
        own || self.group(known).is_some_and(|group| group.trust_network)
    }

    /// The machine with these marks, a new one where there is none.
    pub(super) fn place(
        &self,
        inner: &mut Inner,
        marks: &Marks,
        product: Option<&str>,
        alive: &dyn Fn(u64) -> bool,
    ) -> Result<(u64, bool)> {
        let found = marks.find(&inner.db, alive)?;
        let known = self.known(marks).map(|known| known.name.clone());
        let place = inner.durably(|db| {
            if let Some(id) = found {
                if let Some(name) = known {
                    db.execute(
                        "UPDATE machines SET name = ?2 WHERE id = ?1 AND name <> ?2",
                        params![signed(id), name],
                    )
                    .map_err(failed)?;
                }
                return Ok((id, false));
            }
            make_room(db)?;
            let name = match known {
                Some(name) => name,
                None => free(db, &invented(marks, product))?,
            };
            let time = signed(now());
            db.execute(
                "INSERT INTO machines(name, first_seen, last_seen) VALUES(?1, ?2, ?2)",
                params![name, time],
            )
            .map_err(failed)?;
            let id = unsigned(db.last_insert_rowid());
            marks.write(db, id)?;
            Ok((id, true))
        })?;
        if place.1 {
            self.match_jobs(inner, place.0)?;
        }
        Ok(place)
    }

    /// An agent has started. `code` is its key's short code.
    pub(crate) fn register(
        &self,
        key: &Key,
        code: &str,
        address: Option<IpAddr>,
        register: &Register,
    ) -> Result<Registered> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let marks = Marks::of(&register.facts);
        let busy: Vec<u64> = inner
            .sessions
            .iter()
            .filter(|(other, session)| *other != key && self.is_here(session))
            .map(|(_, session)| session.machine)
            .collect();
        let product = register.facts.product.as_deref();
        let (machine, new) = self.place(inner, &marks, product, &|id| busy.contains(&id))?;
        let before: Option<(i64, bool)> = inner
            .db
            .query_row("SELECT machine, approved FROM keys WHERE key = ?1", [key], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .map_err(failed)?;
        // An approval is for one key as one machine.
        let kept = before.is_some_and(|(id, approved)| approved && unsigned(id) == machine);
        let approved = kept || self.is_trusted(&marks, key, code);
        // Whoever only says that it is a machine whose agent is approved and lives changes nothing of it.
        let believed = approved || !self.is_taken(inner, machine, key);
        let boot: String = register.boot.chars().take(128).collect();
        let where_from = address.map(|address| address.to_string());
        let facts = json(&register.facts)?;
        let (disks, verdict) = (json(&register.disks)?, json(&register.verdict)?);
        inner.durably(|db| {
            db.execute(
                "INSERT INTO keys(key, machine, code, boot, approved, registered) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT(key) DO UPDATE SET machine = ?2, boot = ?4, approved = ?5, registered = ?6",
                params![key, signed(machine), code, boot, approved, signed(now())],
            )
            .map_err(failed)?;
            db.execute(
                "DELETE FROM keys WHERE machine = ?1 AND key NOT IN (SELECT key FROM keys WHERE machine = ?1
                 ORDER BY approved DESC, registered DESC LIMIT ?2) AND key <> ?3",
                params![signed(machine), KEYS, key],
            )
            .map_err(failed)?;
            if believed {
                marks.write(db, machine)?;
                db.execute(
                    "UPDATE machines SET facts = ?2, disks = ?3, verdict = ?4, last_seen = ?5, address = ?6, booted = NULL,
                     rescue = 0 WHERE id = ?1",
                    params![signed(machine), facts, disks, verdict, signed(now()), where_from],
                )
                .map_err(failed)?;
            }
            Ok(())
        })?;
        if believed {
            self.match_jobs(inner, machine)?;
        }
        let name = name(&inner.db, machine)?;
        let address = where_from.as_deref().unwrap_or("-");
        self.notes.note(format!(
            "machine={machine} name={name} address={address} code={code} approved={approved} registered"
        ));
        if !believed {
            self.notes.warn(format!(
                "machine={machine} address={address} code={code}: another agent says that it is this machine, whose agent is heard of"
            ));
        }
        let mut session = Session::new(machine, boot, approved, address.parse().ok());
        if let Some(old) = inner.sessions.remove(key) {
            let same = old.boot == session.boot;
            (session.asked, session.wake) = (old.asked, old.wake);
            if same {
                session.next_log = old.next_log;
            }
        }
        if session.next_log == 0 && before.is_some() && !new {
            session.next_log = super::lines::next(&inner.db, machine, key)?;
        }
        session.wake.notify_one();
        inner.sessions.insert(*key, session);
        inner.wake(machine);
        self.tell_machine(inner, machine);
        let heartbeat_seconds = self.pace.heartbeat;
        Ok(Registered { machine, name, code: code.to_owned(), approved, heartbeat_seconds })
    }

    /// Approves the key of that code, of all that said they are this machine.
    pub(crate) fn approve(&self, id: u64, approve: &Approve) -> Result<Machine> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let doing = || format!("approving a key of machine {id}");
        if !inner.has_machine(id)? {
            return Err(no_machine(id));
        }
        let code = approve.code.trim().to_ascii_uppercase();
        let mut keys: Vec<Key> = Vec::new();
        {
            let mut statement = inner
                .db
                .prepare_cached("SELECT key FROM keys WHERE machine = ?1 AND code = ?2")
                .map_err(failed)?;
            let rows = statement.query_map(params![signed(id), code], |row| row.get(0)).map_err(failed)?;
            for row in rows {
                keys.push(row.map_err(failed)?);
            }
        }
        let [key] = keys.as_slice() else {
            let because = if keys.is_empty() {
                "no agent with that code has said that it is this machine; compare the code with the machine's console"
            } else {
                "several keys have that code: somebody imitates one"
            };
            return Err(Error::refused(doing(), because));
        };
        inner.durably(|db| {
            db.execute("UPDATE keys SET approved = 1 WHERE key = ?1", [key]).map_err(failed)?;
            Ok(())
        })?;
        if let Some(session) = inner.sessions.get_mut(key) {
            session.approved = true;
        }
        self.notes.note(format!("machine={id} code={code} approved"));
        inner.wake(id);
        self.tell_machine(inner, id);
        self.read_machine(inner, id)
    }

    /// Forgets it. Its jobs that wait go on waiting for a machine like it, but for those that mean its number.
    pub(crate) fn forget(&self, id: u64) -> Result<()> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if !inner.has_machine(id)? {
            return Err(no_machine(id));
        }
        inner.durably(|db| {
            let running: i64 = db
                .query_row(
                    "SELECT count(*) FROM jobs WHERE machine = ?1 AND state IN ('running', 'lost')",
                    [signed(id)],
                    |row| row.get(0),
                )
                .map_err(failed)?;
            if running > 0 {
                return Err(Error::refused(format!("forgetting machine {id}"), "a job of its runs: cancel that first"));
            }
            // No other machine gets its number.
            db.execute(
                "UPDATE jobs SET state = 'cancelled', ended = ?2, message = 'its machine was forgotten'
                 WHERE machine = ?1 AND state = 'waiting' AND json_extract(selector, '$.id') IS NOT NULL",
                params![signed(id), signed(now())],
            )
            .map_err(failed)?;
            db.execute(
                "UPDATE jobs SET message = 'waits for its machine to appear' WHERE machine = ?1 AND state = 'waiting'",
                [signed(id)],
            )
            .map_err(failed)?;
            db.execute("DELETE FROM machines WHERE id = ?1", [signed(id)]).map_err(failed)?;
            Ok(())
        })?;
        inner.sessions.retain(|_, session| session.machine != id);
        inner.seen.remove(&id);
        self.notes.note(format!("machine={id} forgotten"));
        Ok(())
    }

    /// All machines, by name.
    pub(crate) fn machines(&self) -> Result<Vec<Machine>> {
        let inner = self.lock();
        let mut statement =
            inner.db.prepare_cached("SELECT id FROM machines ORDER BY name, id").map_err(failed)?;
        let ids = statement.query_map([], |row| row.get::<_, i64>(0)).map_err(failed)?;
        let ids: Vec<i64> = ids.collect::<rusqlite::Result<_>>().map_err(failed)?;
        ids.into_iter().map(|id| self.read_machine(&inner, unsigned(id))).collect()
    }

    /// One.
    pub(crate) fn machine(&self, id: u64) -> Result<Machine> {
        self.read_machine(&self.lock(), id)
    }

    pub(super) fn tell_machine(&self, inner: &Inner, id: u64) {
        self.tell(|| Ok(Event::Machine { machine: Box::new(self.read_machine(inner, id)?) }));
    }

    pub(super) fn read_machine(&self, inner: &Inner, id: u64) -> Result<Machine> {
        let row = inner
            .db
            .prepare_cached(
                "SELECT name, facts, disks, verdict, first_seen, last_seen, booted, address FROM machines WHERE id = ?1",
            )
            .map_err(failed)?
            .query_row([signed(id)], |row| {
                Ok(Row {
                    name: row.get(0)?,
                    facts: row.get(1)?,
                    disks: row.get(2)?,
                    verdict: row.get(3)?,
                    first_seen: row.get(4)?,
                    last_seen: row.get(5)?,
                    booted: row.get(6)?,
                    address: row.get(7)?,
                })
            })
            .optional()
            .map_err(failed)?
            .ok_or_else(|| no_machine(id))?;
        let marks = Marks::read(&inner.db, id)?;
        let facts: Option<MachineFacts> =
            row.facts.as_deref().map(|text| parsed(text, "facts")).transpose()?;
        // The agent that counts: one that is approved and lives, else the one that was heard of last.
        let session = inner
            .sessions
            .iter()
            .filter(|(_, session)| session.machine == id)
            .max_by_key(|(_, session)| (self.is_here(session) && session.approved, session.heard));
        let last: Option<(Key, String, bool)> = inner
            .db
            .prepare_cached(
                "SELECT key, code, approved FROM keys WHERE machine = ?1
                 ORDER BY key = ?2 DESC, registered DESC LIMIT 1",
            )
            .map_err(failed)?
            .query_row(params![signed(id), session.map(|(key, _)| key)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()
            .map_err(failed)?;
        let here = session.is_some_and(|(_, session)| self.is_here(session));
        let presence = match (here, row.booted) {
            (true, _) => Presence::Here,
            (false, Some(_)) => Presence::Booting,
            (false, None) => Presence::Gone,
        };
        let address = session.and_then(|(_, session)| session.address).map(|address| address.to_string());
        let last_seen = inner.seen.get(&id).copied().unwrap_or(0).max(unsigned(row.last_seen));
        Ok(Machine {
            id,
            name: row.name,
            group: self.group(self.known(&marks)).map(|group| group.name.clone()),
            macs: marks.macs,
            presence,
            first_seen: text(unsigned(row.first_seen)),
            last_seen: text(last_seen),
            address: address.or(row.address),
            approved: last.as_ref().is_some_and(|(_, _, approved)| *approved),
            code: last.map(|(_, code, _)| code),
            facts,
            disks: row.disks.as_deref().map(|text| parsed(text, "disks")).transpose()?.unwrap_or_default(),
            verdict: row.verdict.as_deref().map(|text| parsed(text, "a verdict")).transpose()?.flatten(),
            job: self.job_of(inner, id)?,
        })
    }
}

/// A network on which anybody may ask must not fill the disk: those that never had a job or an approved key go, the oldest first.
fn make_room(db: &Connection) -> Result<()> {
    let count: i64 = db.query_row("SELECT count(*) FROM machines", [], |row| row.get(0)).map_err(failed)?;
    if count < MOST {
        return Ok(());
    }
    let gone = db
        .execute(
            "DELETE FROM machines WHERE id IN (SELECT id FROM machines WHERE
                id NOT IN (SELECT machine FROM jobs WHERE machine IS NOT NULL)
                AND id NOT IN (SELECT machine FROM keys WHERE approved) ORDER BY last_seen LIMIT 100)",
            [],
        )
        .map_err(failed)?;
    if gone == 0 {
        return Err(Error::refused(
            "taking a new machine",
            format!("there are {count} already; forget some"),
        ));
    }
    Ok(())
}
