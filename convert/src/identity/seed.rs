// SPDX-License-Identifier: Apache-2.0
//! New identities as a function of the request's seed and of the old ones.

/// A version 4 UUID (RFC 9562), its bytes in the order of its text.
pub(super) fn uuid(seed: &[u8; 32], old: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    fill(seed, "uuid", old, &mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// An MBR's signature, which is not zero.
pub(super) fn signature(seed: &[u8; 32], old: &str) -> u32 {
    let mut bytes = [0; 4];
    fill(seed, "signature", old, &mut bytes);
    u32::from_le_bytes(bytes).max(1)
}

/// LVM's own form: 32 letters and digits in groups (lvm2 `lib/uuid/uuid.c`).
pub(super) fn lvm(seed: &[u8; 32], old: &str) -> String {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut bytes = [0; 64];
    fill(seed, "lvm", old, &mut bytes);
    let mut letters = bytes.chunks(2).map(|pair| {
        let number = pair.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
        LETTERS.get(number % LETTERS.len()).copied().map_or('0', char::from)
    });
    let groups = [6, 4, 4, 4, 4, 4, 6].map(|len| letters.by_ref().take(len).collect::<String>());
    groups.join("-")
}

fn fill(seed: &[u8; 32], what: &str, old: &str, out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(b"clone of ");
    hasher.update(what.as_bytes());
    hasher.update(b" ");
    hasher.update(old.as_bytes());
    hasher.finalize_xof().fill(out);
}
