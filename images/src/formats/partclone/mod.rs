// SPDX-License-Identifier: Apache-2.0
//! partclone's images of one filesystem, read only (its `IMAGE_FORMATS.md`; the versions 0001 and 0002).
//!
//! ```text
//!   header | bitmap: which blocks are here | the used blocks in order, a checksum behind each strip of them
//! ```
//!
//! Nearly all of them are compressed, and many are split into files, so that an image is a stream: reading goes forward, and
//! what was passed lately is kept; going back further begins the stream anew. A copy in order passes it once.

mod blocks;
mod header;
mod parts;
mod source;
mod sum;
#[cfg(test)]
pub(crate) mod tests;
mod unpack;

pub use header::Header;
pub use parts::Parts;
pub use source::PartcloneSource;

use std::io::Read;
use std::path::Path;

use crate::Result;

/// How every image begins.
pub const MAGIC: &[u8] = b"partclone-image";

/// True if the file at `path` is such an image, compressed or not, or the first part of one. What cannot be unpacked is none.
pub fn is_one(path: &Path) -> bool {
    let begins = || -> Result<bool> {
        let mut head = Vec::new();
        let read = Parts::of(path)?.open()?.take(MAGIC.len() as u64).read_to_end(&mut head);
        Ok(read.is_ok() && head == MAGIC)
    };
    begins().unwrap_or(false)
}
