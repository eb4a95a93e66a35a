// SPDX-License-Identifier: Apache-2.0
//! LUKS headers (LUKS1 on-disk format 1.2.3; LUKS2 on-disk format 1.1.3), and the volume key in them.
//!
//! ```text
//!   passphrase --pbkdf2, argon2--> slot's key --aes--> key slot's area --merge--> volume key --digest--> the right one?
//! ```
//!
//! Nothing behind the header can be told apart without the key, so [`probe`] reads what names the volume only. What the
//! volume key opens is not read here: that is dm-crypt's work.

mod cipher;
mod derive;
mod slot;
mod uuid;
mod v1;
mod v2;

use zeroize::Zeroizing;

mod tokens;

pub use tokens::{Slots, slots};
pub use uuid::change;

use crate::parse::{Bytes, c_text};
use crate::{BlockSource, Error, Result};

/// What finding a key may cost: a header names any number that it likes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of memory for Argon2.
    pub memory: u64,
    /// For one derivation: iterations of PBKDF2, or KiB over which Argon2 passes, all passes together.
    pub work: u64,
}

impl Default for Limits {
    /// What cryptsetup makes at most, with some room: 4 GiB; half a minute to a few minutes for one derivation.
    fn default() -> Self {
        Self { memory: 4 << 30, work: 1 << 28 }
    }
}

/// What opens a container's content. The key is wiped when dropped, and no debug output shows it.
#[derive(Clone)]
pub struct VolumeKey {
    /// As dm-crypt names it: "aes-xts-plain64".
    pub cipher: String,
    /// The key.
    pub key: Zeroizing<Vec<u8>>,
    /// First byte of the content on the device.
    pub offset: u64,
    /// Its length in bytes; `None` is all to the device's end.
    pub len: Option<u64>,
    /// Added to the number of every sector of 512 bytes.
    pub iv_offset: u64,
    /// Bytes that are encrypted together.
    pub sector_size: u32,
}

impl std::fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeKey")
            .field("cipher", &self.cipher)
            .field("offset", &self.offset)
            .field("len", &self.len)
            .field("iv_offset", &self.iv_offset)
            .field("sector_size", &self.sector_size)
            .finish_non_exhaustive()
    }
}

/// Opens the container in `source` with a passphrase, or the bytes of a key file.
///
/// # Errors
///
/// `Refused` where no key slot opens with it; `Unsupported` for what is not handled (another cipher or hash in the slot,
/// integrity protection, a re-encryption under way, more memory or work than `limits`); `Malformed`; `Io`.
pub fn unlock(source: &dyn BlockSource, secret: &[u8], limits: &Limits) -> Result<VolumeKey> {
    match probe(source)?.map(|found| found.version) {
        Some(1) => v1::unlock(source, secret, limits),
        Some(2) => v2::unlock(source, secret, limits),
        Some(other) => Err(Error::unsupported("opening LUKS", format!("it is of version {other}"))),
        None => Err(Error::malformed("opening LUKS", "there is no LUKS header")),
    }
}

/// What a LUKS header says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks {
    /// 1 or 2; others are passed on as they stand.
    pub version: u16,
    /// As `blkid` prints it.
    pub uuid: Option<String>,
    /// LUKS2 label.
    pub label: Option<String>,
}

const MAGIC: &[u8] = b"LUKS\xba\xbe";
/// Marks the second LUKS2 header, which serves where the first is damaged.
const MAGIC_SECOND: &[u8] = b"SKUL\xba\xbe";
/// Where a second header may stand: after a first one of 16 KiB to 4 MiB (LUKS2 specification, table 1).
pub(crate) const SECOND_OFFSETS: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];

/// Looks for LUKS at byte 0, or a LUKS2 second header alone.
pub fn probe(source: &dyn BlockSource) -> Result<Option<Luks>> {
    if let Some(found) = header(source, 0, MAGIC)? {
        return Ok(Some(found));
    }
    for offset in SECOND_OFFSETS {
        if let Some(found) = header(source, offset, MAGIC_SECOND)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn header(source: &dyn BlockSource, offset: u64, magic: &[u8]) -> Result<Option<Luks>> {
    let mut raw = [0; 512];
    if offset + raw.len() as u64 > source.size() {
        return Ok(None);
    }
    source.read_at(&mut raw, offset)?;
    let header = Bytes::new(&raw, "LUKS header");
    // A LUKS2 header states its own address, so that a copy inside a file does not pass for one.
    if header.slice(0, 6)? != magic || (offset != 0 && header.u64_be(256)? != offset) {
        return Ok(None);
    }
    let text =
        |offset, len| header.slice(offset, len).map(c_text).map(|text| (!text.is_empty()).then_some(text));
    let version = header.u16_be(6)?;
    Ok(Some(Luks { version, uuid: text(168, 40)?, label: if version == 2 { text(24, 48)? } else { None } }))
}

#[cfg(test)]
mod unlock_tests;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::volume::lvm::tests::Disk;

    fn run(command: &mut Command, package: &str) -> String {
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error} (Debian package {package})"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn headers_made_by_cryptsetup_are_recognised_and_the_second_one_serves_alone() {
        for version in ["luks1", "luks2"] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(24 << 20).unwrap();
            run(
                Command::new("sh").arg("-c").arg(format!(
                    "PATH=$PATH:/sbin:/usr/sbin; printf secret | cryptsetup luksFormat -q --type {version} --pbkdf pbkdf2 \
                     --pbkdf-force-iterations 1000 {} -",
                    file.path().display()
                )),
                "cryptsetup-bin",
            );
            let uuid = run(
                Command::new("sh").arg("-c").arg(format!(
                    "PATH=$PATH:/sbin:/usr/sbin; cryptsetup luksUUID {}",
                    file.path().display()
                )),
                "cryptsetup-bin",
            );
            let mut disk = Disk(std::fs::read(file.path()).unwrap());
            let found = probe(&disk).unwrap().unwrap();
            assert_eq!(
                (format!("luks{}", found.version), found.uuid.as_deref()),
                (version.into(), Some(&*uuid))
            );
            disk.0[..512].fill(0);
            assert_eq!(probe(&disk).unwrap().map(|found| found.version), (version == "luks2").then_some(2));
        }
    }
}
