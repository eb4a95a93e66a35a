// SPDX-License-Identifier: Apache-2.0
//! A capture into the server's store. Leaves are gathered into batches; the thread that fills one asks for it, compresses what is
//! wanted, and sends that, so that as many connections are in use as threads copy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use unmoor_images::manifest::{Manifest, encode_map};
use unmoor_images::merkle::{self, Hash, Leaves};
use unmoor_images::sink::Finished;
use unmoor_images::source::check_range;
use unmoor_images::store::{Receiver, Receiving, Summary, WriterOptions};
use unmoor_images::{BlockSink, Error, ErrorKind, ExtentMap, LEAF, Monitor, Result, ResultExt};
use zstd::bulk::Compressor;

use super::Rate;
use super::frame::{MOST_FRAME, encode_frame};
use crate::api::{Begun, Commit, Committed};
use crate::client::Job;
use crate::client::requests::encoded;

/// Leaves of a batch: 4 MiB.
const BATCH: usize = 16;

/// The server's store, for one job.
#[derive(Clone)]
pub struct RemoteStore {
    job: Job,
    rate: Arc<Rate>,
}

impl std::fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteStore").field("server", &self.job.server()).finish_non_exhaustive()
    }
}

impl RemoteStore {
    /// That of `job`; `rate_limit` in bytes per second, 0 for none.
    pub fn new(job: Job, rate_limit: u64) -> Self {
        Self { job, rate: Arc::new(Rate::new(rate_limit)) }
    }
}

impl Receiver for RemoteStore {
    /// The machine's name and the compression are the server's to choose.
    fn begin(
        &self,
        _machine: &str,
        _options: &WriterOptions,
        _monitor: &dyn Monitor,
    ) -> Result<Box<dyn Receiving>> {
        Ok(Box::new(RemoteWriter::begin(self)?))
    }
}

/// A capture that has begun.
pub struct RemoteWriter {
    store: RemoteStore,
    begun: Begun,
    compressors: Mutex<Vec<Compressor<'static>>>,
    sent_bytes: AtomicU64,
}

/// Leaves side by side.
#[derive(Default)]
struct Batch {
    hashes: Vec<Hash>,
    lens: Vec<usize>,
    bytes: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RemoteWriter {
    /// Begins the job's capture.
    pub fn begin(store: &RemoteStore) -> Result<Self> {
        let begun: Begun = store.job.post_json("store/begin", b"", "beginning the capture on the server")?;
        Ok(Self { store: store.clone(), begun, compressors: Mutex::default(), sent_bytes: AtomicU64::new(0) })
    }

    /// Sends what the server lacks of a batch.
    fn send(&self, batch: &Batch) -> Result<()> {
        if batch.hashes.is_empty() {
            return Ok(());
        }
        const ASKING: &str = "asking the server what it has";
        let wanted =
            self.store.job.post_bytes("store/wanted", batch.hashes.as_flattened(), BATCH as u64, ASKING)?;
        if wanted.len() != batch.hashes.len() {
            let because = format!("{} answers to {} questions", wanted.len(), batch.hashes.len());
            return Err(Error::malformed(ASKING, because));
        }
        let mut compressor = match self.begun.level {
            None => None,
            Some(level) => Some(match lock(&self.compressors).pop() {
                Some(compressor) => compressor,
                None => Compressor::new(level).doing(|| "preparing zstd")?,
            }),
        };
        let mut frames = Vec::new();
        let mut rest = batch.bytes.as_slice();
        for ((hash, len), wanted) in batch.hashes.iter().zip(&batch.lens).zip(&wanted) {
            let (leaf, behind) = rest
                .split_at_checked(*len)
                .ok_or_else(|| Error::malformed("sending leaves", "a batch is shorter than its leaves"))?;
            rest = behind;
            if *wanted == 1 {
                encode_frame(hash, leaf, compressor.as_mut(), &mut frames)?;
            }
        }
        lock(&self.compressors).extend(compressor);
        if frames.is_empty() {
            return Ok(());
        }
        debug_assert!(frames.len() as u64 <= BATCH as u64 * MOST_FRAME);
        let job = &self.store.job;
        self.store.rate.take(frames.len() as u64, &|| job.is_cancelled())?;
        job.post_bytes("store/frames", &frames, 1 << 16, "sending leaves to the server")?;
        self.sent_bytes.fetch_add(frames.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Receiving for RemoteWriter {
    fn since(&self) -> Option<String> {
        self.begun.since.clone()
    }

    fn sink(&self, size: u64) -> Box<dyn BlockSink + '_> {
        Box::new(RemoteSink { writer: self, size, filling: Mutex::default() })
    }

    fn commit(
        self: Box<Self>,
        manifest: Manifest,
        disks: &[(&ExtentMap, &Leaves)],
        read_bytes: u64,
    ) -> Result<(String, Summary)> {
        const DOING: &str = "completing the image on the server";
        let maps: Vec<Vec<u8>> = disks.iter().map(|(extents, leaves)| encode_map(extents, leaves)).collect();
        let lens = maps.iter().map(|map| map.len() as u64).collect();
        let mut bytes = encoded(&Commit { manifest, read_bytes, maps: lens }, DOING)?;
        maps.iter().for_each(|map| bytes.extend_from_slice(map));
        let committed: Committed = self.store.job.post_json("store/commit", &bytes, DOING)?;
        Ok((committed.time, committed.summary))
    }
}

/// One disk of a capture.
struct RemoteSink<'a> {
    writer: &'a RemoteWriter,
    size: u64,
    filling: Mutex<Batch>,
}

impl BlockSink for RemoteSink<'_> {
    fn granule(&self) -> u64 {
        LEAF
    }

    fn rewrite(&self) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.write_hashed(data, offset, &[])
    }

    fn write_hashed(&self, data: &[u8], offset: u64, leaves: &[Hash]) -> Result<()> {
        check_range(self.size, offset, data.len()).doing(|| "writing to the server's store")?;
        for (index, leaf) in data.chunks(LEAF as usize).enumerate() {
            let hash = leaves.get(index).copied().unwrap_or_else(|| merkle::leaf(leaf));
            if hash == merkle::zero_leaf(leaf.len() as u64) {
                continue;
            }
            let full = {
                let mut filling = lock(&self.filling);
                filling.hashes.push(hash);
                filling.lens.push(leaf.len());
                filling.bytes.extend_from_slice(leaf);
                (filling.hashes.len() >= BATCH).then(|| std::mem::take(&mut *filling))
            };
            if let Some(full) = full {
                self.writer.send(&full)?;
            }
        }
        Ok(())
    }

    fn write_zeros(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn written_bytes(&self) -> u64 {
        self.writer.sent_bytes.load(Ordering::Relaxed)
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let rest = std::mem::take(&mut *lock(&self.filling));
        self.writer.send(&rest)?;
        if self.writer.store.job.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "sending leaves to the server")
                .because("stopped on request"));
        }
        Ok(Finished { stored_bytes: self.writer.sent_bytes.load(Ordering::Relaxed) })
    }
}
