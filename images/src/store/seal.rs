// SPDX-License-Identifier: Apache-2.0
//! Sealing: XChaCha20-Poly1305 with a random nonce for every object, under subkeys of the store's data key.
//!
//! ```text
//!   sealed = nonce (24) | ciphertext | tag (16)
//!   additional data = "unmoor-store" | version, u16 le | kind, u8 | context: the chunk's id, or the object's name
//! ```
//!
//! One key serves all images of a store for ever, so a nonce is never counted: 24 random bytes do not meet again (RFC draft
//! irtf-cfrg-xchacha, section 3.1). In a store without encryption all of this hands bytes through.

use std::borrow::Cow;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::{Id, config};
use crate::merkle::Hash;
use crate::{Error, ErrorKind, Result};

const NONCE: usize = 24;
const TAG: usize = 16;

const IDS: &str = "unmoor 2026-11-24 store chunk ids";
const NAMES: &str = "unmoor 2026-11-24 store image names";
const DATA: &str = "unmoor 2026-11-24 store data";
const METADATA: &str = "unmoor 2026-11-24 store metadata";

/// What is sealed, so that one thing cannot be put in another's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Chunk = 1,
    Page = 2,
    PackTable = 3,
    Index = 4,
    Image = 5,
    Mark = 6,
    Key = 7,
}

/// Seals and opens, or hands through.
pub(super) struct Seal {
    keys: Option<Subkeys>,
}

struct Subkeys {
    ids: Hash,
    names: Hash,
    data: XChaCha20Poly1305,
    metadata: XChaCha20Poly1305,
}

impl Seal {
    /// For a store without encryption.
    pub(super) fn none() -> Self {
        Self { keys: None }
    }

    /// With the subkeys of a data key.
    pub(super) fn with_key(key: &[u8; 32]) -> Self {
        let cipher = |context| XChaCha20Poly1305::new(&blake3::derive_key(context, key).into());
        Self {
            keys: Some(Subkeys {
                ids: blake3::derive_key(IDS, key),
                names: blake3::derive_key(NAMES, key),
                data: cipher(DATA),
                metadata: cipher(METADATA),
            }),
        }
    }

    /// True if anything is sealed.
    pub(super) fn is_sealed(&self) -> bool {
        self.keys.is_some()
    }

    /// Bytes that sealing adds.
    pub(super) fn overhead(&self) -> u64 {
        if self.is_sealed() { (NONCE + TAG) as u64 } else { 0 }
    }

    /// A chunk's name: of equal content an equal one, which tells nothing of the content to those without the key.
    /// `hash` is the leaf's, so that nothing is hashed twice.
    pub(super) fn id(&self, hash: &Hash) -> Id {
        match &self.keys {
            None => *hash,
            Some(keys) => *blake3::keyed_hash(&keys.ids, hash).as_bytes(),
        }
    }

    /// The folder of a machine's images: its name, or what stands for it.
    pub(super) fn folder(&self, machine: &str) -> String {
        match &self.keys {
            None => machine.to_owned(),
            Some(keys) => blake3::keyed_hash(&keys.names, machine.as_bytes())
                .to_hex()
                .get(..32)
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// Appends `plain`, sealed, to `out`.
    pub(super) fn seal(&self, kind: Kind, context: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let Some(keys) = &self.keys else {
            out.extend_from_slice(plain);
            return Ok(());
        };
        seal_with(keys.cipher(kind), kind, context, plain, out)
    }

    /// What was sealed.
    ///
    /// # Errors
    ///
    /// `Mismatch` if it is not exactly that: changed, moved to another place, or of another key.
    pub(super) fn open<'a>(&self, kind: Kind, context: &[u8], stored: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        match &self.keys {
            None => Ok(Cow::Borrowed(stored)),
            Some(keys) => open_with(keys.cipher(kind), kind, context, stored).map(Cow::Owned),
        }
    }
}

impl Subkeys {
    fn cipher(&self, kind: Kind) -> &XChaCha20Poly1305 {
        if kind == Kind::Chunk { &self.data } else { &self.metadata }
    }
}

fn additional(kind: Kind, context: &[u8]) -> Vec<u8> {
    let mut additional = b"unmoor-store".to_vec();
    additional.extend_from_slice(&config::VERSION.to_le_bytes());
    additional.push(kind as u8);
    additional.extend_from_slice(context);
    additional
}

fn seal_with(
    cipher: &XChaCha20Poly1305,
    kind: Kind,
    context: &[u8],
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut nonce = [0; NONCE];
    super::keys::random(&mut nonce)?;
    let payload = Payload { msg: plain, aad: &additional(kind, context) };
    let sealed = cipher
        .encrypt(&XNonce::from(nonce), payload)
        .map_err(|_| Error::unsupported("sealing an object", "it is too large"))?;
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Ok(())
}

fn open_with(cipher: &XChaCha20Poly1305, kind: Kind, context: &[u8], stored: &[u8]) -> Result<Vec<u8>> {
    let broken = || {
        Error::new(ErrorKind::Mismatch, "opening a sealed object")
            .because("it was changed or moved, or sealed with another key")
    };
    let (nonce, sealed) = stored.split_first_chunk::<NONCE>().ok_or_else(broken)?;
    if sealed.len() < TAG {
        return Err(broken());
    }
    let payload = Payload { msg: sealed, aad: &additional(kind, context) };
    cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| broken())
}

/// Seals a data key under a wrapping key.
pub(super) fn wrap(wrapping: &[u8; 32], context: &[u8], key: &[u8; 32]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    seal_with(&XChaCha20Poly1305::new(&(*wrapping).into()), Kind::Key, context, key, &mut out)?;
    Ok(out)
}

/// The data key, if the wrapping key is the right one.
pub(super) fn unwrap(wrapping: &[u8; 32], context: &[u8], wrapped: &[u8]) -> Option<[u8; 32]> {
    let cipher = XChaCha20Poly1305::new(&(*wrapping).into());
    open_with(&cipher, Kind::Key, context, wrapped).ok()?.try_into().ok()
}
