// SPDX-License-Identifier: Apache-2.0
//! Writing a stream-optimized image from several threads.
//!
//! ```text
//!   each thread:  compress grains | order: in the disk's order where the copy has told it | stream
//! ```

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use libdeflater::{CompressionLvl, Compressor};

use super::SECTOR;
use super::header::MOST_SECTORS;
use super::order::Order;
use super::sparse::MARKER;
use super::stream::{GRAIN, Grains, Output, Stream};
use crate::formats::file::{Writer, random};
use crate::formats::{Compression, CreateOptions};
use crate::sink::Finished;
use crate::source::check_range;
use crate::{BlockSink, Error, ErrorKind, ExtentMap, Result, ResultExt, State};

/// Bytes of a grain.
const BYTES: usize = (GRAIN * SECTOR) as usize;

/// A stream-optimized VMDK image under construction. Its footer is written last: an unfinished one is refused by readers.
///
/// Grains have the disk's order where [`BlockSink::begin`] came first, as what reads the image as a stream expects it.
/// Without a footer's place to go back to, it can be a pipe.
pub struct VmdkSink {
    size: u64,
    level: CompressionLvl,
    compressors: Mutex<Vec<Compressor>>,
    order: Order<Grains>,
    stream: Mutex<Stream>,
    written: AtomicU64,
}

impl VmdkSink {
    /// Creates `path`, which must not exist. The grain size is 64 KiB whatever the options say.
    pub fn create(path: &Path, options: &CreateOptions) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(".partial").unwrap_or(&name);
        Self::new(|| Ok(Output::file(Writer::create(path)?)), name, options)
    }

    /// Writes to a pipe. `name` is what the descriptor calls the image.
    pub fn stream(pipe: Box<dyn Write + Send>, name: &str, options: &CreateOptions) -> Result<Self> {
        Self::new(|| Ok(Output::Pipe(pipe)), name, options)
    }

    fn new(output: impl FnOnce() -> Result<Output>, name: &str, options: &CreateOptions) -> Result<Self> {
        let capacity = options.size.div_ceil(SECTOR);
        let usage = |because: String| Error::new(ErrorKind::Usage, "creating a VMDK image").because(because);
        if capacity > MOST_SECTORS {
            return Err(usage(format!("a disk of {} bytes: it has 64 TiB at most", options.size)));
        }
        if options.cluster_size.is_some_and(|size| size as usize != BYTES) {
            return Err(usage("its grains have 64 KiB: leave --cluster-size away".into()));
        }
        let descriptor = descriptor(name, capacity, random()?);
        let stream = Stream::begin(output()?, capacity, &descriptor)?;
        Ok(Self {
            size: options.size,
            level: level(options.compression),
            compressors: Mutex::default(),
            order: Order::new(),
            written: AtomicU64::new(stream.len()),
            stream: Mutex::new(stream),
        })
    }

    /// Marker, data and padding of each grain in `data`, which begins with grain `first`.
    fn compress(&self, data: &[u8], first: u64) -> Result<Grains> {
        let pool = || self.compressors.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = pool().pop();
        let mut compressor = pooled.unwrap_or_else(|| Compressor::new(self.level));
        let mut grains = Grains::default();
        let bound = compressor.zlib_compress_bound(BYTES);
        for (index, grain) in (first..).zip(data.chunks(BYTES)) {
            let start = grains.bytes.len();
            grains.starts.push((index, start));
            grains.bytes.resize(start + MARKER + bound, 0);
            let room = grains.bytes.get_mut(start + MARKER..).unwrap_or_default();
            let packed = if grain.len() == BYTES {
                compressor.zlib_compress(grain, room)
            } else {
                // Readers want whole grains, though the disk ends within the last.
                let mut whole = grain.to_vec();
                whole.resize(BYTES, 0);
                compressor.zlib_compress(&whole, room)
            };
            let len = packed.map_err(|_| Error::malformed("compressing a grain", "it became too long"))?;
            let marker = (index * GRAIN).to_le_bytes().into_iter().chain((len as u32).to_le_bytes());
            let place = grains.bytes.get_mut(start..start + MARKER).unwrap_or_default();
            place.iter_mut().zip(marker).for_each(|(to, from)| *to = from);
            // What the compressor left behind its end is zeros as it was.
            grains.bytes.truncate(start + MARKER + len);
            grains.bytes.resize(grains.bytes.len().next_multiple_of(SECTOR as usize), 0);
        }
        pool().push(compressor);
        Ok(grains)
    }

    fn put(&self, range: std::ops::Range<u64>, grains: Grains) -> Result<()> {
        self.order.put(range, grains, |grains, done| {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            stream.grains(&grains, done)?;
            self.written.store(stream.len(), Ordering::Relaxed);
            Ok(())
        })
    }
}

/// Deflate's level. Its scale is libdeflate's, 0 to 12; zstd's levels are taken by what they mean: fast, usual, best.
fn level(compression: Compression) -> CompressionLvl {
    let level = match compression {
        Compression::None => 0,
        Compression::Zlib(level) => level.clamp(0, 12),
        Compression::Zstd(..0) => 1,
        Compression::Zstd(0..=4) | Compression::Auto => 3,
        Compression::Zstd(_) => 9,
    };
    CompressionLvl::new(level).unwrap_or_default()
}

/// The text in the image (specification, "The Descriptor File"). VMware takes the controller for LSI Logic unless the machine's own
/// definition says otherwise; hardware version 4 is the oldest that all products open.
fn descriptor(name: &str, capacity: u64, cid: [u8; 4]) -> String {
    // All ones would mean "no parent" in a child.
    let cid = u32::from_le_bytes(cid) & 0x7fff_ffff;
    let name: String =
        name.chars().map(|c| if c.is_control() || c == '"' { '_' } else { c }).take(500).collect();
    let cylinders = capacity.div_ceil(255 * 63);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {capacity} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\n\
         ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.adapterType = \"lsilogic\"\n"
    )
}

impl BlockSink for VmdkSink {
    fn granule(&self) -> u64 {
        BYTES as u64
    }

    fn begin(&self, extents: &ExtentMap) {
        let granule = BYTES as u64;
        // Exact, unlike a set of ranges with a bound: a call that is waited for in vain would never end.
        let (mut skipped, mut at) = (Vec::new(), 0);
        for extent in extents.iter().filter(|extent| extent.state != State::Hole) {
            let start = extent.offset / granule * granule;
            if start > at {
                skipped.push(at..start);
            }
            at = extent.end().next_multiple_of(granule);
        }
        skipped.push(at..u64::MAX);
        self.order.begin(skipped);
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, data.len()).doing(|| "writing the image")?;
        if !offset.is_multiple_of(BYTES as u64) {
            return Err(Error::new(ErrorKind::Usage, "writing the image")
                .at(offset)
                .because("not on a grain boundary"));
        }
        let grains = self.compress(data, offset / BYTES as u64)?;
        self.put(offset..offset + data.len() as u64, grains)
    }

    /// Writes nothing: a grain that is not there reads as zeros.
    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.size);
        self.put(offset..end, Grains::default())
    }

    fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn abort(&self) {
        self.order.abort();
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        if !self.order.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "finishing the image").because("parts of it never came"));
        }
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Finished { stored_bytes: stream.finish()? })
    }
}
