// SPDX-License-Identifier: Apache-2.0
//! How fast, how long still, how well compressed: for one phase on one disk.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use unmoor_images::monitor::Phase;

use super::size::show_size;

/// The rate is that of the last few seconds: a source has fast and slow parts.
const WINDOW: Duration = Duration::from_secs(10);

/// One phase on one disk, and how far it has come.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    pub(super) name: String,
    pub(super) phase: Phase,
    pub(super) total_bytes: u64,
    pub(super) done_bytes: u64,
    pub(super) written_bytes: u64,
    started: Instant,
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    pub(super) fn new(name: String, phase: Phase, total_bytes: u64, now: Instant) -> Self {
        let samples = VecDeque::from([(now, 0)]);
        Self { name, phase, total_bytes, done_bytes: 0, written_bytes: 0, started: now, samples }
    }

    /// Reports may come out of order from several threads; the furthest counts.
    pub(super) fn advance(&mut self, done_bytes: u64, written_bytes: u64, now: Instant) {
        self.done_bytes = self.done_bytes.max(done_bytes);
        self.written_bytes = self.written_bytes.max(written_bytes);
        let close = Duration::from_millis(250);
        if self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= close) {
            self.samples.push_back((now, self.done_bytes));
        }
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Bytes per second of late.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let (since, before) = self.samples.front().copied().unwrap_or((self.started, 0));
        let spent = now.duration_since(since).as_secs_f64();
        if spent < 0.05 { 0.0 } else { (self.done_bytes - before.min(self.done_bytes)) as f64 / spent }
    }

    /// Time left at that rate.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let rate = self.rate(now);
        let left = self.total_bytes.saturating_sub(self.done_bytes) as f64;
        (rate > 0.0).then(|| Duration::from_secs_f64((left / rate).min(1e8)))
    }

    pub(super) fn percent(&self) -> u64 {
        (u128::from(self.done_bytes) * 100).checked_div(u128::from(self.total_bytes)).unwrap_or(100).min(100)
            as u64
    }

    /// How many times smaller what is written is than what was read.
    pub(super) fn ratio(&self) -> Option<f64> {
        let writes = matches!(self.phase, Phase::Capture) && self.written_bytes > 0;
        writes.then(|| self.done_bytes as f64 / self.written_bytes as f64)
    }

    /// `1.2 GiB of 6.6 GiB, 812.0 MiB/s, 0:07 left, ratio 2.4`
    pub(super) fn text(&self, now: Instant) -> String {
        let mut text = format!(
            "{} of {}, {}/s",
            show_size(self.done_bytes),
            show_size(self.total_bytes),
            show_size(self.rate(now) as u64)
        );
        if let Some(left) = self.left(now) {
            text.push_str(&format!(", {} left", show_time(left)));
        }
        self.with_ratio(text)
    }

    /// The same where columns are few: `1.2 GiB/6.6 GiB  812.0 MiB/s  0:07  2.4x`
    pub(super) fn short_text(&self, now: Instant) -> String {
        let mut parts = vec![
            format!("{}/{}", show_size(self.done_bytes), show_size(self.total_bytes)),
            format!("{}/s", show_size(self.rate(now) as u64)),
        ];
        parts.extend(self.left(now).map(show_time));
        parts.extend(self.ratio().map(|ratio| format!("{ratio:.1}x")));
        parts.join("  ")
    }

    /// The name without its folders.
    pub(super) fn short_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// `6.6 GiB in 0:09, 751.1 MiB/s, ratio 2.4`
    pub(super) fn summary(&self, now: Instant) -> String {
        let spent = now.duration_since(self.started);
        let rate = self.done_bytes as f64 / spent.as_secs_f64().max(0.001);
        let text =
            format!("{} in {}, {}/s", show_size(self.done_bytes), show_time(spent), show_size(rate as u64));
        self.with_ratio(text)
    }

    fn with_ratio(&self, text: String) -> String {
        match self.ratio() {
            Some(ratio) => format!("{text}, ratio {ratio:.1}"),
            None => text,
        }
    }
}

/// `0:07`, `1:02:03`
fn show_time(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_tells_rate_time_left_and_ratio() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::new("sda".into(), Phase::Capture, 100 << 20, start);
        assert_eq!(meter.text(start), "0 B of 100.0 MiB, 0 B/s");
        for second in 1..=20 {
            meter.advance(second << 20, second << 19, at(second));
        }
        // 1 MiB a second so far; then five times as fast.
        assert_eq!(meter.text(at(20)), "20.0 MiB of 100.0 MiB, 1.0 MiB/s, 1:20 left, ratio 2.0");
        assert_eq!(meter.short_text(at(20)), "20.0 MiB/100.0 MiB  1.0 MiB/s  1:20  2.0x");
        for second in 21..=32 {
            meter.advance((20 + (second - 20) * 5) << 20, 10 << 20, at(second));
        }
        assert!(meter.text(at(32)).contains(" 5.0 MiB/s, 0:04 left"), "{}", meter.text(at(32)));
        assert_eq!(meter.percent(), 80);
        assert!(meter.summary(at(40)).starts_with("80.0 MiB in 0:40, 2.0 MiB/s"));
        assert_eq!(show_time(Duration::from_secs(3723)), "1:02:03");
    }
}
