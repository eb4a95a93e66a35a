// SPDX-License-Identifier: Apache-2.0
//! A key slot: an area in which the volume key lies, split so that each of its bytes hangs on all of the area's
//! (anti-forensic splitter, LUKS1 on-disk format, 2.4), and encrypted.

use zeroize::Zeroizing;

use super::Limits;
use super::cipher::Cipher;
use super::derive::{Derivation, Hash};
use crate::parse::read_vec;
use crate::{BlockSource, Error, Result};

/// Longest key that makes sense: dm-crypt's longest is 64 bytes for aes-xts, 96 with integrity.
const LONGEST_KEY: usize = 512;
/// LUKS uses 4000.
const MOST_STRIPES: usize = 1 << 16;
const SECTOR: usize = 512;

/// A key slot that is in use.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) derivation: Derivation,
    pub(super) cipher: Cipher,
    /// Bytes of the key with which the area is encrypted.
    pub(super) area_key_len: usize,
    /// First byte of the area on the device.
    pub(super) area: u64,
    /// Hash of the splitter.
    pub(super) hash: Hash,
    pub(super) stripes: usize,
    /// Bytes of the volume key.
    pub(super) key_len: usize,
}

impl Slot {
    /// What `secret` makes of the slot: the volume key if it is the right one, else anything.
    pub(super) fn open(
        &self,
        source: &dyn BlockSource,
        secret: &[u8],
        limits: &Limits,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let broken = |because: &'static str| Error::malformed("reading a LUKS key slot", because);
        if !(1..=LONGEST_KEY).contains(&self.key_len) || !(1..=LONGEST_KEY).contains(&self.area_key_len) {
            return Err(broken("its key is of no possible length"));
        }
        if !(1..=MOST_STRIPES).contains(&self.stripes) {
            return Err(broken("it has no possible number of stripes"));
        }
        let len = self.key_len * self.stripes;
        let mut area = Zeroizing::new(read_vec(source, self.area, len.next_multiple_of(SECTOR))?);
        let key = self.derivation.key(secret, self.area_key_len, limits)?;
        self.cipher.decrypt(&key, &mut area)?;
        area.truncate(len);
        Ok(merge(&area, self.key_len, self.hash))
    }
}

/// Puts the stripes together again.
fn merge(stripes: &[u8], key_len: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut sum = Zeroizing::new(vec![0u8; key_len]);
    let mut chunks = stripes.chunks_exact(key_len).peekable();
    while let Some(stripe) = chunks.next() {
        sum.iter_mut().zip(stripe).for_each(|(to, from)| *to ^= from);
        if chunks.peek().is_some() {
            diffuse(&mut sum, hash);
        }
    }
    sum
}

/// Replaces each piece of a digest's length by the hash of its number and itself.
fn diffuse(bytes: &mut [u8], hash: Hash) {
    for (number, piece) in (0u32..).zip(bytes.chunks_mut(hash.len())) {
        let digest = hash.digest(&number.to_be_bytes(), piece);
        piece.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
    }
}

/// How the right volume key is known.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) derivation: Derivation,
    pub(super) digest: Vec<u8>,
}

impl Check {
    pub(super) fn is_right(&self, key: &[u8], limits: &Limits) -> Result<bool> {
        if self.digest.is_empty() || self.digest.len() > LONGEST_KEY {
            return Err(Error::malformed("reading a LUKS header", "the digest of its key is of no length"));
        }
        let digest = self.derivation.key(key, self.digest.len(), limits)?;
        // Not stopping at the first difference costs nothing.
        let difference = digest.iter().zip(&self.digest).fold(0, |sum, (a, b)| sum | (a ^ b));
        Ok(difference == 0)
    }
}

/// The failure when all slots were tried: none fits, unless some slot could not be tried.
pub(super) fn no_slot(untried: Option<Error>) -> Error {
    untried.unwrap_or_else(|| {
        Error::refused("opening LUKS", "no key slot opens with this passphrase or key file")
    })
}
