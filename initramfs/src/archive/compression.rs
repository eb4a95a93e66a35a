// SPDX-License-Identifier: Apache-2.0
//! How segments of an initramfs are compressed: the kernel's lib/decompress.c, by magic number.

use std::io::{BufRead, BufReader, Error as IoError, ErrorKind as Io, Read};

use unmoor_images::{Error, Result};

/// Compression of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compression {
    None,
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    Lz4,
    Zstd,
}

/// The two bytes by which the kernel tells them (lib/decompress.c, `compressed_formats`).
const MAGIC: [([u8; 2], Compression); 8] = [
    ([0x1f, 0x8b], Compression::Gzip),
    ([0x1f, 0x9e], Compression::Gzip),
    ([0x42, 0x5a], Compression::Bzip2),
    ([0x5d, 0x00], Compression::Lzma),
    ([0xfd, 0x37], Compression::Xz),
    ([0x89, 0x4c], Compression::Lzo),
    ([0x02, 0x21], Compression::Lz4),
    ([0x28, 0xb5], Compression::Zstd),
];

/// Memory for an xz or lzma dictionary: `xz -9` needs 65 MiB.
const MOST_DICTIONARY: u64 = 160 << 20;
/// The kernel refuses larger zstd windows (lib/decompress_unzstd.c, `ZSTD_WINDOWSIZE_MAX`).
const MOST_WINDOW_LOG: u32 = 27;

impl Compression {
    /// By the first bytes; `None` for what the kernel calls an invalid magic. An uncompressed archive is none of these.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let start = bytes.first_chunk::<2>()?;
        MAGIC.iter().find(|(magic, _)| magic == start).map(|(_, compression)| *compression)
    }

    /// As the kernel calls it: "none", "gzip", "bzip2", "lzma", "xz", "lzo", "lz4", "zstd".
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Unpacks one stream, frame or member, as the kernel does, and says how much of the input it was.
pub(super) struct Decoder<'a> {
    inner: Inner<'a>,
}

enum Inner<'a> {
    Gzip(BufReader<flate2::bufread::GzDecoder<&'a [u8]>>),
    Xz(BufReader<liblzma::bufread::XzDecoder<&'a [u8]>>),
    Zstd(BufReader<zstd::stream::read::Decoder<'static, &'a [u8]>>),
    Lz4(BufReader<LegacyLz4<'a>>),
}

/// Bytes between a decoder and the reader of entries.
const BUFFER: usize = 64 << 10;

impl<'a> Decoder<'a> {
    /// A decoder of what `bytes` begin with.
    ///
    /// # Errors
    ///
    /// `Unsupported` for bzip2 and lzo, which no distribution of the last ten years makes.
    pub(super) fn new(compression: Compression, bytes: &'a [u8]) -> Result<Self> {
        let doing = || format!("unpacking {}", compression.name());
        let failed = |error: IoError| Error::malformed(doing(), error.to_string());
        let xz = |stream: std::result::Result<liblzma::stream::Stream, liblzma::stream::Error>| {
            let stream = stream.map_err(|error| Error::unsupported(doing(), error.to_string()))?;
            let decoder = liblzma::bufread::XzDecoder::new_stream(bytes, stream);
            Ok(Inner::Xz(BufReader::with_capacity(BUFFER, decoder)))
        };
        let inner = match compression {
            Compression::Gzip => {
                Inner::Gzip(BufReader::with_capacity(BUFFER, flate2::bufread::GzDecoder::new(bytes)))
            }
            Compression::Xz => xz(liblzma::stream::Stream::new_stream_decoder(MOST_DICTIONARY, 0))?,
            Compression::Lzma => xz(liblzma::stream::Stream::new_lzma_decoder(MOST_DICTIONARY))?,
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(bytes).map_err(failed)?.single_frame();
                decoder.window_log_max(MOST_WINDOW_LOG).map_err(failed)?;
                Inner::Zstd(BufReader::with_capacity(BUFFER, decoder))
            }
            Compression::Lz4 => Inner::Lz4(BufReader::with_capacity(BUFFER, LegacyLz4::new(bytes))),
            Compression::Bzip2 | Compression::Lzo | Compression::None => {
                return Err(Error::unsupported(
                    "reading an initramfs",
                    format!(
                        "its compression is {}: make it again with gzip, xz, lz4 or zstd",
                        compression.name()
                    ),
                ));
            }
        };
        Ok(Self { inner })
    }

    /// What it unpacks.
    pub(super) fn reader(&mut self) -> &mut dyn BufRead {
        match &mut self.inner {
            Inner::Gzip(reader) => reader,
            Inner::Xz(reader) => reader,
            Inner::Zstd(reader) => reader,
            Inner::Lz4(reader) => reader,
        }
    }

    /// Bytes of the input behind what was unpacked, once all of it was read.
    pub(super) fn left(&self) -> usize {
        match &self.inner {
            Inner::Gzip(reader) => reader.get_ref().get_ref().len(),
            Inner::Xz(reader) => reader.get_ref().get_ref().len(),
            Inner::Zstd(reader) => reader.get_ref().get_ref().len(),
            Inner::Lz4(reader) => reader.get_ref().input.len(),
        }
    }
}

/// What `lz4 -l` writes and the kernel reads (lib/decompress_unlz4.c): a magic number, then blocks of at most 8 MiB, each behind
/// its compressed length in 32 bits. Nothing says where it ends: a length of zero or the end of the input does.
struct LegacyLz4<'a> {
    input: &'a [u8],
    block: Vec<u8>,
    /// What of `block` is still to be given out.
    from: usize,
    to: usize,
    begun: bool,
    ended: bool,
}

/// The magic number, which may come again between blocks.
const LZ4_MAGIC: u32 = 0x184C_2102;
/// Most bytes of a block (`LZ4_DEFAULT_UNCOMPRESSED_CHUNK_SIZE`).
pub(super) const LZ4_BLOCK: usize = 8 << 20;

impl<'a> LegacyLz4<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self { input, block: Vec::new(), from: 0, to: 0, begun: false, ended: false }
    }

    fn number(&self) -> Option<u32> {
        self.input.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn skip(&mut self, len: usize) {
        self.input = self.input.get(len..).unwrap_or_default();
    }

    /// Unpacks the next block; false at the end.
    fn next(&mut self) -> std::io::Result<bool> {
        let bad = |because: &str| IoError::new(Io::InvalidData, because.to_owned());
        while !self.ended {
            let Some(number) = self.number() else { break };
            if number == LZ4_MAGIC {
                self.begun = true;
                self.skip(4);
                continue;
            }
            if !self.begun {
                return Err(bad("not what lz4 -l writes: the kernel takes no other lz4"));
            }
            if number == 0 {
                break;
            }
            self.skip(4);
            let block = usize::try_from(number)
                .ok()
                .and_then(|len| self.input.get(..len))
                .ok_or_else(|| bad("a block is longer than what is left"))?;
            if self.block.is_empty() {
                self.block = vec![0; LZ4_BLOCK];
            }
            self.to = lz4_flex::block::decompress_into(block, &mut self.block)
                .map_err(|error| bad(&error.to_string()))?;
            self.from = 0;
            self.skip(block.len());
            if self.to > 0 {
                return Ok(true);
            }
        }
        self.ended = true;
        Ok(false)
    }
}

impl Read for LegacyLz4<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.from == self.to && !self.next()? {
            return Ok(0);
        }
        let ready = self.block.get(self.from..self.to).unwrap_or_default();
        let len = ready.len().min(into.len());
        if let (Some(into), Some(ready)) = (into.get_mut(..len), ready.get(..len)) {
            into.copy_from_slice(ready);
        }
        self.from += len;
        Ok(len)
    }
}
