// SPDX-License-Identifier: Apache-2.0
//! A job's share of the network.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use unmoor_images::Result;

use crate::client::backoff::rest;

/// What may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(250);

/// Most bytes per second of several threads together.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    /// When what was taken so far has been paid for.
    until: Mutex<Instant>,
}

impl Rate {
    /// 0 means as many as there are.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, until: Mutex::new(Instant::now()) }
    }

    /// Takes `bytes`, and waits until they may go.
    pub fn take(&self, bytes: u64, given_up: &dyn Fn() -> bool) -> Result<()> {
        if self.bytes_per_second == 0 {
            return Ok(());
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let now = Instant::now();
        let wait = {
            let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*until).max(now);
            *until = begin.checked_add(cost).unwrap_or(begin);
            begin.saturating_duration_since(now).saturating_sub(BURST)
        };
        rest(wait, given_up)
    }
}
