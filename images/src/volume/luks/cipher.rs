// SPDX-License-Identifier: Apache-2.0
//! AES as dm-crypt uses it on key slots: XTS and CBC on sectors of 512 bytes, whose numbers make the IV.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use sha2::{Digest, Sha256};
use xts_mode::Xts128;

use crate::{Error, Result};

const SECTOR: usize = 512;
const BLOCK: usize = 16;

/// How a sector's IV is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Iv {
    /// The number's low 32 bits, little-endian.
    Plain,
    /// The number, little-endian.
    Plain64,
    /// `plain64`, encrypted with the key's SHA-256.
    Essiv,
}

/// A cipher by dm-crypt's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cipher {
    xts: bool,
    iv: Iv,
}

impl Cipher {
    pub(super) fn named(name: &str) -> Result<Self> {
        let (xts, iv) = match name {
            "aes-xts-plain64" => (true, Iv::Plain64),
            "aes-xts-plain" => (true, Iv::Plain),
            "aes-cbc-plain64" => (false, Iv::Plain64),
            "aes-cbc-plain" => (false, Iv::Plain),
            "aes-cbc-essiv:sha256" => (false, Iv::Essiv),
            other => {
                let short: String = other.chars().take(64).collect();
                let because =
                    format!("its key slots are encrypted with {short}; aes-xts and aes-cbc are known");
                return Err(Error::unsupported("reading a LUKS header", because));
            }
        };
        Ok(Self { xts, iv })
    }

    /// Decrypts `data`, a whole number of sectors, the first of which has number 0.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a key of another length than AES has.
    pub(super) fn decrypt(self, key: &[u8], data: &mut [u8]) -> Result<()> {
        match (self.xts, key.len()) {
            (true, 32) => self.xts::<Aes128>(key, data),
            (true, 48) => self.xts::<Aes192>(key, data),
            (true, 64) => self.xts::<Aes256>(key, data),
            (false, 16) => self.cbc::<Aes128>(key, data),
            (false, 24) => self.cbc::<Aes192>(key, data),
            (false, 32) => self.cbc::<Aes256>(key, data),
            (_, len) => None.ok_or_else(|| bad_key(len)),
        }
    }

    fn xts<C>(self, key: &[u8], data: &mut [u8]) -> Result<()>
    where
        C: KeyInit
            + BlockCipherEncrypt
            + BlockCipherDecrypt
            + BlockSizeUser<BlockSize = aes::cipher::consts::U16>,
    {
        let (first, second) = key.split_at(key.len() / 2);
        let (Ok(first), Ok(second)) = (C::new_from_slice(first), C::new_from_slice(second)) else {
            return Err(bad_key(key.len()));
        };
        let cipher = Xts128::new(first, second);
        for (number, sector) in (0u64..).zip(data.chunks_exact_mut(SECTOR)) {
            cipher.decrypt_sector(sector, Array::from(self.number(number)));
        }
        Ok(())
    }

    fn cbc<C>(self, key: &[u8], data: &mut [u8]) -> Result<()>
    where
        C: KeyInit
            + BlockCipherEncrypt
            + BlockCipherDecrypt
            + BlockSizeUser<BlockSize = aes::cipher::consts::U16>,
    {
        let cipher = C::new_from_slice(key).map_err(|_| bad_key(key.len()))?;
        let hashed = zeroize::Zeroizing::new(<[u8; 32]>::from(Sha256::digest(key)));
        let essiv = Aes256::new_from_slice(&*hashed).map_err(|_| bad_key(hashed.len()))?;
        for (number, sector) in (0u64..).zip(data.chunks_exact_mut(SECTOR)) {
            let mut before = Array::from(self.number(number));
            if self.iv == Iv::Essiv {
                essiv.encrypt_block(&mut before);
            }
            for block in sector.chunks_exact_mut(BLOCK) {
                let mut now = Array::from([0; BLOCK]);
                now.copy_from_slice(block);
                let encrypted = now;
                cipher.decrypt_block(&mut now);
                for ((to, plain), mask) in block.iter_mut().zip(now).zip(before) {
                    *to = plain ^ mask;
                }
                before = encrypted;
            }
        }
        Ok(())
    }

    fn number(self, sector: u64) -> [u8; BLOCK] {
        let sector = if self.iv == Iv::Plain { sector & u64::from(u32::MAX) } else { sector };
        u128::from(sector).to_le_bytes()
    }
}

fn bad_key(len: usize) -> Error {
    Error::unsupported("decrypting a key slot", format!("its key has {len} bytes"))
}
