// SPDX-License-Identifier: Apache-2.0
//! Which key slots a person can open, and which are bound to something of the machine (LUKS2 on-disk format 1.1.3, section 3.5).

use crate::parse::{Bytes, c_text, read_vec};
use crate::{BlockSource, Error, ErrorKind, Result};

/// Key slots of a LUKS header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// 1 or 2.
    pub version: u16,
    /// Slots that a passphrase, recovery key or key file opens.
    pub free: u32,
    /// Types of tokens that bind slots to something of the machine: "systemd-tpm2", "clevis", "systemd-fido2".
    pub bound: Vec<String>,
}

/// More of a LUKS2 header's JSON is not read: the specification's largest header is 4 MiB.
const MOST_JSON: u64 = 4 << 20;
/// Tokens that a person answers: no machine is needed for them.
const PERSONAL: [&str; 2] = ["systemd-recovery", "luks2-keyring"];

/// What opens the container at byte 0 of `source`, by its active key slots and tokens; `None` where there is no LUKS header.
///
/// # Errors
///
/// `Malformed` for JSON that cannot be read.
pub fn slots(source: &dyn BlockSource) -> Result<Option<Slots>> {
    let Some(found) = super::header(source, 0, super::MAGIC)? else { return Ok(None) };
    if found.version != 2 {
        // LUKS1, section 3.1: eight slots of 48 bytes from byte 208, active ones marked.
        let raw = read_vec(source, 208, 8 * 48)?;
        let raw = Bytes::new(&raw, "LUKS1 key slots");
        let mut slots = Slots { version: found.version, ..Slots::default() };
        for slot in 0..8 {
            slots.free += u32::from(raw.u32_be(slot * 48)? == 0x00ac_71f3);
        }
        return Ok(Some(slots));
    }
    let raw = read_vec(source, 0, 4096)?;
    let len = Bytes::new(&raw, "LUKS2 header").u64_be(8)?.clamp(4096, MOST_JSON).min(source.size()) - 4096;
    let text = read_vec(source, 4096, len as usize)?;
    let broken = |error| Error::new(ErrorKind::Malformed, "reading LUKS2 metadata").source(error);
    let json: serde_json::Value = serde_json::from_str(&c_text(&text)).map_err(broken)?;
    let none = serde_json::Map::new();
    let part = |name: &str| json.get(name).and_then(serde_json::Value::as_object).unwrap_or(&none);
    let mut bound_slots = Vec::new();
    let mut slots = Slots { version: 2, ..Slots::default() };
    for token in part("tokens").values() {
        let kind = token.get("type").and_then(serde_json::Value::as_str).unwrap_or("unknown");
        if PERSONAL.contains(&kind) {
            continue;
        }
        if !slots.bound.iter().any(|known| known == kind) {
            slots.bound.push(kind.to_owned());
        }
        let of = token.get("keyslots").and_then(serde_json::Value::as_array);
        bound_slots.extend(of.into_iter().flatten().filter_map(|slot| slot.as_str()));
    }
    let free = part("keyslots").keys().filter(|slot| !bound_slots.contains(&slot.as_str())).count();
    slots.free = u32::try_from(free).unwrap_or(u32::MAX);
    Ok(Some(slots))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::volume::lvm::tests::Disk;

    #[test]
    fn slots_that_a_token_binds_are_told_from_those_that_a_passphrase_opens() {
        for (version, tokens, want) in [
            ("luks1", &[][..], (2, vec![])),
            ("luks2", &[], (2, vec![])),
            ("luks2", &[r#"{"type":"clevis","keyslots":["1"],"jwe":{}}"#], (1, vec!["clevis"])),
            (
                "luks2",
                &[
                    r#"{"type":"systemd-recovery","keyslots":["0"]}"#,
                    r#"{"type":"systemd-tpm2","keyslots":["1"],"tpm2-blob":"","tpm2-pcrs":[7],"tpm2-policy-hash":""}"#,
                ],
                (1, vec!["systemd-tpm2"]),
            ),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(24 << 20).unwrap();
            let quick = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000";
            let mut script = format!(
                "set -e; PATH=$PATH:/sbin:/usr/sbin; printf one >$1.one; printf two >$1.two\n\
                 cryptsetup luksFormat -q --type {version} {quick} $1 $1.one\n\
                 cryptsetup luksAddKey -q {quick} --key-file $1.one $1 $1.two; rm $1.one $1.two\n"
            );
            for token in tokens {
                script += &format!("echo '{token}' | cryptsetup token import --disable-external-tokens $1\n");
            }
            let output = Command::new("sh").args(["-c", &script, "sh"]).arg(file.path()).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "Debian package cryptsetup-bin: {errors}");
            let found = slots(&Disk(std::fs::read(file.path()).unwrap())).unwrap().unwrap();
            let bound: Vec<&str> = found.bound.iter().map(String::as_str).collect();
            assert_eq!((found.free, bound), want, "{version} {tokens:?}");
        }
    }
}
