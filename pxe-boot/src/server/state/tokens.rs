// SPDX-License-Identifier: Apache-2.0
//! Tokens: what a job's requests carry. Each counts with one key, for one job; the database has their hashes.

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};
use unmoor_images::{Error, ErrorKind, Result};

use super::{Inner, Key, State, failed, now, signed, unsigned};
use crate::server::errors;

/// 32 random bytes as hex digits.
pub(crate) fn draw() -> Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Io, "drawing a token").source(error))?;
    Ok(hex(&bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A new token of the job for the key; those from before end.
pub(super) fn give(db: &Connection, key: &Key, job: u64, seconds: u64) -> Result<String> {
    let token = draw()?;
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    db.execute("DELETE FROM tokens WHERE job = ?1", [signed(job)]).map_err(failed)?;
    db.execute(
        "INSERT INTO tokens(hash, job, key, expires) VALUES(?1, ?2, ?3, ?4)",
        params![hash, signed(job), key, signed(now().saturating_add(seconds))],
    )
    .map_err(failed)?;
    Ok(token)
}

/// Until when a token counts for this key and job.
pub(super) fn expires(db: &Connection, key: &Key, job: u64, token: &str) -> Result<u64> {
    // Looked for by its hash: how long that takes tells nothing of tokens that exist.
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let found: Option<i64> = db
        .prepare_cached("SELECT expires FROM tokens WHERE hash = ?1 AND job = ?2 AND key = ?3")
        .map_err(failed)?
        .query_row(params![hash, signed(job), key], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    found.map(unsigned).ok_or_else(|| {
        errors::denied("checking a job's token", "it is not this job's, or not for this agent's key")
    })
}

impl State {
    /// A heartbeat of the agent that does the job, which its key proves: its token goes on.
    pub(super) fn renew(&self, inner: &mut Inner, key: &Key, job: u64) -> Result<()> {
        let until = now().saturating_add(self.pace.token);
        inner.lazily(|db| {
            db.execute(
                "UPDATE tokens SET expires = ?3 WHERE job = ?1 AND key = ?2",
                params![signed(job), key, signed(until)],
            )
            .map_err(failed)?;
            Ok(())
        })
    }
}
