// SPDX-License-Identifier: Apache-2.0
//! What agents said: the last lines of each machine.

use rusqlite::{Connection, params};
use unmoor_images::Result;

use super::{Inner, Key, State, failed, no_machine, signed, unsigned};
use crate::api::{Event, LogLine};

/// Lines that are kept of a machine.
const KEPT: i64 = 2000;
/// Bytes of a line.
const LONGEST: usize = 4096;
/// Lines that are taken at a time.
const BATCH: usize = 1000;

/// The number of the next line of an agent.
pub(super) fn next(db: &Connection, machine: u64, key: &Key) -> Result<u64> {
    let last: Option<i64> = db
        .query_row(
            "SELECT max(number) FROM lines WHERE machine = ?1 AND key = ?2",
            params![signed(machine), key],
            |row| row.get(0),
        )
        .map_err(failed)?;
    Ok(last.map_or(0, |last| unsigned(last).saturating_add(1)))
}

fn cut(line: &LogLine) -> LogLine {
    let mut end = line.text.len().min(LONGEST);
    while !line.text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let text = line.text.get(..end).unwrap_or_default();
    let level = match line.level.as_str() {
        "warning" | "error" => line.level.clone(),
        _ => "info".to_owned(),
    };
    let seconds = if line.seconds.is_finite() { line.seconds } else { 0.0 };
    // Whoever reads a log in a terminal is not to be played with.
    let text = text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
    LogLine { number: line.number, seconds, level, text }
}

impl State {
    /// Keeps the lines that are new, and says which one is wanted next.
    pub(super) fn keep(
        &self,
        inner: &mut Inner,
        machine: u64,
        key: &Key,
        next: u64,
        lines: &[LogLine],
    ) -> Result<u64> {
        let mut wanted = next;
        let mut fresh = Vec::new();
        for line in lines.iter().take(BATCH) {
            if line.number >= wanted && line.number < i64::MAX as u64 {
                wanted = line.number.saturating_add(1);
                fresh.push(cut(line));
            }
        }
        if fresh.is_empty() {
            return Ok(wanted);
        }
        inner.lazily(|db| {
            let mut statement = db
                .prepare_cached("INSERT INTO lines(machine, key, number, seconds, level, text) VALUES(?1, ?2, ?3, ?4, ?5, ?6)")
                .map_err(failed)?;
            for line in &fresh {
                let values = params![signed(machine), key, signed(line.number), line.seconds, line.level, line.text];
                statement.execute(values).map_err(failed)?;
            }
            let mut statement = db
                .prepare_cached(
                    "DELETE FROM lines WHERE machine = ?1 AND id <=
                     (SELECT id FROM lines WHERE machine = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                )
                .map_err(failed)?;
            statement.execute([signed(machine), KEPT]).map_err(failed)?;
            Ok(())
        })?;
        self.tell(|| Ok(Event::Log { machine, lines: fresh }));
        Ok(wanted)
    }

    /// The last lines of a machine, oldest first.
    pub(crate) fn lines(&self, machine: u64, most: usize) -> Result<Vec<LogLine>> {
        let inner = self.lock();
        if !inner.has_machine(machine)? {
            return Err(no_machine(machine));
        }
        let most = i64::try_from(most).unwrap_or(KEPT).min(KEPT);
        let mut statement = inner
            .db
            .prepare_cached(
                "SELECT number, seconds, level, text FROM lines WHERE machine = ?1 ORDER BY id DESC LIMIT ?2",
            )
            .map_err(failed)?;
        let rows = statement
            .query_map([signed(machine), most], |row| {
                let number = unsigned(row.get(0)?);
                Ok(LogLine { number, seconds: row.get(1)?, level: row.get(2)?, text: row.get(3)? })
            })
            .map_err(failed)?;
        let mut lines: Vec<LogLine> = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
        lines.reverse();
        Ok(lines)
    }
}
