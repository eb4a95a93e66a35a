// SPDX-License-Identifier: Apache-2.0
//! Identities of what is made, as a function of the request's seed and of what it is for: a plan made twice is the same.

/// A version 4 UUID, its bytes in the order of its text.
pub(crate) fn guid(seed: &[u8; 32], what: &str) -> [u8; 16] {
    let hash = blake3::keyed_hash(seed, what.as_bytes());
    let mut guid = [0; 16];
    guid.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    guid[6] = guid[6] & 0x0f | 0x40;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

/// A FAT serial number, which is not zero.
pub(crate) fn serial(seed: &[u8; 32], what: &str) -> u32 {
    let [a, b, c, d, ..] = guid(seed, what);
    u32::from_le_bytes([a, b, c, d]).max(1)
}
