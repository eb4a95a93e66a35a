// SPDX-License-Identifier: Apache-2.0
//! Writing a qcow2 image (version 3) from several threads.
//!
//! ```text
//!   each thread:  encode clusters | lock: places, tables, copy packed bytes to a segment | write full segments, plain clusters
//! ```

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::alloc::{Allocator, Layout};
use super::auto::Controller;
use super::encode::Encoder;
use super::{COPIED, MAGIC};
use crate::formats::file::Writer;
use crate::formats::{Compression, CreateOptions};
use crate::sink::Finished;
use crate::source::check_range;
use crate::{BlockSink, Error, ErrorKind, Result, ResultExt};

/// Bytes of a call that are encoded and placed at a time.
const BATCH: usize = 2 << 20;
/// Bytes of a usual cluster.
const CLUSTER: u32 = 64 << 10;
/// Bytes of the header with the compression type.
const HEADER: u32 = 112;
/// Incompatible feature bit 3: the header names a compression type other than zlib.
const COMPRESSION_TYPE_BIT: u64 = 1 << 3;

/// A qcow2 image under construction.
///
/// Zero ranges become explicit zero clusters, except where they fill the address space of an L2 table (512 MiB at
/// 64 KiB clusters) and the table is left out: both read as zeros. The header is written last: an unfinished file is no qcow2.
pub struct Qcow2Sink {
    writer: Writer,
    options: CreateOptions,
    layout: Layout,
    controller: Controller,
    encoders: Mutex<Vec<Encoder>>,
    allocator: Mutex<Allocator>,
}

impl Qcow2Sink {
    /// Creates `path`, which must not exist.
    pub fn create(path: &Path, options: &CreateOptions) -> Result<Self> {
        let cluster = options.cluster_size.unwrap_or(CLUSTER);
        if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
            return Err(Error::new(ErrorKind::Usage, "creating a qcow2 image")
                .because("the cluster size is not a power of two of 512 bytes to 2 MiB"));
        }
        let layout = Layout::new(options.size, cluster.trailing_zeros())?;
        let writer = Writer::create(path)?;
        let allocator = Mutex::new(Allocator::new(layout, &writer)?);
        let (controller, encoders) = (Controller::new(), Mutex::default());
        Ok(Self { writer, options: *options, layout, controller, encoders, allocator })
    }

    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn level(&self) -> i32 {
        match self.options.compression {
            Compression::Zstd(level) => level,
            Compression::Auto => self.controller.level(),
            Compression::None | Compression::Zlib(_) => 0,
        }
    }

    /// Writes whole clusters, at most [`BATCH`] bytes or one cluster.
    fn write_clusters(&self, encoder: &mut Encoder, data: &[u8], first: u64) -> Result<()> {
        let cluster = self.layout.cluster() as usize;
        let begin = Instant::now();
        encoder.encode(data, cluster, self.level())?;
        let encoded = Instant::now();
        let mut full = Vec::new();
        let mut entries = Vec::with_capacity(data.len() / cluster);
        let plain_at;
        {
            let mut allocator = self.allocator();
            let mut plain = 0;
            for bytes in encoder.clusters() {
                entries.push(match bytes {
                    Some(bytes) => Some(allocator.compressed(bytes, &mut full, &self.writer)?),
                    None => {
                        plain += 1;
                        None
                    }
                });
            }
            plain_at = allocator.plain(plain, &self.writer)?;
            let mut next = plain_at;
            let mapped = entries.iter().map(|entry| {
                entry.unwrap_or_else(|| {
                    let entry = next | COPIED;
                    next += cluster as u64;
                    entry
                })
            });
            allocator.map(first, mapped, &self.writer)?;
        }
        let mut next = plain_at;
        let mut at = 0;
        for run in entries.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let len = run.len() * cluster;
            if run.first().is_some_and(|entry| entry.is_none()) {
                self.writer.write(data.get(at..at + len).unwrap_or_default(), next)?;
                next += len as u64;
            }
            at += len;
        }
        for segment in &full {
            self.writer.write(segment.buffer.get(..segment.len).unwrap_or_default(), segment.offset)?;
        }
        if !full.is_empty() {
            let mut allocator = self.allocator();
            full.into_iter().for_each(|segment| allocator.reuse(segment));
        }
        self.controller.wrote(data.len() as u64, encoded - begin, encoded.elapsed());
        Ok(())
    }

    /// The header cluster (specification, "Header"), with the names of the feature bits that it may set.
    fn header(&self) -> Vec<u8> {
        let zstd = matches!(self.options.compression, Compression::Zstd(_) | Compression::Auto);
        let incompatible = if zstd { COMPRESSION_TYPE_BIT } else { 0 };
        let layout = &self.layout;
        let mut raw = Vec::with_capacity(512);
        let u32 = |raw: &mut Vec<u8>, value: u32| raw.extend_from_slice(&value.to_be_bytes());
        let u64 = |raw: &mut Vec<u8>, value: u64| raw.extend_from_slice(&value.to_be_bytes());
        u32(&mut raw, MAGIC);
        u32(&mut raw, 3);
        u64(&mut raw, 0); // no backing file
        u32(&mut raw, 0);
        u32(&mut raw, layout.cluster_bits);
        u64(&mut raw, self.options.size.next_multiple_of(512));
        u32(&mut raw, 0); // not encrypted
        u32(&mut raw, layout.l1_entries as u32);
        u64(&mut raw, layout.l1_offset);
        u64(&mut raw, layout.refcount_offset);
        u32(&mut raw, layout.refcount_clusters as u32);
        u32(&mut raw, 0); // no snapshots
        u64(&mut raw, 0);
        u64(&mut raw, incompatible);
        u64(&mut raw, 0); // compatible features
        u64(&mut raw, 0); // autoclear features
        u32(&mut raw, 4); // refcounts of 1 << 4 bits
        u32(&mut raw, HEADER);
        u64(&mut raw, u64::from(zstd) << 56);
        let names: [(u8, u8, &str); 4] = [
            (0, 0, "dirty bit"),
            (0, 1, "corrupt bit"),
            (0, 3, "compression type"),
            (1, 0, "lazy refcounts"),
        ];
        u32(&mut raw, 0x6803_f857);
        u32(&mut raw, 48 * names.len() as u32);
        for (kind, bit, name) in names {
            let end = raw.len() + 48;
            raw.extend_from_slice(&[kind, bit]);
            raw.extend_from_slice(name.as_bytes());
            raw.resize(end, 0);
        }
        u64(&mut raw, 0); // end of extensions
        raw
    }
}

impl BlockSink for Qcow2Sink {
    fn granule(&self) -> u64 {
        self.layout.cluster()
    }

    /// What a cluster had before loses its place in the file.
    fn rewrite(&self) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.options.size, offset, data.len()).doing(|| "writing the image")?;
        let cluster = self.layout.cluster() as usize;
        let (first, within) = (offset >> self.layout.cluster_bits, offset % cluster as u64);
        if within != 0 {
            return Err(Error::new(ErrorKind::Usage, "writing the image")
                .at(offset)
                .because("not on a cluster boundary"));
        }
        let pool = || self.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = pool().pop();
        let mut encoder = match pooled {
            Some(encoder) => encoder,
            None => Encoder::new(self.options.compression)?,
        };
        let (whole, tail) = data.split_at(data.len() / cluster * cluster);
        let mut next = first;
        for batch in whole.chunks((BATCH / cluster).max(1) * cluster) {
            self.write_clusters(&mut encoder, batch, next)?;
            next += (batch.len() / cluster) as u64;
        }
        if !tail.is_empty() {
            let mut padded = vec![0; cluster];
            padded.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
            self.write_clusters(&mut encoder, &padded, next)?;
        }
        pool().push(encoder);
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let bits = self.layout.cluster_bits;
        let end = offset.saturating_add(len).min(self.options.size);
        let (first, last) = (offset >> bits, end.div_ceil(self.layout.cluster()));
        self.allocator().zeros(first, last.saturating_sub(first), &self.writer)
    }

    fn written_bytes(&self) -> u64 {
        self.writer.written()
    }

    fn observe_read(&self, spent: Duration) {
        self.controller.read(spent);
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let stored_bytes = self.allocator().finish(&self.writer)?;
        // Whatever the header refers to is on stable storage before the header is.
        self.writer.sync()?;
        self.writer.write(&self.header(), 0)?;
        self.writer.sync()?;
        Ok(Finished { stored_bytes })
    }
}
