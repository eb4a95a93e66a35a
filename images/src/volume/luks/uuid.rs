// SPDX-License-Identifier: Apache-2.0
//! Another UUID for a LUKS container. LUKS1 has one header; LUKS2 has two, each with a checksum over itself and its JSON.

use sha2::{Digest, Sha256};

use super::{MAGIC, MAGIC_SECOND, SECOND_OFFSETS, probe, v2};
use crate::identity::{Change, Writes, put};
use crate::parse::{read_vec, uuid_text};
use crate::{BlockSource, Error, Result};

const UUID_AT: usize = 168;
const UUID_LEN: usize = 40;

fn refused(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::refused("giving a LUKS container another UUID", because)
}

/// Plans the UUID `new` for the container in `source`. Keys and content stay.
///
/// # Errors
///
/// `Refused` where it has none, or its header is damaged or being changed; `Malformed`.
pub fn change(source: &dyn BlockSource, new: &[u8; 16]) -> Result<Change> {
    let found = probe(source)?.ok_or_else(|| refused("there is no LUKS header"))?;
    let old = found.uuid.ok_or_else(|| refused("it has none"))?;
    let text = uuid_text(new);
    let mut field = [0; UUID_LEN];
    put(&mut field, 0, text.as_bytes());
    let mut writes = Writes::new();
    match found.version {
        1 if read_vec(source, 0, MAGIC.len())? == MAGIC => writes.push((UUID_AT as u64, field.to_vec())),
        2 => {
            let copies = std::iter::once((0, MAGIC)).chain(SECOND_OFFSETS.map(|at| (at, MAGIC_SECOND)));
            for (at, magic) in copies {
                // A damaged copy would be repaired from the other with the old UUID: that is for cryptsetup to do first.
                let Some(mut whole) = v2::area(source, at, magic)? else { continue };
                put(&mut whole, UUID_AT, &field);
                put(&mut whole, v2::CHECKSUM.start, &[0; 64]);
                let sum = Sha256::digest(&whole);
                put(&mut whole, v2::CHECKSUM.start, sum.as_slice());
                whole.truncate(v2::BINARY);
                writes.push((at, whole));
            }
            if writes.len() != 2 {
                return Err(refused("it does not have its two headers: run cryptsetup repair"));
            }
        }
        version => return Err(refused(format!("it is of version {version}"))),
    }
    Ok(Change { old, new: text, writes, adds: Vec::new() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::volume::luks::{Limits, unlock};
    use crate::volume::lvm::tests::Disk;

    const NEW: [u8; 16] = [0x5e, 0xed, 0xba, 0x5e, 0, 0x11, 0x42, 0x22, 0x83, 0x33, 1, 2, 3, 4, 5, 6];

    /// A missing tool fails the test and names its package.
    fn cryptsetup(words: &str) -> String {
        let script = format!("PATH=$PATH:/sbin:/usr/sbin; printf secret | cryptsetup {words}");
        let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}: {errors} (Debian package cryptsetup-bin)");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn a_container_of_either_version_is_known_by_its_new_uuid_and_opens_as_before() {
        for version in ["luks1", "luks2"] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(24 << 20).unwrap();
            let path = file.path().display();
            cryptsetup(&format!(
                "luksFormat -q --type {version} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 {path} -"
            ));
            let old = cryptsetup(&format!("luksUUID {path}"));
            let mut disk = Disk(std::fs::read(file.path()).unwrap());
            let key = unlock(&disk, b"secret", &Limits::default()).unwrap();
            let changed = change(&disk, &NEW).unwrap();
            assert_eq!((changed.old, changed.new.as_str()), (old, uuid_text(&NEW).as_str()));
            for (at, bytes) in &changed.writes {
                disk.0[*at as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            std::fs::write(file.path(), &disk.0).unwrap();
            assert_eq!(cryptsetup(&format!("luksUUID {path}")), uuid_text(&NEW));
            // Says which header it had to repair, if any.
            let said = cryptsetup(&format!("luksDump --debug {path}"));
            assert!(!said.contains("Invalid") && !said.contains("wrong checksum"), "{said}");
            assert!(unlock(&disk, b"secret", &Limits::default()).unwrap().key == key.key);
            assert_eq!(probe(&disk).unwrap().unwrap().uuid, Some(uuid_text(&NEW)));
            if version == "luks2" {
                // The second header serves alone, with the new UUID.
                disk.0[..512].fill(0);
                assert_eq!(probe(&disk).unwrap().unwrap().uuid, Some(uuid_text(&NEW)));
                unlock(&disk, b"secret", &Limits::default()).unwrap();
                assert!(change(&disk, &NEW).unwrap_err().chain().contains("two headers"));
            }
        }
    }
}
