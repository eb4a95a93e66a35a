// SPDX-License-Identifier: Apache-2.0
//! Progress on a terminal: one bar a disk.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::meter::Meter;

/// Bars on standard error.
pub(super) struct Bars {
    all: MultiProgress,
    bars: Vec<(usize, ProgressBar)>,
    drawn: Instant,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)),
            bars: Vec::new(),
            drawn: Instant::now(),
        }
    }

    pub(super) fn started(&mut self, disk: usize, meter: &Meter) {
        self.remove(disk);
        let bar = self.all.add(ProgressBar::new(meter.total_bytes));
        #[allow(clippy::literal_string_with_formatting_args, reason = "the template language is indicatif's")]
        // The bar takes the room that the text leaves.
        let template = "{prefix} [{wide_bar}] {percent:>3} % {msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(format!("{} {}", meter.phase.label(), meter.short_name()));
        self.bars.push((disk, bar));
    }

    pub(super) fn advanced(&mut self, disk: usize, meter: &Meter, now: Instant) {
        // Composing the text costs more than the report that led here.
        if now.duration_since(self.drawn) < Duration::from_millis(100) {
            return;
        }
        self.drawn = now;
        if let Some((_, bar)) = self.bars.iter().find(|(known, _)| *known == disk) {
            bar.set_message(meter.short_text(now));
            bar.set_position(meter.done_bytes);
        }
    }

    pub(super) fn finished(&mut self, disk: usize, meter: &Meter, now: Instant) {
        self.remove(disk);
        self.line(&format!("{} {}: {}", meter.phase.label(), meter.name, meter.summary(now)));
    }

    /// A line above the bars.
    pub(super) fn line(&self, text: &str) {
        self.all.suspend(|| super::terminal::to_stderr(text));
    }

    /// Takes all bars away, so that what is printed next stands alone.
    pub(super) fn clear(&mut self) {
        for (_, bar) in self.bars.drain(..) {
            bar.finish_and_clear();
        }
    }

    fn remove(&mut self, disk: usize) {
        self.bars.retain(|(known, bar)| {
            if *known == disk {
                bar.finish_and_clear();
            }
            *known != disk
        });
    }
}
