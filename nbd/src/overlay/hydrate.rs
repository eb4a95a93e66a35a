// SPDX-License-Identifier: Apache-2.0
//! Hydration: what an overlay lacks is copied into it, in the background, until it stands alone.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use unmoor_images::monitor::{Event, Phase};
use unmoor_images::{Error, Monitor, Result, State};

use super::{Overlay, REGION, side_file};

/// Bytes between two flushes: what a crash costs.
const FLUSH_EVERY: u64 = 256 << 20;
/// While clients are at work, hydration rests this many times as long as it works.
const REST: u32 = 3;
/// Longest rest, so that it gets on under a client that never stops.
const REST_MOST: Duration = Duration::from_millis(250);

/// How hydration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hydrated {
    /// The overlay stands alone.
    Complete,
    /// It was stopped; the next one goes on from there.
    Stopped,
}

impl Overlay<'_> {
    /// Copies all that is missing, the regions of `first` (bytes) before the others, and marks the overlay complete.
    ///
    /// It reads 1 MiB at a time, and rests while clients are at work. `stop` is asked between two pieces.
    pub fn hydrate(
        &self,
        disk: usize,
        name: &str,
        first: &[u64],
        stop: &dyn Fn() -> bool,
        monitor: &dyn Monitor,
    ) -> Result<Hydrated> {
        if self.image.is_none() {
            return Ok(Hydrated::Complete);
        }
        let total_bytes = self.size - self.present_bytes();
        monitor.event(Event::Started { disk, phase: Phase::Hydrate, total_bytes, name: name.to_owned() });
        let (mut done, mut flushed) = (0, 0);
        let mut buffer = vec![0; REGION as usize];
        let regions = first
            .iter()
            .map(|offset| offset - offset % REGION)
            .chain((0..self.size).step_by(REGION as usize));
        for region in regions.filter(|region| *region < self.size) {
            let end = (region + REGION).min(self.size);
            let mut at = region;
            while at < end {
                let (present, to) = self.bits().run_at(at, end);
                if !present {
                    if stop() {
                        self.sync()?;
                        return Ok(Hydrated::Stopped);
                    }
                    let (began, before) = (Instant::now(), self.activity.load(Ordering::Relaxed));
                    let len = self.fetch(at, to, &mut buffer)?;
                    done += len;
                    monitor.event(Event::Advanced { disk, done_bytes: done, written_bytes: 0 });
                    self.rest(began.elapsed(), before);
                    at += len;
                    continue;
                }
                at = to;
            }
            if done - flushed >= FLUSH_EVERY {
                self.sync()?;
                flushed = done;
            }
        }
        self.sync()?;
        side_file::write_mark(&*self.side)
            .map_err(|error| Error::io("marking the overlay complete", error))?;
        monitor.event(Event::Finished { disk });
        Ok(Hydrated::Complete)
    }

    /// Copies the first extent of `at..to`, none of which was present; returns its length in bytes.
    fn fetch(&self, at: u64, to: u64, buffer: &mut [u8]) -> Result<u64> {
        self.flushes.check()?;
        let extent = self.image()?.extent_at(at, to - at)?;
        // Bits are of whole granules; the next extent's first granule may be this one's last.
        let granule_end = extent.end().next_multiple_of(super::bitmap::GRANULE).min(to);
        let straddles = granule_end != extent.end();
        let zero = extent.state == State::Zero && !straddles;
        let end = if zero { extent.end() } else { granule_end.min(at + buffer.len() as u64) };
        let Some(piece) = buffer.get_mut(..(end - at) as usize) else { return Ok(0) };
        if !zero {
            match &self.bulk {
                Some(bulk) => bulk.read_at(piece, at)?,
                None => self.image()?.read_at(piece, at)?,
            }
        }
        let _locks = self.lock_regions(at, end - at);
        // A client may have written since; what it wrote is newer.
        let mut from = at;
        while from < end {
            let (present, until) = self.bits().run_at(from, end);
            if !present && zero {
                self.forget(from, until)?;
            } else if !present {
                let part = piece.get((from - at) as usize..(until - at) as usize).unwrap_or(&[]);
                self.put(part, from)?;
            }
            from = until;
        }
        self.bits_mut().set(at..end);
        self.flushes.written();
        Ok(end - at)
    }

    /// Makes granules that were never present zeros: a write that was never flushed may have left something in the file.
    fn forget(&self, from: u64, to: u64) -> Result<()> {
        let mut at = from;
        while at < to {
            let (data, until) = self.data.run_at(at, to);
            if data {
                match self.data.zero(at, until - at, false) {
                    Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                        self.put(&vec![0; (until - at) as usize], at)?;
                    }
                    other => other.map_err(|error| Error::io("zeroing the overlay", error).at(at))?,
                }
            }
            at = until;
        }
        Ok(())
    }

    fn rest(&self, worked: Duration, before: u64) {
        if self.activity.load(Ordering::Relaxed) != before {
            std::thread::sleep((worked * REST).min(REST_MOST));
        }
    }
}
