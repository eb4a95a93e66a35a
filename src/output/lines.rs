// SPDX-License-Identifier: Apache-2.0
//! Progress where nobody looks at a terminal: lines, now and then.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::meter::Meter;

/// Says when it is time for another line about a disk.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    last: HashMap<usize, Instant>,
}

impl Pace {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, last: HashMap::new() }
    }

    /// A phase has just begun: the first line comes after a whole interval.
    pub(super) fn start(&mut self, disk: usize, now: Instant) {
        self.last.insert(disk, now);
    }

    pub(super) fn due(&mut self, disk: usize, now: Instant) -> bool {
        let last = self.last.entry(disk).or_insert(now);
        let due = now.duration_since(*last) >= self.every;
        if due {
            *last = now;
        }
        due
    }
}

/// A line of text.
pub(super) fn text(meter: &Meter, now: Instant) -> String {
    format!("{} {}: {} %, {}", meter.phase.label(), meter.name, meter.percent(), meter.text(now))
}

/// The same for programs.
pub(super) fn json(event: &str, disk: usize, meter: &Meter, now: Instant) -> Value {
    json!({
        "event": event,
        "disk": disk,
        "name": meter.name,
        "phase": meter.phase.label(),
        "total_bytes": meter.total_bytes,
        "done_bytes": meter.done_bytes,
        "written_bytes": meter.written_bytes,
        "bytes_per_second": meter.rate(now) as u64,
        "seconds_left": meter.left(now).map(|left| left.as_secs()),
    })
}
