// SPDX-License-Identifier: Apache-2.0
//! LUKS1: one header of 592 bytes with eight key slots.

use super::cipher::Cipher;
use super::derive::{Derivation, Hash};
use super::slot::{Check, Slot, no_slot};
use super::{Limits, VolumeKey};
use crate::parse::{Bytes, c_text, read_vec};
use crate::{BlockSource, ErrorKind, Result};

const LEN: usize = 592;
const SLOTS: usize = 208;
const SLOT: usize = 48;
const ACTIVE: u32 = 0x00ac_71f3;
const SECTOR: u64 = 512;

pub(super) fn unlock(source: &dyn BlockSource, secret: &[u8], limits: &Limits) -> Result<VolumeKey> {
    let raw = read_vec(source, 0, LEN)?;
    let header = Bytes::new(&raw, "LUKS1 header");
    let text = |at, len| header.slice(at, len).map(c_text);
    let cipher = format!("{}-{}", text(8, 32)?, text(40, 32)?);
    let hash = Hash::named(&text(72, 32)?)?;
    let key_len = header.u32_be(108)? as usize;
    let check = Check {
        derivation: Derivation::Pbkdf2 {
            hash,
            iterations: header.u32_be(164)?,
            salt: header.slice(132, 32)?.to_vec(),
        },
        digest: header.slice(112, 20)?.to_vec(),
    };
    let mut untried = None;
    for number in 0..8 {
        let slot = header.sub(SLOTS + number * SLOT, SLOT)?;
        if slot.u32_be(0)? != ACTIVE {
            continue;
        }
        let slot = Slot {
            derivation: Derivation::Pbkdf2 {
                hash,
                iterations: slot.u32_be(4)?,
                salt: slot.slice(8, 32)?.to_vec(),
            },
            cipher: Cipher::named(&cipher)?,
            area_key_len: key_len,
            area: u64::from(slot.u32_be(40)?) * SECTOR,
            hash,
            stripes: slot.u32_be(44)? as usize,
            key_len,
        };
        let opened = slot.open(source, secret, limits);
        match opened.and_then(|key| Ok(check.is_right(&key, limits)?.then_some(key))) {
            Ok(Some(key)) => {
                let offset = u64::from(header.u32_be(104)?) * SECTOR;
                return Ok(VolumeKey { cipher, key, offset, len: None, iv_offset: 0, sector_size: 512 });
            }
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => untried = Some(error),
        }
    }
    Err(no_slot(untried))
}
