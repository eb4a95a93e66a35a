// SPDX-License-Identifier: Apache-2.0
//! When what happened, since a machine was switched on.

use std::fmt;
use std::time::Instant;

/// What happened, in order.
pub(crate) struct Timeline {
    since: Instant,
    stages: Vec<(String, f64)>,
}

impl Timeline {
    /// Begins now.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), stages: Vec::new() }
    }

    /// Something happened now, unless that is known already; it is said at once.
    pub(crate) fn mark(&mut self, what: &str) {
        if self.has(what) {
            return;
        }
        let seconds = self.since.elapsed().as_secs_f64();
        println!("    {seconds:6.1} s  {what}");
        self.stages.push((what.to_owned(), seconds));
    }

    /// Whether it has happened.
    pub(crate) fn has(&self, what: &str) -> bool {
        self.stages.iter().any(|(known, _)| known == what)
    }

    /// Seconds until something happened.
    pub(crate) fn at(&self, what: &str) -> Option<f64> {
        self.stages.iter().find(|(known, _)| known == what).map(|(_, seconds)| *seconds)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = 0.0;
        writeln!(f, "{:>8} {:>8}", "at", "took")?;
        for (what, seconds) in &self.stages {
            writeln!(f, "{seconds:>6.1} s {:>6.1} s  {what}", seconds - before)?;
            before = *seconds;
        }
        Ok(())
    }
}
