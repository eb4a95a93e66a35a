// SPDX-License-Identifier: Apache-2.0
//! The one loop that moves a disk's bytes: parallel, bounded, byte-exact.
//!
//! Worker threads claim slabs in ascending order ([`cursor`](self)), and each does everything for its slab: read, hash, hand to
//! the sink, which compresses in the same thread. So nothing is queued, memory is threads times slab, and every
//! core works on whichever stage its slab is in.

mod compose;
mod cursor;
mod transfer;
mod verify;

#[cfg(test)]
mod tests;

use crate::monitor::Phase;
use crate::{BlockSource, Extent, ExtentMap, Result, State};

pub use compose::{restricted, whole_units};
pub use transfer::{Report, copy};
pub use verify::{Comparison, verify};

/// How to run over a disk.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads; 0 chooses by the machine: two a core, at most 16, so that reading overlaps with compressing.
    pub threads: usize,
    /// Disk number for the monitor.
    pub disk: usize,
    /// Phase for the monitor.
    pub phase: Phase,
    /// Disk name for the monitor.
    pub name: String,
}

impl Options {
    fn worker_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        if self.threads == 0 { (cores * 2).clamp(2, 16) } else { self.threads.min(64) }
    }
}

/// Marks as zero what the container knows to be zero without reading: holes of a sparse file, zero clusters.
///
/// Runs under 64 KiB stay data: finding them costs more than reading them.
pub fn refine(source: &dyn BlockSource, extents: &ExtentMap) -> Result<ExtentMap> {
    const SHORTEST: u64 = 64 * 1024;
    let mut refined = Vec::new();
    for extent in extents.iter() {
        if extent.state != State::Data {
            refined.push(extent);
            continue;
        }
        let mut at = extent.offset;
        while at < extent.end() {
            let mut known = source.extent_at(at, extent.end() - at)?;
            if known.len == 0 {
                known = Extent { offset: at, len: extent.end() - at, state: State::Data };
            }
            known.len = known.len.min(extent.end() - at);
            let zero = known.state != State::Data && known.len >= SHORTEST;
            refined.push(Extent {
                offset: at,
                len: known.len,
                state: if zero { State::Zero } else { State::Data },
            });
            at += known.len;
        }
    }
    ExtentMap::from_extents(refined)
}
