// SPDX-License-Identifier: Apache-2.0
//! What the servers say, as lines that a journal takes.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use unmoor_images::Monitor;
use unmoor_images::monitor::Event;

use crate::output::Terminal;

/// The terminal as a server uses it. The terminal itself keeps every warning for a command's result, and a server runs for months.
pub(super) struct Voice<'a> {
    pub(super) terminal: &'a Terminal,
    pub(super) stop: &'a AtomicBool,
}

impl Monitor for Voice<'_> {
    fn event(&self, event: Event) {
        let (kind, text) = match event {
            Event::Warning(text) => ("warning", text),
            Event::Note(text) => ("note", text),
            _ => return,
        };
        if self.terminal.json() {
            let time = jiff::Timestamp::now().to_string();
            // Where nobody reads, nobody is told.
            let _ = self.terminal.print(&json!({ "event": kind, "time": time, "message": text }).to_string());
        } else if kind == "warning" {
            self.terminal.note(format!("warning: {text}"));
        } else {
            self.terminal.note(text);
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.terminal.cancelled()
    }
}
