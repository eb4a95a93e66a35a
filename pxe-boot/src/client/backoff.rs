// SPDX-License-Identifier: Apache-2.0
//! Trying again: a server that starts again and a network that is gone for a minute end no job.

use std::time::{Duration, Instant};

use unmoor_images::{Error, ErrorKind, Result};

use super::Failure;

/// The first pause; each is twice the one before.
const FIRST: Duration = Duration::from_millis(200);
/// The longest: so late at most is it noticed that the server is back.
const LONGEST: Duration = Duration::from_secs(10);
/// Between two looks at whether to go on.
const LOOK: Duration = Duration::from_millis(100);

/// How long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until so much time has passed since the first failure.
    For(Duration),
    /// Until it works or is given up from outside.
    Forever,
}

impl Patience {
    /// For requests of a job: a server's restart, or a switch's.
    pub const JOB: Self = Self::For(Duration::from_secs(300));
}

/// Does `attempt` until it is answered. `failed` is told of each failure that is tried again.
pub(super) fn persist<T>(
    patience: Patience,
    given_up: &dyn Fn() -> bool,
    failed: &dyn Fn(&Error),
    mut attempt: impl FnMut() -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    let mut pause = FIRST;
    let mut since: Option<Instant> = None;
    loop {
        if given_up() {
            return Err(Failure::Own(cancelled()));
        }
        let error = match attempt() {
            Err(Failure::Passing(error)) => error,
            answered => return answered,
        };
        let since = *since.get_or_insert_with(Instant::now);
        if let Patience::For(limit) = patience
            && since.elapsed() >= limit
        {
            return Err(Failure::Passing(error));
        }
        failed(&error);
        rest(pause, given_up).map_err(Failure::Own)?;
        pause = pause.saturating_mul(2).min(LONGEST);
    }
}

/// Sleeps, and looks up now and then.
pub(super) fn rest(pause: Duration, given_up: &dyn Fn() -> bool) -> Result<()> {
    let end = Instant::now() + pause;
    loop {
        if given_up() {
            return Err(cancelled());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}

pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "talking to the server").because("stopped on request")
}
