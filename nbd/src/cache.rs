// SPDX-License-Identifier: Apache-2.0
//! Pieces of an image that were read, kept for the next reads: small reads of a guest cost one piece, and read-ahead along the
//! order of an earlier boot has a place to put what it fetches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Extent, LEAF, Result, State};

use crate::order::{Order, Recording};

/// Bytes of a piece: what a store keeps as one chunk.
pub const PIECE: u64 = LEAF;
/// Entries behind the one that clients have reached which some of them may still be about to read.
const NEAR: usize = 4;

/// Where a piece is.
enum Place {
    /// Somebody reads it.
    Coming,
    Here {
        bytes: Arc<[u8]>,
        used: u64,
        /// In the order that is read ahead, of a piece that was.
        place: Option<usize>,
    },
}

#[derive(Default)]
struct Pieces {
    places: HashMap<u64, Place>,
    /// Counts uses, for the least recent.
    clock: u64,
}

/// A source, with pieces of it in memory. Clones share them.
pub struct Cache<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    source: S,
    /// Most pieces that are kept.
    capacity: usize,
    pieces: Mutex<Pieces>,
    arrived: Condvar,
    recording: Mutex<Option<Recording>>,
    progress: Mutex<Progress>,
    advanced: Condvar,
    stopped: AtomicBool,
}

/// How far clients are along the order that is read ahead.
#[derive(Default)]
struct Progress {
    /// Place in the order of each of its pieces.
    places: HashMap<u64, usize>,
    /// Entries that clients have reached.
    reached: usize,
}

impl<S> Clone for Cache<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: BlockSource> Cache<S> {
    /// Keeps at most `bytes` of `source`, and at least 4 MiB.
    pub fn new(source: S, bytes: u64) -> Self {
        let capacity = (bytes / PIECE).max(16) as usize;
        Self {
            shared: Arc::new(Shared {
                source,
                capacity,
                pieces: Mutex::default(),
                arrived: Condvar::new(),
                recording: Mutex::new(None),
                progress: Mutex::default(),
                advanced: Condvar::new(),
                stopped: AtomicBool::new(false),
            }),
        }
    }

    /// The source beside the cache: what is here is used, and nothing is kept or recorded. For who reads everything once.
    pub fn beside(&self) -> Beside<S> {
        Beside(self.clone())
    }

    /// From now on the order in which pieces are first read is recorded.
    pub fn record(&self, recording: Recording) {
        *lock(&self.shared.recording) = Some(recording);
    }

    /// Ends the recording and hands it out.
    pub fn recorded(&self) -> Option<Recording> {
        lock(&self.shared.recording).take()
    }

    /// The piece, read if it is not here. Somebody who reads it already is waited for.
    ///
    /// `place` is that in the order of whoever reads ahead.
    fn piece(&self, number: u64, place: Option<usize>) -> Result<Arc<[u8]>> {
        let shared = &*self.shared;
        let mut pieces = lock(&shared.pieces);
        loop {
            pieces.clock += 1;
            let clock = pieces.clock;
            match pieces.places.get_mut(&number) {
                Some(Place::Here { bytes, used, .. }) => {
                    *used = clock;
                    return Ok(Arc::clone(bytes));
                }
                Some(Place::Coming) => {
                    pieces = shared.arrived.wait(pieces).unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        pieces.places.insert(number, Place::Coming);
        drop(pieces);
        let read = self.fetch(number);
        let reached = lock(&shared.progress).reached;
        let mut pieces = lock(&shared.pieces);
        match &read {
            Ok(bytes) => {
                let used = pieces.clock;
                pieces.places.insert(number, Place::Here { bytes: Arc::clone(bytes), used, place });
                while pieces.places.len() > shared.capacity {
                    let oldest = pieces.places.iter().filter_map(|(number, place)| match place {
                        // What was read ahead goes last: what clients have read since is younger, and not wanted again.
                        Place::Here { used, place, .. } => {
                            let wanted = place.is_some_and(|place| place + NEAR >= reached);
                            Some((wanted, *used, *number))
                        }
                        Place::Coming => None,
                    });
                    let Some((_, _, oldest)) = oldest.min() else { break };
                    pieces.places.remove(&oldest);
                }
            }
            Err(_) => {
                pieces.places.remove(&number);
            }
        }
        drop(pieces);
        shared.arrived.notify_all();
        read
    }

    fn fetch(&self, number: u64) -> Result<Arc<[u8]>> {
        let source = &self.shared.source;
        let offset = number.saturating_mul(PIECE);
        let mut bytes = vec![0; PIECE.min(source.size().saturating_sub(offset)) as usize];
        source.read_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    /// A client reads this piece: noted for the recording, and a sign to whoever reads ahead.
    fn touch(&self, number: u64) {
        let mut recording = lock(&self.shared.recording);
        if let Some(recording) = &mut *recording {
            recording.touch(number);
        }
        drop(recording);
        let mut progress = lock(&self.shared.progress);
        if let Some(place) = progress.places.get(&number)
            && progress.reached <= *place
        {
            progress.reached = *place + 1;
            drop(progress);
            self.shared.advanced.notify_all();
        }
    }

    /// Reads the pieces of `order` ahead of the clients, at most half the cache ahead, until it is done or [`stop`](Self::stop)
    /// was called. Several threads may share the work: each takes every `of`-th entry from number `first`.
    ///
    /// Pieces that cannot be read are left out: whoever needs one hears the error.
    pub fn read_ahead(&self, order: &Order, first: usize, of: usize) {
        let shared = &*self.shared;
        {
            let mut progress = lock(&shared.progress);
            if progress.places.is_empty() {
                progress.places =
                    order.pieces.iter().enumerate().map(|(place, number)| (*number, place)).collect();
            }
        }
        let most = (shared.capacity / 2).max(1);
        for (place, number) in order.pieces.iter().enumerate().skip(first).step_by(of.max(1)) {
            let mut progress = lock(&shared.progress);
            while place >= progress.reached + most && !shared.stopped.load(Ordering::Relaxed) {
                let waited = shared.advanced.wait_timeout(progress, Duration::from_millis(200));
                progress = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            // What clients have passed they have read, or will never.
            let passed = place < progress.reached;
            drop(progress);
            if shared.stopped.load(Ordering::Relaxed) {
                return;
            }
            let zero = || {
                let extent = shared.source.extent_at(number.saturating_mul(PIECE), PIECE);
                extent.is_ok_and(|extent| extent.state == State::Zero && extent.len == PIECE)
            };
            if !passed && number.saturating_mul(PIECE) < shared.source.size() && !zero() {
                let _ = self.piece(*number, Some(place));
            }
        }
    }

    /// Ends reading ahead.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.shared.advanced.notify_all();
    }
}

impl<S: BlockSource> BlockSource for Cache<S> {
    fn size(&self) -> u64 {
        self.shared.source.size()
    }

    fn sector_size(&self) -> u32 {
        self.shared.source.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let number = at / PIECE;
            let from = (at % PIECE) as usize;
            let len = rest.len().min(PIECE as usize - from);
            let (room, after) = rest.split_at_mut(len);
            self.touch(number);
            let bytes = self.piece(number, None)?;
            match bytes.get(from..from + len) {
                Some(part) => room.copy_from_slice(part),
                None => self.shared.source.read_at(room, at)?,
            }
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.shared.source.extent_at(offset, len)
    }

    fn abort(&self) {
        self.shared.source.abort();
    }
}

/// See [`Cache::beside`].
pub struct Beside<S>(Cache<S>);

impl<S: BlockSource> BlockSource for Beside<S> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (number, from) = (offset / PIECE, (offset % PIECE) as usize);
        let here = match lock(&self.0.shared.pieces).places.get(&number) {
            Some(Place::Here { bytes, .. }) => Some(Arc::clone(bytes)),
            _ => None,
        };
        match here.as_ref().and_then(|bytes| bytes.get(from..from.checked_add(buf.len())?)) {
            Some(part) => buf.copy_from_slice(part),
            None => self.0.shared.source.read_at(buf, offset)?,
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.0.shared.source.extent_at(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use unmoor_images::Error;

    /// A disk whose every byte follows from its place, which counts its reads and fails in one piece.
    struct Counting {
        size: u64,
        reads: AtomicUsize,
        bad: Option<u64>,
    }

    fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }

    impl BlockSource for Counting {
        fn size(&self) -> u64 {
            self.size
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            check_range(self.size, offset, buf.len())?;
            self.reads.fetch_add(1, Ordering::SeqCst);
            if self.bad == Some(offset / PIECE) {
                return Err(Error::malformed("reading", "a bad piece"));
            }
            buf.iter_mut().enumerate().for_each(|(index, room)| *room = byte(offset + index as u64));
            Ok(())
        }
    }

    fn cache(bad: Option<u64>) -> Cache<Counting> {
        let source = Counting { size: 40 * PIECE + 777, reads: AtomicUsize::new(0), bad };
        Cache::new(source, 20 * PIECE)
    }

    fn reads(cache: &Cache<Counting>) -> usize {
        cache.shared.source.reads.load(Ordering::SeqCst)
    }

    #[test]
    fn reads_of_any_cut_are_right_and_a_piece_is_read_once() {
        let cache = cache(None);
        for (offset, len) in
            [(0, 1), (PIECE - 3, 7), (5, 2 * PIECE as usize), (40 * PIECE, 777), (39 * PIECE, 1000)]
        {
            let mut buf = vec![0; len];
            cache.read_at(&mut buf, offset).unwrap();
            assert!(buf.iter().enumerate().all(|(index, found)| *found == byte(offset + index as u64)));
        }
        assert_eq!(reads(&cache), 5, "pieces 0, 1, 2, 39 and 40");
        assert!(cache.read_at(&mut [0; 2], 40 * PIECE + 776).is_err());
    }

    #[test]
    fn many_readers_of_one_piece_cause_one_read_and_errors_reach_each() {
        let cache = cache(Some(9));
        std::thread::scope(|scope| {
            for reader in 0..8 {
                let cache = cache.clone();
                scope.spawn(move || {
                    cache.read_at(&mut [0; 16], 3 * PIECE + reader).unwrap();
                    cache.read_at(&mut [0; 16], 9 * PIECE + reader).unwrap_err();
                });
            }
        });
        assert!((2..=9).contains(&reads(&cache)), "{} reads", reads(&cache));
        assert!(!lock(&cache.shared.pieces).places.contains_key(&9), "what failed is not kept");
    }

    #[test]
    fn the_least_recently_used_piece_goes_first() {
        let cache = cache(None);
        for number in 0..30 {
            cache.read_at(&mut [0], number * PIECE).unwrap();
            cache.read_at(&mut [0], 0).unwrap();
        }
        assert_eq!(reads(&cache), 30, "piece 0 was used all the time");
        assert_eq!(lock(&cache.shared.pieces).places.len(), 20);
        cache.read_at(&mut [0], PIECE).unwrap();
        assert_eq!(reads(&cache), 31, "piece 1 was not");
    }

    #[test]
    fn reading_ahead_follows_the_order_and_stays_half_a_cache_ahead() {
        let cache = cache(None);
        let order = Order { size: cache.size(), pieces: (0..40).rev().collect() };
        /// Ends the readers even where an assertion fails.
        struct Stop(Cache<Counting>);
        impl Drop for Stop {
            fn drop(&mut self) {
                self.0.stop();
            }
        }
        std::thread::scope(|scope| {
            let _stop = Stop(cache.clone());
            for first in 0..2 {
                let (cache, order) = (cache.clone(), &order);
                scope.spawn(move || cache.read_ahead(order, first, 2));
            }
            let until = |count: usize| {
                while reads(&cache) < count {
                    std::thread::yield_now();
                }
            };
            until(10);
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(reads(&cache), 10, "half of 20 pieces, and no client has moved");
            for place in 0..30 {
                cache.read_at(&mut [0; 8], (39 - place) * PIECE).unwrap();
                until(10 + place as usize + 1);
            }
            assert_eq!(reads(&cache), 40, "every piece once: the client found each of its own there");
        });
    }
}
