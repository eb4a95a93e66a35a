// SPDX-License-Identifier: Apache-2.0
//! A disk that is written once and finished.

use std::time::Duration;

use crate::merkle::Hash;
use crate::{Error, ExtentMap, Result};

/// What a finished sink holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finished {
    /// Bytes that the result occupies (the file's length; for a device the bytes written).
    pub stored_bytes: u64,
}

/// Receives a disk's content from several threads, in any order, each address at most once, and is finished.
///
/// The copy promises: calls never overlap, and every call's range begins and ends on a multiple of
/// [`granule`](Self::granule) (or ends at the disk's end). Ranges for which no call comes are holes.
#[must_use = "a sink that is not finished leaves a partial result"]
pub trait BlockSink: Send + Sync {
    /// Unit of writing in bytes, a power of two: a qcow2's cluster, a device's logical sector.
    fn granule(&self) -> u64;

    /// The copy that follows goes by this map: no call comes for granules that are all hole, and of all other calls the one
    /// with the lowest address is always under way, so that a sink may let the others wait for it. Without this
    /// calls come in any order.
    fn begin(&self, extents: &ExtentMap) {
        let _ = extents;
    }

    /// From now on the same addresses may come again, in copies one after the other; the last one counts. Several calls are as
    /// one.
    ///
    /// # Errors
    ///
    /// `Unsupported` for formats that are written front to back.
    fn rewrite(&self) -> Result<()> {
        Err(Error::unsupported(
            "capturing a disk that is in use",
            "this format is written once, front to back: capture to qcow2, raw or a store, and convert that",
        ))
    }

    /// Writes data. May encode (compress) in the caller's thread.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// The same with the hashes of the leaves that begin in `data`, where it begins on a leaf; else `leaves` is empty. For
    /// sinks that name content by its hash.
    fn write_hashed(&self, data: &[u8], offset: u64, leaves: &[Hash]) -> Result<()> {
        let _ = leaves;
        self.write_at(data, offset)
    }

    /// Makes a range read as zeros, whatever was there before.
    fn write_zeros(&self, offset: u64, len: u64) -> Result<()>;

    /// Bytes that have reached the target so far, after encoding; for progress.
    fn written_bytes(&self) -> u64;

    /// The copy failed or was stopped: no further calls will come. Wakes calls that wait for one; they fail.
    fn abort(&self) {}

    /// One piece took `spent` to read. A sink that chooses its own compression level weighs this against
    /// its own work.
    fn observe_read(&self, spent: Duration) {
        let _ = spent;
    }

    /// Everything has come: completes metadata and flushes to stable storage. Without it the result is partial.
    fn finish(self: Box<Self>) -> Result<Finished>;
}
