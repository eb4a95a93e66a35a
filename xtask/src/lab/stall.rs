// SPDX-License-Identifier: Apache-2.0
//! Whether a running machine has come to a stop that it will not leave.
//!
//! QEMU 7.2's multi-threaded translation loses a wake-up now and then on a busy host: both virtual processors wait for an
//! event for ever, in the middle of a boot that succeeds the next time (seen once in about thirty boots: QEMU used 0.01 s of
//! processor time in 5 s, and the console had stood still for minutes). A guest that waits for something still takes timer
//! interrupts and uses more than that.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Stillness that counts as a stop.
const PATIENCE: Duration = Duration::from_secs(120);
/// Less than this share of [`PATIENCE`] as processor time is stillness: the machine that had stopped took 0.002.
const STILL: f64 = 0.01;

/// Watches one process and the files that it writes.
pub(crate) struct Watch {
    process: u32,
    files: Vec<PathBuf>,
    since: Instant,
    at: State,
}

#[derive(PartialEq, Clone)]
struct State {
    sizes: Vec<u64>,
    seconds: f64,
}

impl Watch {
    /// Begins to watch.
    pub(crate) fn new(process: u32, directory: &Path) -> Self {
        let files = ["console", "proof", "result"].map(|name| directory.join(name)).to_vec();
        let at = State { sizes: sizes(&files), seconds: seconds(process).unwrap_or_default() };
        Self { process, files, since: Instant::now(), at }
    }

    /// Whether nothing has happened for too long.
    pub(crate) fn has_stalled(&mut self) -> bool {
        let Some(seconds) = seconds(self.process) else { return false };
        let now = State { sizes: sizes(&self.files), seconds };
        let worked = now.seconds - self.at.seconds > PATIENCE.as_secs_f64() * STILL;
        if worked || now.sizes != self.at.sizes {
            (self.since, self.at) = (Instant::now(), now);
            return false;
        }
        self.since.elapsed() > PATIENCE
    }
}

fn sizes(files: &[PathBuf]) -> Vec<u64> {
    files.iter().map(|file| file.metadata().map_or(0, |metadata| metadata.len())).collect()
}

/// Processor time of a process so far (proc(5): fields 14 and 15 of stat, in ticks of 10 ms).
fn seconds(process: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let ticks = |field: Option<&str>| field?.parse::<u64>().ok();
    let (user, system) = (ticks(fields.next())?, ticks(fields.next())?);
    Some((user + system) as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn processor_time_of_this_process_grows_and_of_none_is_not_known() {
        let before = seconds(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while seconds(std::process::id()).unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert_eq!(seconds(u32::MAX), None);
    }
}
