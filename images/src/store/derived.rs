// SPDX-License-Identifier: Apache-2.0
//! An image made of another one: what did not change is in the store already, and is not read.

use super::Writer;
use super::pack::Content;
use crate::merkle::{self, Leaves};
use crate::{BlockSource, Error, ErrorKind, LEAF, Monitor, Result};

impl Writer {
    /// Makes the image rely on every chunk of a disk, and sends those that the store does not have; only they are read from
    /// `source`, and each must have its leaf's hash. Answers how many bytes were read.
    ///
    /// # Errors
    ///
    /// `Mismatch` where `source` is not the disk of `leaves`; as the backend where a chunk cannot be sent.
    pub fn derive(&self, leaves: &Leaves, source: &dyn BlockSource, monitor: &dyn Monitor) -> Result<u64> {
        let mut buffer = vec![0; LEAF as usize];
        let mut read_bytes = 0;
        for (first, count, hash) in leaves.runs() {
            if monitor.cancelled() {
                let because = "stopped on request";
                return Err(Error::new(ErrorKind::Cancelled, "storing the changed disk").because(because));
            }
            // All of a run is one chunk, unless the disk's last leaf is shorter; then it has a hash of its own.
            let start = first * LEAF;
            let len = ((first + count) * LEAF).min(leaves.size()).saturating_sub(start).min(LEAF);
            if hash == merkle::zero_leaf(len) || self.has(&hash) {
                continue;
            }
            let Some(part) = buffer.get_mut(..len as usize) else { continue };
            source.read_at(part, start)?;
            read_bytes += len;
            if merkle::leaf(part) != hash {
                return Err(Error::new(ErrorKind::Mismatch, "reading the changed disk")
                    .at(start)
                    .because("it is not what was hashed: something else has changed it"));
            }
            self.send(Content::Leaf, &[(self.id(&hash), part)])?;
        }
        Ok(read_bytes)
    }
}
