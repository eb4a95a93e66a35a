// SPDX-License-Identifier: Apache-2.0
//! Small reads served from larger ones.
//!
//! Tables and allocation structures are read a few KiB at a time, and lie together: an ext4 flex group keeps sixteen block
//! bitmaps side by side. Past the page cache each would be a trip of its own to the disk.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use unmoor_images::{BlockSource, Extent, RangeSet, Result};

/// Bytes of a window, and the most that a read may have to go through one.
const WINDOW: u64 = 64 * 1024;

/// How many windows are kept unless asked otherwise: 4 MiB in all.
const KEPT: usize = 64;

/// A source with a small cache in front, for small reads alone.
pub struct ReadAhead<S> {
    inner: S,
    kept: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// (first byte, content), the latest used last.
    windows: VecDeque<(u64, Arc<Vec<u8>>)>,
    /// Windows with an unreadable sector: asking for all of one again would wait for the drive again.
    broken: HashSet<u64>,
}

impl<S: BlockSource> ReadAhead<S> {
    /// Puts a cache before `inner`.
    pub fn new(inner: S) -> Self {
        Self::with_bytes(inner, KEPT as u64 * WINDOW)
    }

    /// One that keeps at most `bytes` of what was read.
    pub fn with_bytes(inner: S, bytes: u64) -> Self {
        Self { inner, kept: (bytes / WINDOW) as usize, state: Mutex::default() }
    }

    /// What it reads from.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Forgets what was read of `ranges`: they have changed.
    pub fn forget(&self, ranges: &mut RangeSet) {
        let ranges = ranges.ranges();
        let changed = |start: u64| {
            let next = ranges.partition_point(|range| range.end <= start);
            ranges.get(next).is_some_and(|range| range.start < start.saturating_add(WINDOW))
        };
        let mut state = self.state();
        state.windows.retain(|(start, _)| !changed(*start));
        state.broken.retain(|start| !changed(*start));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panicking reader leaves is still a cache of what was read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The window that begins at `start`; none if it cannot be read as a whole.
    fn window(&self, start: u64) -> Option<Arc<Vec<u8>>> {
        {
            let mut state = self.state();
            if state.broken.contains(&start) {
                return None;
            }
            if let Some(index) = state.windows.iter().position(|(at, _)| *at == start) {
                let window = state.windows.remove(index)?;
                state.windows.push_back(window.clone());
                return Some(window.1);
            }
        }
        let len = WINDOW.min(self.inner.size().saturating_sub(start));
        let mut data = vec![0; len as usize];
        let read = self.inner.read_at(&mut data, start);
        let mut state = self.state();
        if read.is_err() {
            state.broken.insert(start);
            return None;
        }
        let data = Arc::new(data);
        state.windows.push_back((start, data.clone()));
        if state.windows.len() > self.kept {
            state.windows.pop_front();
        }
        Some(data)
    }
}

impl<S: BlockSource> BlockSource for ReadAhead<S> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let start = offset - offset % WINDOW;
        let within = (offset - start) as usize;
        let small = (buf.len() as u64) < WINDOW && within + buf.len() <= WINDOW as usize;
        if small
            && let Some(window) = self.window(start)
            && let Some(bytes) = window.get(within..within + buf.len())
        {
            buf.copy_from_slice(bytes);
            return Ok(());
        }
        self.inner.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.inner.extent_at(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use unmoor_images::Error;

    use super::*;

    /// Byte `n` is `n % 251`; reads that touch `bad` fail; reads are counted.
    struct Pattern {
        bad: Option<u64>,
        reads: AtomicUsize,
    }

    impl BlockSource for Pattern {
        fn size(&self) -> u64 {
            300_000
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.bad.is_some_and(|bad| (offset..offset + buf.len() as u64).contains(&bad)) {
                return Err(Error::io("reading", std::io::Error::from_raw_os_error(5)).at(offset));
            }
            unmoor_images::source::check_range(self.size(), offset, buf.len())?;
            buf.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = (at % 251) as u8);
            Ok(())
        }
    }

    fn check(source: &dyn BlockSource, offset: u64, len: usize) {
        let mut buf = vec![0; len];
        source.read_at(&mut buf, offset).unwrap();
        assert!(buf.iter().zip(offset..).all(|(byte, at)| *byte == (at % 251) as u8), "{len} at {offset}");
    }

    #[test]
    fn small_reads_share_one_read_and_all_reads_are_right() {
        let source = ReadAhead::new(Pattern { bad: None, reads: AtomicUsize::new(0) });
        for block in 0..16 {
            check(&source, block * 4096, 4096);
        }
        assert_eq!(source.inner.reads.load(Ordering::Relaxed), 1);
        for (offset, len) in [(65_530, 20), (299_990, 10), (0, 200_000), (262_144, 37_856), (5, 0)] {
            check(&source, offset, len);
        }
        assert!(source.read_at(&mut [0; 20], 299_990).is_err());
    }

    #[test]
    fn what_has_changed_is_read_again_and_nothing_else() {
        let source = ReadAhead::new(Pattern { bad: None, reads: AtomicUsize::new(0) });
        for window in 0..4 {
            check(&source, window * WINDOW, 512);
        }
        let mut changed = RangeSet::of(WINDOW - 1..WINDOW);
        changed.insert(2 * WINDOW..2 * WINDOW + 1);
        source.forget(&mut changed);
        for window in 0..4 {
            check(&source, window * WINDOW, 512);
        }
        assert_eq!(source.inner.reads.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn a_bad_sector_spoils_no_neighbour_and_is_asked_for_once_as_a_window() {
        let source = ReadAhead::new(Pattern { bad: Some(70_000), reads: AtomicUsize::new(0) });
        check(&source, 65_536, 512);
        check(&source, 80_000, 512);
        assert!(source.read_at(&mut [0; 512], 69_632).is_err());
        assert_eq!(source.inner.reads.load(Ordering::Relaxed), 4);
    }
}
