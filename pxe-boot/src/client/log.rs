// SPDX-License-Identifier: Apache-2.0
//! What an agent says, until the server has it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::LogLine;

/// Lines that are kept for a server that is away; then the oldest go.
const KEPT: usize = 5000;
/// Lines that are sent at a time.
const BATCH: usize = 500;
/// Bytes of a line; the rest is cut off.
const LONGEST: usize = 4096;

/// Numbered lines, as many as there is room for.
#[derive(Debug, Default)]
pub struct Log(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    waiting: VecDeque<LogLine>,
}

impl Log {
    /// Adds a line. `level` is `info`, `warning` or `error`; `seconds` are those since the machine started.
    pub fn add(&self, level: &str, seconds: f64, text: &str) {
        let end =
            text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LONGEST).last();
        let text = text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned();
        // JSON has no other numbers: a heartbeat with one would be refused, and all after it.
        let seconds = if seconds.is_finite() { seconds } else { 0.0 };
        let mut lines = self.lines();
        let number = lines.next;
        lines.next = number.saturating_add(1);
        if lines.waiting.len() >= KEPT {
            lines.waiting.pop_front();
        }
        lines.waiting.push_back(LogLine { number, seconds, level: level.to_owned(), text });
    }

    /// The oldest lines that wait.
    pub fn batch(&self) -> Vec<LogLine> {
        self.lines().waiting.iter().take(BATCH).cloned().collect()
    }

    /// The server wants `next` now: what came before it has arrived.
    pub fn arrived(&self, next: u64) {
        let mut lines = self.lines();
        // A server that knows more than was ever said has mistaken this start for another.
        let next = next.min(lines.next);
        while lines.waiting.front().is_some_and(|line| line.number < next) {
            lines.waiting.pop_front();
        }
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.lines().waiting.is_empty()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
