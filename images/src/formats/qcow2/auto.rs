// SPDX-License-Identifier: Apache-2.0
//! Choosing a zstd level while writing: the strongest that does not make the processor the slowest part.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Levels from fastest to strongest. In 64 KiB clusters of /usr: 740, 643, 585, 468, 163, 128, 90 MiB per second of processor
/// time at 0.353, 0.297, 0.292, 0.289, 0.281, 0.277, 0.276 of the size; levels left out save next to nothing more.
const LADDER: [i32; 7] = [-3, 1, 2, 3, 5, 6, 9];
const START: usize = 1;
/// Bytes of the disk between two decisions.
const INTERVAL: u64 = 32 << 20;

/// Weighs where the copy's threads spend their time.
///
/// Each thread reads, encodes and writes in turn. While encoding takes nearly all of that time the processor is the
/// slowest part, and a lower level helps; while threads wait for source or sink, the processor has time to spare.
pub(super) struct Controller {
    step: AtomicUsize,
    encoding: AtomicU64,
    waiting: AtomicU64,
    bytes: AtomicU64,
}

impl Controller {
    pub(super) fn new() -> Self {
        Self {
            step: AtomicUsize::new(START),
            encoding: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// The level to use now.
    pub(super) fn level(&self) -> i32 {
        LADDER.get(self.step.load(Ordering::Relaxed)).copied().unwrap_or(1)
    }

    /// A thread waited for the source.
    pub(super) fn read(&self, spent: Duration) {
        self.waiting.fetch_add(nanos(spent), Ordering::Relaxed);
    }

    /// A thread encoded `bytes` of the disk and waited for them to be written.
    pub(super) fn wrote(&self, bytes: u64, encoding: Duration, writing: Duration) {
        self.encoding.fetch_add(nanos(encoding), Ordering::Relaxed);
        self.waiting.fetch_add(nanos(writing), Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before / INTERVAL == before.saturating_add(bytes) / INTERVAL {
            return;
        }
        let encoding = self.encoding.swap(0, Ordering::Relaxed) as f64;
        let waiting = self.waiting.swap(0, Ordering::Relaxed) as f64;
        let busy = encoding / (encoding + waiting).max(1.0);
        let step = self.step.load(Ordering::Relaxed);
        let next = match busy {
            busy if busy > 0.9 => step.saturating_sub(1),
            // A step up costs up to half as much again.
            busy if busy < 0.6 => (step + 1).min(LADDER.len() - 1),
            _ => step,
        };
        self.step.store(next, Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(encoding: u64, writing: u64, reading: u64) -> i32 {
        let controller = Controller::new();
        for _ in 0..1000 {
            controller.read(Duration::from_millis(reading));
            controller.wrote(1 << 20, Duration::from_millis(encoding), Duration::from_millis(writing));
        }
        controller.level()
    }

    #[test]
    fn the_level_follows_the_slowest_part() {
        assert_eq!(run(10, 0, 0), LADDER[0], "the processor is slowest");
        assert_eq!(run(10, 30, 0), LADDER[6], "the sink is slowest");
        assert_eq!(run(10, 0, 30), LADDER[6], "the source is slowest");
        assert_eq!(run(10, 2, 2), LADDER[START], "all are equally busy");
    }
}
