// SPDX-License-Identifier: Apache-2.0
//! Raw disks through a pipe: strictly in order, whatever order the copy's threads arrive in.
//!
//! ```text
//!   thread 1  write_at(2 MiB) ---- waits ----+        position: how far the pipe has come
//!   thread 2  write_at(0) -> pipe, position moves to 2 MiB, wakes thread 1
//! ```
//!
//! A call waits in its caller's thread, with its caller's buffer: nothing is queued, so memory is bounded by the
//! copy's own buffers. The copy claims ranges in ascending order, so the call that is next is always under way.

use std::io::{Read, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::sink::Finished;
use crate::source::check_range;
use crate::{BlockSink, BlockSource, Error, ErrorKind, ExtentMap, RangeSet, Result, ResultExt, State};

/// The granule of a stream in bytes.
const GRANULE: u64 = 4096;

/// A pipe and how far it has come.
struct Pipe<T> {
    inner: T,
    position: u64,
    aborted: bool,
}

/// A pipe of which one thread at a time has its turn.
struct Ordered<T> {
    pipe: Mutex<Pipe<T>>,
    moved: Condvar,
    size: u64,
    /// Ranges for which no call will come, ascending.
    skipped: Vec<std::ops::Range<u64>>,
}

impl<T> Ordered<T> {
    fn new(inner: T, size: u64, skipped: Vec<std::ops::Range<u64>>) -> Self {
        let pipe = Mutex::new(Pipe { inner, position: 0, aborted: false });
        Self { pipe, moved: Condvar::new(), size, skipped }
    }

    fn lock(&self) -> MutexGuard<'_, Pipe<T>> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until only ranges for which no call will come lie between the position and `offset`.
    fn turn(&self, offset: u64, doing: &'static str) -> Result<MutexGuard<'_, Pipe<T>>> {
        let mut pipe = self.lock();
        loop {
            if pipe.aborted {
                return Err(
                    Error::new(ErrorKind::Cancelled, doing).because("another part of the copy failed")
                );
            }
            if offset < pipe.position {
                let position = pipe.position;
                return Err(Error::unsupported(
                    doing,
                    format!("a stream cannot go back: it has passed {position:#x}"),
                )
                .at(offset));
            }
            if self.only_skipped(pipe.position, offset) {
                return Ok(pipe);
            }
            pipe = self.moved.wait(pipe).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn only_skipped(&self, from: u64, to: u64) -> bool {
        let next = self.skipped.partition_point(|range| range.end <= from);
        from >= to || self.skipped.get(next).is_some_and(|range| range.start <= from && range.end >= to)
    }

    /// Ends a turn: a failed one takes everybody with it.
    fn pass<R>(&self, mut pipe: MutexGuard<'_, Pipe<T>>, result: Result<R>) -> Result<R> {
        pipe.aborted |= result.is_err();
        drop(pipe);
        self.moved.notify_all();
        result
    }

    fn abort(&self) {
        self.lock().aborted = true;
        self.moved.notify_all();
    }
}

/// Writes a disk to a pipe, holes as zeros.
pub struct StreamSink<W> {
    ordered: Ordered<W>,
}

impl<W: Write + Send> StreamSink<W> {
    /// `map` is the map of the copy that will write: no call comes for granules that are all hole, and the sink
    /// writes zeros there itself.
    pub fn new(writer: W, map: &ExtentMap) -> Self {
        let mut come = RangeSet::new();
        for extent in map.iter().filter(|extent| extent.state != State::Hole) {
            let end = extent.end().next_multiple_of(GRANULE).min(map.size());
            come.insert(extent.offset / GRANULE * GRANULE..end);
        }
        Self { ordered: Ordered::new(writer, map.size(), come.gaps(map.size())) }
    }

    /// Brings the pipe to `offset` with zeros.
    fn zeros_up_to(pipe: &mut Pipe<W>, offset: u64) -> Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        while pipe.position < offset {
            let len = (offset - pipe.position).min(ZEROS.len() as u64);
            Self::put(pipe, ZEROS.get(..len as usize).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }

    fn put(pipe: &mut Pipe<W>, data: &[u8]) -> Result<()> {
        let position = pipe.position;
        pipe.inner
            .write_all(data)
            .map_err(|error| Error::io("writing the raw stream", error).at(position))?;
        pipe.position = position.saturating_add(data.len() as u64);
        Ok(())
    }
}

impl<W: Write + Send> BlockSink for StreamSink<W> {
    fn granule(&self) -> u64 {
        GRANULE
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.ordered.size, offset, data.len()).doing(|| "writing the raw stream")?;
        let mut pipe = self.ordered.turn(offset, "writing the raw stream")?;
        let result = Self::zeros_up_to(&mut pipe, offset).and_then(|()| Self::put(&mut pipe, data));
        self.ordered.pass(pipe, result)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.ordered.size);
        let mut pipe = self.ordered.turn(offset, "writing the raw stream")?;
        let result = Self::zeros_up_to(&mut pipe, end);
        self.ordered.pass(pipe, result)
    }

    fn written_bytes(&self) -> u64 {
        self.ordered.lock().position
    }

    fn abort(&self) {
        self.ordered.abort();
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let size = self.ordered.size;
        let mut pipe = self.ordered.turn(size, "finishing the raw stream")?;
        Self::zeros_up_to(&mut pipe, size)?;
        pipe.inner.flush().doing(|| "flushing the raw stream")?;
        Ok(Finished { stored_bytes: size })
    }
}

/// Reads a disk from a pipe. Nothing can be read twice, so nothing can be inspected first.
pub struct StreamSource<R> {
    ordered: Ordered<R>,
}

impl<R: Read + Send> StreamSource<R> {
    /// A disk of `size` bytes, every one of which will be read.
    pub fn new(reader: R, size: u64) -> Self {
        Self { ordered: Ordered::new(reader, size, Vec::new()) }
    }

    /// A disk of which only what `map` calls data will be read; the rest of the stream is passed over.
    pub fn with_map(reader: R, map: &ExtentMap) -> Self {
        let mut read = RangeSet::new();
        for extent in map.iter().filter(|extent| extent.state == State::Data) {
            read.insert(extent.offset..extent.end());
        }
        Self { ordered: Ordered::new(reader, map.size(), read.gaps(map.size())) }
    }

    fn fill(pipe: &mut Pipe<R>, buf: &mut [u8]) -> Result<()> {
        let position = pipe.position;
        pipe.inner.read_exact(buf).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                Error::malformed("reading the raw stream", "it ended before the disk did").at(position)
            } else {
                Error::io("reading the raw stream", error).at(position)
            }
        })?;
        pipe.position = position.saturating_add(buf.len() as u64);
        Ok(())
    }

    fn skip_to(pipe: &mut Pipe<R>, offset: u64) -> Result<()> {
        let mut scratch = vec![0; 65536.min(offset.saturating_sub(pipe.position)) as usize];
        while pipe.position < offset {
            let len = (offset - pipe.position).min(scratch.len() as u64) as usize;
            Self::fill(pipe, scratch.get_mut(..len).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl<R: Read + Send> BlockSource for StreamSource<R> {
    fn size(&self) -> u64 {
        self.ordered.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.ordered.size, offset, buf.len())?;
        let mut pipe = self.ordered.turn(offset, "reading the raw stream")?;
        let result = Self::skip_to(&mut pipe, offset).and_then(|()| Self::fill(&mut pipe, buf));
        self.ordered.pass(pipe, result)
    }

    fn abort(&self) {
        self.ordered.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Extent;

    /// Takes at most 1,000 bytes a call, and no more than `room` in all.
    struct Narrow {
        got: Vec<u8>,
        room: usize,
    }

    impl Write for &mut Narrow {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            let take = data.len().min(1000).min(self.room - self.got.len());
            if take == 0 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            self.got.extend_from_slice(&data[..take]);
            Ok(take)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn map() -> ExtentMap {
        let extent = |offset, len, state| Extent { offset, len, state };
        ExtentMap::from_extents([
            extent(0, 10_000, State::Hole),
            extent(10_000, 90_000, State::Data),
            extent(100_000, 100_000, State::Zero),
            extent(200_000, 300_000, State::Hole),
            extent(500_000, 100_000, State::Data),
            extent(600_000, 400_777, State::Hole),
        ])
        .unwrap()
    }

    /// What the copy would call, in pieces of at most two granules.
    fn calls() -> Vec<(u64, u64)> {
        let ends = [(8192u64, 204_800u64), (499_712, 602_112)];
        ends.iter()
            .flat_map(|&(from, to)| (from..to).step_by(8192).map(move |at| (at, (to - at).min(8192))))
            .collect()
    }

    fn run(sink: &dyn BlockSink) -> Vec<Result<()>> {
        let calls = calls();
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let index = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            let Some(&(offset, len)) = calls.get(index) else { return Ok(()) };
                            if (102_400..200_000).contains(&offset) {
                                sink.write_zeros(offset, len)?;
                            } else {
                                sink.write_at(&vec![(offset / 8192) as u8 | 1; len as usize], offset)?;
                            }
                        }
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        })
    }

    #[test]
    fn calls_from_many_threads_come_out_in_order_with_holes_as_zeros() {
        let map = map();
        let mut narrow = Narrow { got: Vec::new(), room: usize::MAX };
        let sink = Box::new(StreamSink::new(&mut narrow, &map));
        assert!(run(&*sink).iter().all(|result| result.is_ok()));
        assert_eq!(sink.finish().unwrap().stored_bytes, map.size());
        let mut want = vec![0; map.size() as usize];
        for (offset, len) in calls().into_iter().filter(|call| !(102_400..200_000).contains(&call.0)) {
            want[offset as usize..(offset + len) as usize].fill((offset / 8192) as u8 | 1);
        }
        assert!(narrow.got == want);
    }

    #[test]
    fn a_broken_pipe_fails_every_thread_and_leaves_none_waiting() {
        let mut narrow = Narrow { got: Vec::new(), room: 60_000 };
        let sink = StreamSink::new(&mut narrow, &map());
        assert!(run(&sink).iter().all(|result| result.is_err()));
    }

    #[test]
    fn an_abort_wakes_who_waits() {
        let mut narrow = Narrow { got: Vec::new(), room: usize::MAX };
        let sink = StreamSink::new(&mut narrow, &ExtentMap::uniform(1 << 20, State::Data));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sink.write_at(&[1; 4096], 4096));
            sink.abort();
            assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        });
    }

    #[test]
    fn readers_wait_for_their_turn_skip_what_nobody_reads_and_cannot_go_back() {
        let data: Vec<u8> = (0..1_000_777u32).map(|at| (at / 4096) as u8).collect();
        let source = StreamSource::with_map(data.as_slice(), &map());
        let calls: Vec<_> =
            calls().into_iter().filter(|call| !(102_400..202_000).contains(&call.0)).collect();
        std::thread::scope(|scope| {
            for part in 0..3 {
                let (calls, source, data) = (&calls, &source, &data);
                scope.spawn(move || {
                    for &(offset, len) in calls.iter().skip(part).step_by(3) {
                        let mut buf = vec![0xEE; len as usize];
                        source.read_at(&mut buf, offset).unwrap();
                        assert!(buf == data[offset as usize..(offset + len) as usize]);
                    }
                });
            }
        });
        assert!(source.read_at(&mut [0; 1], 0).unwrap_err().chain().contains("cannot go back"));
        let short = StreamSource::new(&data[..5000], 10_000);
        assert!(short.read_at(&mut [0; 6000], 0).unwrap_err().chain().contains("ended before"));
    }
}
