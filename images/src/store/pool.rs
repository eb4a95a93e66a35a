// SPDX-License-Identifier: Apache-2.0
//! A bounded number of things that are reused, and many small requests side by side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::Result;

/// At most so many requests are in flight.
pub(super) const IN_FLIGHT: usize = 16;

/// Buffers, at most a fixed number of them; who wants one more waits.
pub(super) struct Buffers {
    state: Mutex<(usize, Vec<Vec<u8>>)>,
    returned: Condvar,
}

impl Buffers {
    pub(super) fn new(most: usize) -> Self {
        Self { state: Mutex::new((most, Vec::new())), returned: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, (usize, Vec<Vec<u8>>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer.
    pub(super) fn take(&self, capacity: usize) -> Vec<u8> {
        let mut state = self.state();
        loop {
            if let Some(mut buffer) = state.1.pop() {
                buffer.shrink_to(capacity);
                buffer.reserve_exact(capacity);
                return buffer;
            }
            if state.0 > 0 {
                state.0 -= 1;
                return Vec::with_capacity(capacity);
            }
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.state().1.push(buffer);
        self.returned.notify_one();
    }
}

/// `each` for every item, several at a time; the answers in the items' order. The first failure ends it.
pub(super) fn parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    each: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::with_capacity(items.len()));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    if failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                        return;
                    }
                    match each(item) {
                        Ok(answer) => {
                            answers.lock().unwrap_or_else(PoisonError::into_inner).push((index, answer));
                        }
                        Err(error) => {
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    answers.sort_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
