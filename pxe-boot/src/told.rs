// SPDX-License-Identifier: Apache-2.0
//! A monitor for tests: what was said, and a wish to stop.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use unmoor_images::Monitor;
use unmoor_images::monitor::Event;

#[derive(Default)]
pub(crate) struct Told {
    pub(crate) stop: AtomicBool,
    pub(crate) said: Mutex<Vec<String>>,
}

impl Monitor for Told {
    fn event(&self, event: Event) {
        if let Event::Note(text) | Event::Warning(text) = event {
            self.said.lock().unwrap().push(text);
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
