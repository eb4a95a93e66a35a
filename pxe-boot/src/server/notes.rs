// SPDX-License-Identifier: Apache-2.0
//! What the server has to say, on its way to the monitor: one line each, `key=value` where there is something to look for.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use unmoor_images::monitor::Event;

/// Lines that wait; more are dropped, for a slow terminal must not stop the server.
const WAITING: usize = 4096;

/// Takes lines from any thread.
#[derive(Clone)]
pub(crate) struct Notes(SyncSender<Event>);

impl Notes {
    pub(crate) fn new() -> (Self, Receiver<Event>) {
        let (sender, receiver) = sync_channel(WAITING);
        (Self(sender), receiver)
    }

    pub(crate) fn note(&self, text: String) {
        let _ = self.0.try_send(Event::Note(text));
    }

    pub(crate) fn warn(&self, text: String) {
        let _ = self.0.try_send(Event::Warning(text));
    }
}
