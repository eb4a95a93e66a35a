// SPDX-License-Identifier: Apache-2.0
//! A monitor that says nothing while filesystems are frozen: a log or terminal that lies on one would wait for the thaw, which waits for us.

use std::sync::{Mutex, PoisonError};

use unmoor_images::Monitor;
use unmoor_images::monitor::Event;

/// Keeps what is said until it is [released](Self::release).
pub(super) struct Held<'a> {
    inner: &'a dyn Monitor,
    events: Mutex<Vec<Event>>,
}

impl<'a> Held<'a> {
    pub(super) fn new(inner: &'a dyn Monitor) -> Self {
        Self { inner, events: Mutex::default() }
    }

    /// Says it.
    pub(super) fn release(self) {
        let events = self.events.into_inner().unwrap_or_else(PoisonError::into_inner);
        events.into_iter().for_each(|event| self.inner.event(event));
    }
}

impl Monitor for Held<'_> {
    fn event(&self, event: Event) {
        // Progress that is over is no news.
        if !matches!(event, Event::Advanced { .. }) {
            self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }
}
