// SPDX-License-Identifier: Apache-2.0
//! Unpacking what compressors made, told by their magic.

mod bzip2;

use std::io::{BufRead, Read};

use crate::{Error, Result, ResultExt};

/// Memory that a stream may ask for: `xz -9` takes 65 MiB.
const MOST_MEMORY: u64 = 256 << 20;

/// The content of `input`, unpacked if it is packed.
///
/// # Errors
///
/// `Unsupported` for compressors that are known and not read, with what to do.
pub(in crate::formats::partclone) fn unpack(
    mut input: Box<dyn BufRead + Send>,
) -> Result<Box<dyn Read + Send>> {
    let head = input.fill_buf().doing(|| "reading the beginning of an image")?;
    let begins = |magic: &[u8]| head.starts_with(magic);
    let stream = |stream: std::result::Result<liblzma::stream::Stream, liblzma::stream::Error>| {
        stream.map_err(|error| {
            Error::unsupported("unpacking an image", "its compressor's memory").source(error)
        })
    };
    let not_read = |name: &str| {
        Err(Error::unsupported(
            "unpacking an image",
            format!(
                "it is packed by {name}, which is not read here: pack it anew by gzip, zstd, xz, lz4 or bzip2"
            ),
        ))
    };
    if begins(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(input)));
    }
    if begins(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(input).doing(|| "unpacking an image")?;
        return Ok(Box::new(decoder));
    }
    if begins(b"\xfd7zXZ\0") {
        let decoder =
            stream(liblzma::stream::Stream::new_stream_decoder(MOST_MEMORY, liblzma::stream::CONCATENATED))?;
        return Ok(Box::new(liblzma::bufread::XzDecoder::new_stream(input, decoder)));
    }
    // lzma has no magic: its usual properties, and a dictionary that is a power of two.
    if begins(&[0x5d, 0, 0]) {
        let decoder = stream(liblzma::stream::Stream::new_lzma_decoder(MOST_MEMORY))?;
        return Ok(Box::new(liblzma::bufread::XzDecoder::new_stream(input, decoder)));
    }
    if begins(&[0x04, 0x22, 0x4d, 0x18]) {
        return Ok(Box::new(Frames(lz4_flex::frame::FrameDecoder::new(input))));
    }
    if begins(b"BZh") {
        return Ok(Box::new(bzip2::Decoder::new(input)));
    }
    if begins(b"\x89LZO") {
        return not_read("lzop");
    }
    if begins(b"LZIP") {
        return not_read("lzip");
    }
    if begins(b"LRZI") {
        return not_read("lrzip");
    }
    Ok(Box::new(input))
}

/// lz4's frames one behind the other: its decoder ends each with nothing read, and goes on when it is asked again.
struct Frames(lz4_flex::frame::FrameDecoder<Box<dyn BufRead + Send>>);

impl Read for Frames {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = self.0.read(buf)?;
            if read > 0 || buf.is_empty() || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(read);
            }
        }
    }
}
