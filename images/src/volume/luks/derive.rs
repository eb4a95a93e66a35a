// SPDX-License-Identifier: Apache-2.0
//! From a passphrase to a key: hashes by their names, PBKDF2 (RFC 8018), Argon2 (RFC 9106).

use argon2::{Algorithm, Argon2, Block, Params, Version};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use super::Limits;
use crate::{Error, Result};

/// A hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
    Sha512,
}

impl Hash {
    pub(super) fn named(name: &str) -> Result<Self> {
        match name {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            other => {
                let short: String = other.chars().take(32).collect();
                let because = format!("it uses the hash {short}; sha1, sha256 and sha512 are known");
                Err(Error::unsupported("reading a LUKS header", because))
            }
        }
    }

    /// Of both parts one behind the other.
    pub(super) fn digest(self, first: &[u8], second: &[u8]) -> Zeroizing<Vec<u8>> {
        fn of<D: Digest>(first: &[u8], second: &[u8]) -> Zeroizing<Vec<u8>> {
            Zeroizing::new(D::new().chain_update(first).chain_update(second).finalize().as_slice().to_vec())
        }
        match self {
            Self::Sha1 => of::<Sha1>(first, second),
            Self::Sha256 => of::<Sha256>(first, second),
            Self::Sha512 => of::<Sha512>(first, second),
        }
    }

    /// Bytes of a digest.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A way from a passphrase to a key.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub(super) enum Derivation {
    Pbkdf2 { hash: Hash, iterations: u32, salt: Vec<u8> },
    Argon2 { algorithm: Algorithm, time: u32, memory_kib: u32, lanes: u32, salt: Vec<u8> },
}

impl Derivation {
    /// `len` bytes from `secret`.
    ///
    /// # Errors
    ///
    /// `Unsupported` where it would cost more than `limits`; `Malformed` where the numbers make no sense.
    pub(super) fn key(&self, secret: &[u8], len: usize, limits: &Limits) -> Result<Zeroizing<Vec<u8>>> {
        let doing = "deriving a key";
        let mut key = Zeroizing::new(vec![0; len]);
        match self {
            Self::Pbkdf2 { hash, iterations, salt } => {
                if *iterations == 0 || u64::from(*iterations) > limits.work {
                    let because = format!("its slot asks for {iterations} iterations of PBKDF2");
                    return Err(Error::unsupported(doing, because));
                }
                match hash {
                    Hash::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(secret, salt, *iterations, &mut key),
                    Hash::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(secret, salt, *iterations, &mut key),
                    Hash::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(secret, salt, *iterations, &mut key),
                }
            }
            Self::Argon2 { algorithm, time, memory_kib, lanes, salt } => {
                let memory = u64::from(*memory_kib) << 10;
                if memory > limits.memory {
                    let because = format!(
                        "its slot needs {} MiB of memory for Argon2, and {} MiB are free",
                        memory >> 20,
                        limits.memory >> 20
                    );
                    return Err(Error::unsupported(doing, because));
                }
                if u64::from(*memory_kib) * u64::from(*time) > limits.work {
                    let because = format!("its slot asks for {time} passes of Argon2 over {memory_kib} KiB");
                    return Err(Error::unsupported(doing, because));
                }
                let broken = |error: argon2::Error| {
                    Error::malformed(doing, format!("Argon2 does not take its slot's numbers: {error}"))
                };
                let params = Params::new(*memory_kib, *time, *lanes, Some(len)).map_err(broken)?;
                let mut blocks: Vec<Block> = Vec::new();
                let count = params.block_count();
                if blocks.try_reserve_exact(count).is_err() {
                    let because = format!("there is no memory of {} MiB for Argon2", memory >> 20);
                    return Err(Error::unsupported(doing, because));
                }
                blocks.resize(count, Block::default());
                let argon2 = Argon2::new(*algorithm, Version::V0x13, params);
                argon2
                    .hash_password_into_with_memory(secret, salt, &mut key, blocks.as_mut_slice())
                    .map_err(broken)?;
            }
        }
        Ok(key)
    }
}
