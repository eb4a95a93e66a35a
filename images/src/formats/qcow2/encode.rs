// SPDX-License-Identifier: Apache-2.0
//! Clusters to bytes, in the calling thread.

use libdeflater::{CompressionLvl, Compressor};
use zstd::zstd_safe::{CCtx, CParameter};

use crate::formats::Compression;
use crate::{Error, Result};

enum Codec {
    None,
    /// Raw deflate with matches up to 32 KiB back. QEMU's own streams reach back 4 KiB and it inflates with that window, but in
    /// one call, where the output itself is the window (checked against qemu-img in the tests).
    Zlib(Box<Compressor>),
    Zstd {
        context: CCtx<'static>,
        level: Option<i32>,
    },
}

/// Compression state of one thread, reused from call to call.
pub(super) struct Encoder {
    codec: Codec,
    /// Compressed clusters back to back; those that do not shrink are left out.
    packed: Vec<u8>,
    /// Bytes of each cluster in `packed`; 0 for one that is to be stored as it is.
    lens: Vec<usize>,
}

impl Encoder {
    pub(super) fn new(compression: Compression) -> Result<Self> {
        let codec = match compression {
            Compression::None => Codec::None,
            Compression::Zlib(level) => {
                let level = CompressionLvl::new(level.clamp(1, 12)).unwrap_or_default();
                Codec::Zlib(Box::new(Compressor::new(level)))
            }
            Compression::Zstd(_) | Compression::Auto => {
                let mut context = CCtx::create();
                // The cluster size says what a frame's content size would: 1 to 4 bytes a cluster.
                set(&mut context, CParameter::ContentSizeFlag(false))?;
                Codec::Zstd { context, level: None }
            }
        };
        Ok(Self { codec, packed: Vec::new(), lens: Vec::new() })
    }

    /// Encodes whole clusters. `level` is zstd's.
    pub(super) fn encode(&mut self, data: &[u8], cluster: usize, level: i32) -> Result<()> {
        self.lens.clear();
        if let Codec::Zstd { context, level: have } = &mut self.codec
            && *have != Some(level)
        {
            set(context, CParameter::CompressionLevel(level))?;
            *have = Some(level);
        }
        // A cluster that saves less than this is not worth the reader's time.
        let most = cluster - cluster / 32;
        self.packed.resize(data.len().max(self.packed.len()), 0);
        let mut at = 0;
        for cluster in data.chunks_exact(cluster) {
            // Each takes at most `most`, so there is room; zstd and deflate fail where it does not suffice.
            let room = self.packed.get_mut(at..at + most).unwrap_or_default();
            let len = match &mut self.codec {
                Codec::None => 0,
                // The one error that can come of valid arguments is "destination too small".
                Codec::Zlib(deflate) => deflate.deflate_compress(cluster, room).unwrap_or(0),
                Codec::Zstd { context, .. } => context.compress2(room, cluster).unwrap_or(0),
            };
            self.lens.push(len);
            at += len;
        }
        Ok(())
    }

    /// The clusters of the last call, in order: compressed bytes, or `None` for one that is to be stored as it is.
    pub(super) fn clusters(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut at = 0;
        self.lens.iter().map(move |&len| {
            let start = at;
            at += len;
            if len == 0 { None } else { self.packed.get(start..at) }
        })
    }
}

fn set(context: &mut CCtx<'static>, parameter: CParameter) -> Result<()> {
    context
        .set_parameter(parameter)
        .map(|_| ())
        .map_err(|code| Error::unsupported("preparing zstd", zstd::zstd_safe::get_error_name(code)))
}
