// SPDX-License-Identifier: Apache-2.0
//! Pieces that threads bring in any order, handed on in the disk's.
//!
//! ```text
//!   thread 2  piece at 1 MiB --> waiting                      position: everything below has been handed on
//!   thread 1  piece at 0 -----> hands on 0, then 1 MiB, ...   and takes along what others bring meanwhile
//! ```
//!
//! A piece waits in memory, and its thread goes on to the next, unless too many wait. The copy claims ranges in ascending
//! order, so the thread whose piece is next is at work and never waits itself.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Error, ErrorKind, Result};

/// Pieces that wait at most, each of which has about a slab of the copy.
const WAITING: usize = 16;

struct Queue<T> {
    /// By first byte: first byte behind it, and what it is.
    waiting: BTreeMap<u64, (u64, T)>,
    position: u64,
    /// Ranges of the disk for which no piece will come, ascending; `None` while the order is not known.
    skipped: Option<Vec<Range<u64>>>,
    /// A thread is handing pieces on.
    busy: bool,
    aborted: bool,
}

/// Brings pieces into the disk's order, where it is known which will come; otherwise hands them on as they arrive.
pub(super) struct Order<T> {
    queue: Mutex<Queue<T>>,
    moved: Condvar,
}

impl<T> Queue<T> {
    /// The next piece, if it has arrived.
    fn pop(&mut self) -> Option<(u64, T)> {
        let first = self.waiting.first_entry()?;
        let start = *first.key();
        if !Self::is_next(self.skipped.as_deref(), self.position, start) {
            return None;
        }
        let (end, piece) = first.remove();
        self.position = end;
        Some((start, piece))
    }

    /// Do only ranges for which nothing comes lie between the position and `start`?
    fn is_next(skipped: Option<&[Range<u64>]>, position: u64, start: u64) -> bool {
        let Some(skipped) = skipped else { return true };
        let first = skipped.partition_point(|range| range.end <= position);
        start <= position
            || skipped.get(first).is_some_and(|range| range.start <= position && range.end >= start)
    }
}

impl<T> Order<T> {
    pub(super) fn new() -> Self {
        let queue =
            Queue { waiting: BTreeMap::new(), position: 0, skipped: None, busy: false, aborted: false };
        Self { queue: Mutex::new(queue), moved: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on pieces come for everything but `skipped`.
    pub(super) fn begin(&self, skipped: Vec<Range<u64>>) {
        self.lock().skipped = Some(skipped);
    }

    /// Takes the piece for `range`. `hand_on` is called with each piece whose turn it is, this one or others, and the address
    /// below which all has been handed on before (0 while the order is not known); one thread at a time.
    pub(super) fn put(
        &self,
        range: Range<u64>,
        piece: T,
        mut hand_on: impl FnMut(T, u64) -> Result<()>,
    ) -> Result<()> {
        let mut queue = self.lock();
        let ordered = queue.skipped.is_some();
        while ordered
            && !queue.aborted
            && queue.waiting.len() >= WAITING
            && (queue.busy || !Queue::<T>::is_next(queue.skipped.as_deref(), queue.position, range.start))
        {
            queue = self.moved.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.aborted {
            return Err(Error::new(ErrorKind::Cancelled, "writing the image")
                .because("another part of the copy failed"));
        }
        queue.waiting.insert(range.start, (range.end, piece));
        if queue.busy {
            return Ok(());
        }
        queue.busy = true;
        let mut result = Ok(());
        while result.is_ok()
            && let Some((start, piece)) = queue.pop()
        {
            drop(queue);
            self.moved.notify_all();
            result = hand_on(piece, if ordered { start } else { 0 });
            queue = self.lock();
        }
        queue.busy = false;
        queue.aborted |= result.is_err();
        drop(queue);
        self.moved.notify_all();
        result
    }

    /// Wakes who waits; they fail.
    pub(super) fn abort(&self) {
        self.lock().aborted = true;
        self.moved.notify_all();
    }

    /// True once everything that came was handed on.
    pub(super) fn is_empty(&self) -> bool {
        let queue = self.lock();
        queue.waiting.is_empty() && !queue.busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_many_threads_are_handed_on_in_order_with_few_of_them_waiting() {
        let order = Order::new();
        let skipped = vec![0..500, 3000..3700, 9000..9100];
        order.begin(skipped.clone());
        let starts: Vec<u64> = (0..200u64)
            .map(|index| index * 100)
            .filter(|at| !skipped.iter().any(|range| range.contains(at)))
            .collect();
        let next = Mutex::new(starts.iter());
        let (seen, most) = (Mutex::new(Vec::new()), Mutex::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (order, next, seen, most) = (&order, &next, &seen, &most);
                scope.spawn(move || {
                    loop {
                        let Some(&at) = next.lock().unwrap().next() else { return };
                        if (at / 100 + thread) % 3 == 0 {
                            std::thread::yield_now();
                        }
                        order
                            .put(at..at + 100, at, |piece, done| {
                                assert_eq!(done, piece);
                                seen.lock().unwrap().push(piece);
                                Ok(())
                            })
                            .unwrap();
                        let waiting = order.lock().waiting.len();
                        let mut most = most.lock().unwrap();
                        *most = waiting.max(*most);
                    }
                });
            }
        });
        assert!(order.is_empty());
        assert_eq!(seen.into_inner().unwrap(), starts);
        assert!(most.into_inner().unwrap() <= WAITING + 8);
    }

    #[test]
    fn without_a_known_order_pieces_are_handed_on_as_they_come() {
        let order = Order::new();
        let mut seen = Vec::new();
        for at in [700u64, 0, 300] {
            let hand_on = |piece, done| {
                seen.push((piece, done));
                Ok(())
            };
            order.put(at..at + 1, at, hand_on).unwrap();
        }
        assert_eq!(seen, [(700, 0), (0, 0), (300, 0)]);
    }

    #[test]
    fn a_failure_fails_everybody_and_leaves_nobody_waiting() {
        let order = Order::new();
        order.begin(Vec::new());
        let full = || Error::new(ErrorKind::Io, "writing");
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (1..=WAITING as u64 + 4)
                .map(|at| {
                    let order = &order;
                    scope.spawn(move || order.put(at * 10..at * 10 + 10, at, |_, _| Ok(())))
                })
                .collect();
            while order.lock().waiting.len() < WAITING {
                std::thread::yield_now();
            }
            assert_eq!(order.put(0..10, 0, |_, _| Err(full())).unwrap_err().kind(), ErrorKind::Io);
            let failed = waiting.into_iter().map(|thread| thread.join().unwrap());
            assert_eq!(failed.filter(|result| result.is_err()).count(), 4);
        });
    }
}
