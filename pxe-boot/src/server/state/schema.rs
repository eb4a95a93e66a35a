// SPDX-License-Identifier: Apache-2.0
//! The database's tables. `user_version` counts their changes; each has a step below.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use unmoor_images::{Error, ErrorKind, Result, ResultExt};

use super::failed;

/// Steps from one version to the next; the first makes everything.
const STEPS: [&str; 1] = ["
CREATE TABLE machines(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    uuid TEXT,
    serial TEXT,
    facts TEXT,               -- JSON of MachineFacts; absent before an agent has registered
    disks TEXT,
    verdict TEXT,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    booted INTEGER,           -- when it asked to be booted, unless an agent has registered since
    rescue INTEGER NOT NULL DEFAULT 0, -- the next start is the rescue environment
    address TEXT
) STRICT;
CREATE INDEX machines_uuid ON machines(uuid);
CREATE TABLE macs(
    mac TEXT NOT NULL,
    machine INTEGER NOT NULL REFERENCES machines ON DELETE CASCADE,
    PRIMARY KEY(mac, machine)
) STRICT, WITHOUT ROWID;
CREATE INDEX macs_machine ON macs(machine);
CREATE TABLE keys(
    key BLOB PRIMARY KEY,     -- SHA-256 of the SubjectPublicKeyInfo
    machine INTEGER NOT NULL REFERENCES machines ON DELETE CASCADE,
    code TEXT NOT NULL,
    boot TEXT NOT NULL,
    approved INTEGER NOT NULL,
    registered INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_machine ON keys(machine);
CREATE TABLE jobs(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    machine INTEGER REFERENCES machines ON DELETE SET NULL,
    selector TEXT NOT NULL,
    task TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL,
    began INTEGER,
    ended INTEGER,
    message TEXT,
    result TEXT,
    rate_limit INTEGER NOT NULL,
    key BLOB,                 -- of the agent that does it
    cancel INTEGER NOT NULL DEFAULT 0,
    committed TEXT            -- JSON of Committed: the image that came of it
) STRICT;
CREATE INDEX jobs_machine ON jobs(machine);
CREATE INDEX jobs_state ON jobs(state);
CREATE TABLE tokens(
    hash BLOB PRIMARY KEY,    -- SHA-256
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    key BLOB NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_job ON tokens(job);
CREATE TABLE lines(
    id INTEGER PRIMARY KEY,
    machine INTEGER NOT NULL REFERENCES machines ON DELETE CASCADE,
    key BLOB NOT NULL,
    number INTEGER NOT NULL,
    seconds REAL NOT NULL,
    level TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX lines_machine ON lines(machine, id);
"];

/// Opens or makes it; nobody else may use it meanwhile.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let doing = || format!("opening the server's state {}", path.display());
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    flags |= OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(failed).doing(doing)?;
    match prepare(&mut db) {
        Ok(()) => Ok(db),
        Err(error) if is_busy(&error) => Err(Error::refused(doing(), "another server uses it")),
        Err(error) => Err(error).doing(doing),
    }
}

fn is_busy(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<rusqlite::Error>());
    cause.and_then(rusqlite::Error::sqlite_error_code) == Some(rusqlite::ErrorCode::DatabaseBusy)
}

fn prepare(db: &mut Connection) -> Result<()> {
    db.busy_timeout(Duration::from_secs(2)).map_err(failed)?;
    // Two servers on one state would give out each other's jobs. Before WAL: then there is no shared memory either.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(failed)?;
    db.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    db.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    db.pragma_update(None, "trusted_schema", false).map_err(failed)?;
    db.set_prepared_statement_cache_capacity(64);
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let done = usize::try_from(version).ok().filter(|version| *version <= STEPS.len());
    let Some(done) = done else {
        return Err(Error::new(ErrorKind::Unsupported, format!("reading its version {version}"))
            .because("a newer unmoor has written it"));
    };
    let transaction = db.transaction().map_err(failed)?;
    for step in STEPS.iter().skip(done) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", STEPS.len() as i64).map_err(failed)?;
    transaction.commit().map_err(failed)
}
