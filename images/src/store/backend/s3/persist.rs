// SPDX-License-Identifier: Apache-2.0
//! Requests that are made again until they succeed or it does not help.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::failure::{Failure, Why};

/// How long to try.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the first failure of a request until it is given up.
    pub total: Duration,
    /// The same as long as the server has never answered: its name may be wrong.
    pub first_contact: Duration,
    /// An attempt that takes longer is given up. Each time that this happens the next may take twice as long, so that a slow
    /// line is not taken for a broken one.
    pub attempt: Duration,
}

/// Attempts of one request that may time out, the last of which may take 16 times as long as the first.
const TIMEOUTS: u32 = 5;
/// Before the second attempt; doubled from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Default for Patience {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(300),
            first_contact: Duration::from_secs(15),
            attempt: Duration::from_secs(30),
        }
    }
}

/// Makes attempts until one succeeds; answers how many failed before. Each is signed anew, and counts against `permits` only while it
/// is in flight.
pub(super) async fn persist<T, F>(
    permits: &Semaphore,
    patience: &Patience,
    reached: &AtomicBool,
    mut attempt: impl FnMut() -> F,
) -> Result<(T, u32), Failure>
where
    F: Future<Output = object_store::Result<T>>,
{
    let (mut tries, mut timeouts) = (0, 0);
    let mut limit = patience.attempt;
    let mut pause = FIRST_PAUSE;
    let mut failing: Option<Instant> = None;
    loop {
        let permit = permits.acquire().await;
        let began = Instant::now();
        let result = tokio::time::timeout(limit, attempt()).await;
        drop(permit);
        let why = match result {
            Ok(Ok(answer)) => return Ok((answer, tries)),
            Ok(Err(error)) => Why::Error(error),
            Err(_) => Why::Timeout(limit),
        };
        let since = *failing.get_or_insert(began);
        let failure = Failure { why, tries, elapsed: since.elapsed() };
        if failure.is_answer() {
            reached.store(true, Ordering::Relaxed);
        }
        if failure.is_final() {
            return Err(failure);
        }
        let given_up = if matches!(failure.why, Why::Timeout(_)) {
            timeouts += 1;
            limit = limit.saturating_mul(2);
            timeouts >= TIMEOUTS
        } else {
            let known = reached.load(Ordering::Relaxed);
            let total = if known { patience.total } else { patience.first_contact.min(patience.total) };
            failure.elapsed + pause > total
        };
        if given_up {
            return Err(failure);
        }
        tries += 1;
        tokio::time::sleep(jittered(pause)).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// Half of it to all of it, so that those who failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without a random number all of it, which is a pause as well.
    let _ = crate::store::keys::random(&mut random);
    pause.mul_f64(1.0 - f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::AtomicU32;

    use super::*;

    fn quick() -> Patience {
        Patience {
            total: Duration::from_secs(3600),
            first_contact: Duration::from_secs(5),
            attempt: Duration::from_millis(10),
        }
    }

    fn broken() -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: "the connection was reset".into() }
    }

    fn within<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    #[test]
    fn what_fails_for_a_while_succeeds_in_the_end_and_tells_how_often_it_failed() {
        let count = AtomicU32::new(0);
        let attempt =
            || async { if count.fetch_add(1, Ordering::Relaxed) < 3 { Err(broken()) } else { Ok("done") } };
        let (permits, reached) = (Semaphore::new(1), AtomicBool::new(true));
        let (answer, tries) = within(persist(&permits, &quick(), &reached, attempt)).unwrap();
        assert_eq!((answer, tries), ("done", 3));
        assert_eq!(permits.available_permits(), 1);
    }

    #[test]
    fn what_hangs_gets_twice_the_time_and_five_attempts() {
        let count = AtomicU32::new(0);
        let attempt = || async {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<object_store::Result<()>>().await
        };
        let (permits, reached) = (Semaphore::new(1), AtomicBool::new(true));
        let failure = within(persist(&permits, &quick(), &reached, attempt)).unwrap_err();
        assert!(matches!(failure.why, Why::Timeout(limit) if limit == Duration::from_millis(160)));
        assert_eq!(count.load(Ordering::Relaxed), TIMEOUTS);
    }

    #[test]
    fn an_answer_that_will_not_change_is_not_asked_for_again() {
        let count = AtomicU32::new(0);
        let attempt = || async {
            count.fetch_add(1, Ordering::Relaxed);
            let source = "status code: 403 Forbidden: <Code>AccessDenied</Code>".into();
            Err::<(), _>(object_store::Error::PermissionDenied { path: "x".into(), source })
        };
        let (permits, reached) = (Semaphore::new(1), AtomicBool::new(false));
        assert!(within(persist(&permits, &quick(), &reached, attempt)).is_err());
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert!(reached.load(Ordering::Relaxed));
    }
}
