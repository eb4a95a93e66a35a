// SPDX-License-Identifier: Apache-2.0
//! Figures for Prometheus, as a file that its node exporter reads (textfile collector).

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use unmoor_capture::Report;
use unmoor_images::Monitor;

use crate::output::Terminal;

/// What happened so far.
pub(super) struct Figures {
    machine: String,
    file: Option<PathBuf>,
    images: u64,
    failures: u64,
    /// The instant that the latest image shows.
    latest: Option<SystemTime>,
    freeze_milliseconds: u64,
    longest_freeze_milliseconds: u64,
    capture_seconds: f64,
    new_bytes: u64,
}

impl Figures {
    pub(super) fn new(machine: &str, file: Option<PathBuf>) -> Self {
        Self {
            machine: machine.to_owned(),
            file,
            images: 0,
            failures: 0,
            latest: None,
            freeze_milliseconds: 0,
            longest_freeze_milliseconds: 0,
            capture_seconds: 0.0,
            new_bytes: 0,
        }
    }

    pub(super) fn succeeded(&mut self, report: &Report, took: Duration) {
        self.images += 1;
        self.capture_seconds = took.as_secs_f64();
        if let Some(live) = &report.live {
            let instant: Option<jiff::Timestamp> = live.instant.parse().ok();
            self.latest = instant.map(SystemTime::from);
            self.freeze_milliseconds = live.frozen_milliseconds;
            self.longest_freeze_milliseconds = self.longest_freeze_milliseconds.max(live.frozen_milliseconds);
        }
        if let Some(stored) = &report.stored {
            self.new_bytes = self.new_bytes.saturating_add(stored.added.new_bytes);
        }
    }

    pub(super) fn failed(&mut self) {
        self.failures += 1;
    }

    /// The same for somebody who asks.
    pub(super) fn status(&self, dirty_bytes: u64) -> Value {
        let age = self.latest.and_then(|latest| latest.elapsed().ok()).map(|age| age.as_secs());
        json!({
            "machine": self.machine,
            "images": self.images,
            "failures": self.failures,
            "age_seconds": age,
            "dirty_bytes": dirty_bytes,
            "freeze_milliseconds": self.freeze_milliseconds,
            "longest_freeze_milliseconds": self.longest_freeze_milliseconds,
        })
    }

    /// Replaces the file.
    pub(super) fn write(&self, dirty_bytes: u64, terminal: &Terminal) {
        let Some(path) = &self.file else { return };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let written =
            std::fs::write(&beside, self.text(dirty_bytes)).and_then(|()| std::fs::rename(&beside, path));
        if let Err(error) = written {
            terminal.warn(format!("writing {}: {error}", path.display()));
        }
    }

    fn text(&self, dirty_bytes: u64) -> String {
        let mut text = String::new();
        let mut figure = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = writeln!(text, "# HELP unmoor_follow_{name} {help}\n# TYPE unmoor_follow_{name} {kind}");
            let _ = writeln!(text, "unmoor_follow_{name}{{machine=\"{}\"}} {value}", self.machine);
        };
        let latest =
            self.latest.and_then(|latest| latest.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        figure(
            "image_timestamp_seconds",
            "gauge",
            "The instant that the latest image shows.",
            latest.as_secs_f64(),
        );
        figure("dirty_bytes", "gauge", "Written since, and in no image.", dirty_bytes as f64);
        figure(
            "freeze_milliseconds",
            "gauge",
            "How long writers waited the last time.",
            self.freeze_milliseconds as f64,
        );
        let longest = self.longest_freeze_milliseconds as f64;
        figure("longest_freeze_milliseconds", "gauge", "How long they waited at most.", longest);
        figure("capture_seconds", "gauge", "How long the last image took.", self.capture_seconds);
        figure("images_total", "counter", "Images made.", self.images as f64);
        figure("failures_total", "counter", "Times without an image.", self.failures as f64);
        figure("new_bytes_total", "counter", "Bytes that the store did not have.", self.new_bytes as f64);
        text
    }
}
