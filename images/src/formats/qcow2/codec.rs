// SPDX-License-Identifier: Apache-2.0
//! Compressed clusters: where they lie, and turning their bytes back into a cluster.

use libdeflater::Decompressor;
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use super::header::Codec;
use crate::{Error, Result};

/// Where a compressed cluster lies: its first byte and the most bytes that it can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compressed {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Compressed {
    /// Bits of an L2 entry that hold the offset; the rest up to bit 61 counts additional sectors.
    fn offset_bits(cluster_bits: u32) -> u32 {
        62 - (cluster_bits - 8)
    }

    /// From an L2 entry (specification, "Compressed Clusters Descriptor").
    pub(super) fn from_entry(entry: u64, cluster_bits: u32) -> Self {
        let bits = Self::offset_bits(cluster_bits);
        let offset = entry & ((1 << bits) - 1);
        let sectors = ((entry & (super::COMPRESSED - 1)) >> bits) + 1;
        Self { offset, len: sectors * 512 - offset % 512 }
    }

    /// The L2 entry for `len` bytes at `offset`.
    pub(super) fn entry(offset: u64, len: u64, cluster_bits: u32) -> u64 {
        let last = offset + len.saturating_sub(1);
        super::COMPRESSED | (last / 512 - offset / 512) << Self::offset_bits(cluster_bits) | offset
    }
}

/// Reusable decompression state of one thread.
pub(super) struct Decoder {
    deflate: Decompressor,
    zstd: DCtx<'static>,
    /// Room for compressed bytes.
    pub(super) input: Vec<u8>,
}

impl Decoder {
    pub(super) fn new() -> Result<Self> {
        let mut zstd = DCtx::create();
        // A cluster has at most 2 MiB, so no honest frame asks for a larger window than the 8 MiB of level 19;
        // the default limit would let a hostile one take 128 MiB.
        zstd.set_parameter(DParameter::WindowLogMax(23))
            .map_err(|_| Error::unsupported("preparing zstd", "its window cannot be limited"))?;
        Ok(Self { deflate: Decompressor::new(), zstd, input: Vec::new() })
    }

    /// Fills `cluster`. What follows the stream in `data` (its length is known in sectors only) is ignored.
    pub(super) fn decode(&mut self, codec: Codec, data: &[u8], cluster: &mut [u8]) -> Result<()> {
        let done = match codec {
            Codec::Zlib => self.inflate(data, cluster),
            Codec::Zstd => self.unzstd(data, cluster),
        };
        if done {
            return Ok(());
        }
        Err(Error::malformed("decompressing a cluster", "its compressed bytes are damaged"))
    }

    fn inflate(&mut self, data: &[u8], cluster: &mut [u8]) -> bool {
        match self.deflate.deflate_decompress(data, cluster) {
            Ok(len) => len == cluster.len(),
            // QEMU takes a stream that goes on after a full cluster.
            Err(libdeflater::DecompressionError::InsufficientSpace) => {
                let mut inflate = flate2::Decompress::new(false);
                let _ = inflate.decompress(data, cluster, flate2::FlushDecompress::Finish);
                inflate.total_out() == cluster.len() as u64
            }
            Err(_) => false,
        }
    }

    fn unzstd(&mut self, data: &[u8], cluster: &mut [u8]) -> bool {
        let frame = zstd_safe::find_frame_compressed_size(data).ok().and_then(|len| data.get(..len));
        if let Some(frame) = frame
            && self.zstd.decompress(&mut *cluster, frame).is_ok_and(|len| len == cluster.len())
        {
            return true;
        }
        // Several frames, or one that goes on after a full cluster: QEMU takes both.
        let mut input = InBuffer::around(data);
        let mut output = OutBuffer::around(cluster);
        let _ = self.zstd.reset(zstd_safe::ResetDirective::SessionOnly);
        while output.pos() < output.capacity() {
            let before = (input.pos, output.pos());
            if self.zstd.decompress_stream(&mut output, &mut input).is_err()
                || (input.pos, output.pos()) == before
            {
                break;
            }
        }
        let full = output.pos() == output.capacity();
        let _ = self.zstd.reset(zstd_safe::ResetDirective::SessionOnly);
        full
    }
}
