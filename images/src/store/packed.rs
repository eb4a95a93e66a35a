// SPDX-License-Identifier: Apache-2.0
//! Leaves that travel compressed: taken in from elsewhere once they were checked, and given out as they are stored.
//!
//! ```text
//!   agent --PackedLeaf--> unpacked, hash compared --> seal --> pack        suspended: packs listed, lease ended
//!   pack --> opened, still compressed --PackedLeaf--> agent, which compares hashes (StoreSource::packed)
//! ```

use std::sync::atomic::Ordering;

use super::Writer;
use super::encode::decode;
use super::image::LARGEST;
use super::pack::{Codec, Content, Entry};
use super::seal::{Kind, Seal};
use super::writer::lock;
use crate::manifest::{Manifest, hex};
use crate::merkle::{self, Hash, Leaves};
use crate::{Error, ErrorKind, ExtentMap, LEAF, Result, ResultExt};

/// Least bytes of a pack: smaller ones cost more in names than they save in memory.
const LEAST_PACK: usize = 1 << 20;

/// A leaf, compressed or not, beneath the seal.
#[derive(Debug, Clone, Copy)]
pub struct PackedLeaf<'a> {
    /// BLAKE3 of the leaf, as whoever has sent it claims.
    pub hash: Hash,
    /// Bytes of the leaf.
    pub raw: u32,
    /// How `bytes` are compressed.
    pub codec: Codec,
    /// The leaf, compressed or as it is.
    pub bytes: &'a [u8],
}

impl PackedLeaf<'_> {
    /// Fills `out`, which has the leaf's length, and compares the hash.
    fn unpack(&self, out: &mut [u8]) -> Result<()> {
        let stored = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let entry = Entry { id: self.hash, stored, raw: self.raw, codec: self.codec, content: Content::Leaf };
        decode(&Seal::none(), &entry, self.bytes, out)?;
        if merkle::leaf(out) != self.hash {
            return Err(wrong("its content has another hash than it claims"));
        }
        Ok(())
    }

    /// Whether the bytes can stay as they are: one zstd frame that saves something.
    fn stays(&self) -> bool {
        let most = self.raw.saturating_sub(self.raw / 32) as usize;
        self.codec == Codec::Zstd
            && self.bytes.len() <= most
            && zstd::zstd_safe::find_frame_compressed_size(self.bytes) == Ok(self.bytes.len())
    }
}

fn wrong(because: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, "taking in a leaf").because(because)
}

impl Writer {
    /// True if a leaf is neither there nor on its way. Only asks: the image relies on it once [`check`](Self::check) has found it.
    pub fn lacks(&self, hash: &Hash) -> bool {
        !lock(&self.dedup).knows(&self.id(hash))
    }

    /// The compression level that chunks of this capture have; none stores them as they are.
    pub fn level(&self) -> Option<i32> {
        self.level
    }

    /// Closes packs at `bytes` from now on; three at a time are in memory. For who has many captures at once.
    pub fn limit_packs(&self, bytes: usize) {
        self.pack_bytes.store(bytes.clamp(LEAST_PACK, super::PACK), Ordering::Relaxed);
    }

    /// Stores those of `leaves` that are not there, compressed as they came. Each is unpacked and must have the hash that it
    /// claims: what is stored under a hash, other images will rely on.
    ///
    /// # Errors
    ///
    /// `Mismatch` where a leaf is not what it claims; those before it are stored, and the capture can go on. After any other error
    /// nothing of this capture can be relied upon.
    pub fn put_packed(&self, leaves: &[PackedLeaf<'_>]) -> Result<()> {
        let pooled = lock(&self.encoders).pop();
        let (encoder, mut bytes) = pooled.unwrap_or_else(|| (super::encode::Encoder::new(), Vec::new()));
        bytes.clear();
        let mut entries = Vec::with_capacity(leaves.len());
        let mut plain = vec![0; LEAF as usize];
        let taken =
            leaves.iter().try_for_each(|leaf| self.take_in(leaf, &mut plain, &mut bytes, &mut entries));
        // Those before a wrong one are claimed: others may have been told that they are there.
        let appended = if entries.is_empty() { Ok(()) } else { self.append(&entries, &bytes) };
        lock(&self.encoders).push((encoder, bytes));
        appended.and(taken)
    }

    fn take_in(
        &self,
        leaf: &PackedLeaf<'_>,
        plain: &mut [u8],
        bytes: &mut Vec<u8>,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let out = plain.get_mut(..leaf.raw as usize).filter(|out| !out.is_empty());
        let out = out.ok_or_else(|| wrong("it is empty, or longer than a leaf can be"))?;
        if !self.lacks(&leaf.hash) {
            return Ok(());
        }
        leaf.unpack(out)?;
        let id = self.id(&leaf.hash);
        if leaf.hash == merkle::zero_leaf(leaf.raw.into()) || lock(&self.dedup).claim(&id) {
            return Ok(());
        }
        let (codec, content) = if leaf.stays() { (Codec::Zstd, leaf.bytes) } else { (Codec::Plain, &*out) };
        let before = bytes.len();
        if let Err(error) = self.store.seal().seal(Kind::Chunk, &id, content, bytes) {
            bytes.truncate(before);
            lock(&self.dedup).unclaim(&id);
            return Err(error);
        }
        let stored = (bytes.len() - before) as u32;
        entries.push(Entry { id, stored, raw: leaf.raw, codec, content: Content::Leaf });
        self.new_bytes.fetch_add(leaf.raw.into(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes sure that these maps can become an image: they are those of the manifest, and every leaf is stored or on its way.
    /// The image then relies on them.
    ///
    /// # Errors
    ///
    /// `Malformed` where manifest and maps contradict each other, `Mismatch` where leaves lack.
    pub fn check(&self, manifest: &Manifest, disks: &[(&ExtentMap, &Leaves)]) -> Result<()> {
        let broken = |because: &'static str| Err(Error::malformed("checking an image", because));
        if manifest.disks.len() != disks.len() {
            return broken("it has another number of disks than maps");
        }
        for (disk, (extents, leaves)) in manifest.disks.iter().zip(disks) {
            if disk.size > LARGEST {
                return broken("a disk is larger than 1 PiB");
            }
            if extents.size() != disk.size || leaves.size() != disk.size || hex(&leaves.root()) != disk.root {
                return broken("a map is not that of its disk");
            }
        }
        let mut lacking = 0u64;
        for (_, leaves) in disks {
            let short = leaves.size() % LEAF;
            for (first, count, hash) in leaves.runs() {
                let last = first.saturating_add(count) >= leaves.count() && short != 0;
                let full = count.saturating_sub(last.into()) > 0;
                let zero =
                    (!full || hash == merkle::zero_leaf(LEAF)) && (!last || hash == merkle::zero_leaf(short));
                lacking = lacking.saturating_add(u64::from(!zero && !self.has(&hash)));
            }
        }
        if lacking == 0 {
            return Ok(());
        }
        let because = format!("{lacking} of its leaves are not stored");
        Err(Error::new(ErrorKind::Mismatch, "checking an image").because(because))
    }

    /// Ends a capture that goes on later, or never: what has come is stored and listed, so that the next one finds it, and the lease
    /// ends.
    pub fn suspend(self) -> Result<()> {
        let sent = self.send_rest()?;
        self.store.backend().barrier()?;
        if !sent.is_empty() {
            self.write_indexes(sent).doing(|| "storing the index")?;
            self.store.backend().barrier()?;
        }
        self.lease.release()
    }
}
