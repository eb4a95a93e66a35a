// SPDX-License-Identifier: Apache-2.0
//! LUKS2: a binary header and JSON behind it, twice; the copy with the higher sequence number holds.

use argon2::Algorithm;
use base64::Engine;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::cipher::Cipher;
use super::derive::{Derivation, Hash};
use super::slot::{Check, Slot, no_slot};
use super::{Limits, MAGIC, MAGIC_SECOND, SECOND_OFFSETS, VolumeKey};
use crate::parse::{Bytes, c_text, read_vec};
use crate::{BlockSource, Error, ErrorKind, Result};

/// Bytes of the binary header; the JSON follows.
pub(super) const BINARY: usize = 4096;
/// Where its checksum stands.
pub(super) const CHECKSUM: std::ops::Range<usize> = 448..512;
/// Slots and digests are at most 32 (`LUKS2_KEYSLOTS_MAX`).
const MOST: usize = 32;

fn broken(because: &'static str) -> Error {
    Error::malformed("reading a LUKS2 header", because)
}

pub(super) fn unlock(source: &dyn BlockSource, secret: &[u8], limits: &Limits) -> Result<VolumeKey> {
    let json = metadata(source)?;
    if let Some(needs) = json.pointer("/config/requirements/mandatory").and_then(Value::as_array)
        && let Some(first) = needs.first()
    {
        let name: String = first.as_str().unwrap_or("something unknown").chars().take(64).collect();
        let because = format!("it requires {name}: finish or undo that with cryptsetup first");
        return Err(Error::unsupported("opening LUKS2", because));
    }
    let (name, segment) = only_segment(&json)?;
    let mut untried = None;
    for (number, slot) in section(&json, "keyslots")?.iter().take(MOST) {
        match open_slot(source, &json, (number, slot), name, secret, limits) {
            Ok(Some(key)) => {
                let sector_size = number_of(segment, "sector_size")?;
                let sector_size = u32::try_from(sector_size)
                    .ok()
                    .filter(|size| size.is_power_of_two() && (512..=4096).contains(size))
                    .ok_or_else(|| broken("its sector size makes no sense"))?;
                let len = match text_of(segment, "size")? {
                    "dynamic" => None,
                    _ => Some(number_of(segment, "size")?),
                };
                return Ok(VolumeKey {
                    cipher: text_of(segment, "encryption")?.to_owned(),
                    key,
                    offset: number_of(segment, "offset")?,
                    len,
                    iv_offset: number_of(segment, "iv_tweak")?,
                    sector_size,
                });
            }
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => untried = Some(error),
        }
    }
    Err(no_slot(untried))
}

/// The volume key, if `secret` opens the slot.
fn open_slot(
    source: &dyn BlockSource,
    json: &Value,
    (number, slot): (&str, &Value),
    segment: &str,
    secret: &[u8],
    limits: &Limits,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(check) = check_of(json, number, segment)? else { return Ok(None) };
    let key = read_slot(slot)?.open(source, secret, limits)?;
    Ok(check.is_right(&key, limits)?.then_some(key))
}

/// The JSON of the newest header whose checksum is right.
fn metadata(source: &dyn BlockSource) -> Result<Value> {
    let mut newest: Option<(u64, Value)> = None;
    let mut first_error = None;
    let copies = std::iter::once((0, MAGIC)).chain(SECOND_OFFSETS.map(|at| (at, MAGIC_SECOND)));
    for (at, magic) in copies {
        match copy(source, at, magic) {
            Ok(Some((sequence, json))) => {
                if newest.as_ref().is_none_or(|(have, _)| *have < sequence) {
                    newest = Some((sequence, json));
                }
            }
            Ok(None) => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    newest
        .map(|(_, json)| json)
        .ok_or_else(|| first_error.unwrap_or_else(|| broken("there is none whose checksum is right")))
}

fn copy(source: &dyn BlockSource, at: u64, magic: &[u8]) -> Result<Option<(u64, Value)>> {
    let Some(whole) = area(source, at, magic)? else { return Ok(None) };
    let json = whole.get(BINARY..).unwrap_or(&[]);
    let end = json.iter().position(|&byte| byte == 0).unwrap_or(json.len());
    let json = serde_json::from_slice(json.get(..end).unwrap_or(&[]))
        .map_err(|error| broken("its JSON is none").source(error))?;
    Ok(Some((Bytes::new(&whole, "LUKS2 header").u64_be(16)?, json)))
}

/// The header at `at` with its JSON, if there is one; its checksum is right.
pub(super) fn area(source: &dyn BlockSource, at: u64, magic: &[u8]) -> Result<Option<Vec<u8>>> {
    if at.saturating_add(BINARY as u64) > source.size() {
        return Ok(None);
    }
    let binary = read_vec(source, at, BINARY)?;
    let header = Bytes::new(&binary, "LUKS2 header");
    if header.slice(0, 6)? != magic || header.u16_be(6)? != 2 || header.u64_be(256)? != at {
        return Ok(None);
    }
    let len = header.u64_be(8)?;
    // What is allowed for the length is where a second copy may stand.
    if !SECOND_OFFSETS.contains(&len) {
        return Err(broken("it is of no possible length"));
    }
    if c_text(header.slice(72, 32)?) != "sha256" {
        return Err(Error::unsupported("reading a LUKS2 header", "its checksum is not sha256"));
    }
    let whole = read_vec(source, at, len as usize)?;
    let mut zeroed = whole.clone();
    if let Some(place) = zeroed.get_mut(CHECKSUM) {
        place.fill(0);
    }
    if Sha256::digest(&zeroed).as_slice() != header.slice(CHECKSUM.start, 32)? {
        return Err(broken("checksum mismatch"));
    }
    Ok(Some(whole))
}

/// The one segment that a container has when nothing is being changed about it.
fn only_segment(json: &Value) -> Result<(&str, &Value)> {
    let mut segments = section(json, "segments")?.iter();
    let (Some((name, segment)), None) = (segments.next(), segments.next()) else {
        return Err(Error::unsupported("opening LUKS2", "it does not have exactly one segment"));
    };
    let kind = text_of(segment, "type")?;
    if kind != "crypt" {
        let kind: String = kind.chars().take(32).collect();
        return Err(Error::unsupported("opening LUKS2", format!("its segment is of type {kind}")));
    }
    if segment.get("integrity").is_some() {
        return Err(Error::unsupported("opening LUKS2", "it has integrity protection (dm-integrity)"));
    }
    Ok((name, segment))
}

/// The digest that belongs to a key slot and a segment.
fn check_of(json: &Value, slot: &str, segment: &str) -> Result<Option<Check>> {
    let lists = |digest: &Value, key: &str, wanted: &str| {
        let list = digest.get(key).and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|name| name.as_str() == Some(wanted)))
    };
    let digest = section(json, "digests")?
        .values()
        .take(MOST)
        .find(|digest| lists(digest, "keyslots", slot) && lists(digest, "segments", segment));
    let Some(digest) = digest else { return Ok(None) };
    if text_of(digest, "type")? != "pbkdf2" {
        return Err(Error::unsupported("reading a LUKS2 header", "the digest of its key is not pbkdf2"));
    }
    Ok(Some(Check { derivation: pbkdf2(digest)?, digest: base64_of(digest, "digest")? }))
}

fn read_slot(slot: &Value) -> Result<Slot> {
    let part = |key| slot.get(key).ok_or_else(|| broken("a key slot is incomplete"));
    if text_of(slot, "type")? != "luks2" {
        return Err(Error::unsupported("reading a LUKS2 key slot", "it holds no key"));
    }
    let (area, kdf, splitter) = (part("area")?, part("kdf")?, part("af")?);
    if text_of(area, "type")? != "raw" || text_of(splitter, "type")? != "luks1" {
        return Err(Error::unsupported("reading a LUKS2 key slot", "its area is of another kind"));
    }
    let derivation = match text_of(kdf, "type")? {
        "pbkdf2" => pbkdf2(kdf)?,
        kind @ ("argon2i" | "argon2id") => Derivation::Argon2 {
            algorithm: if kind == "argon2i" { Algorithm::Argon2i } else { Algorithm::Argon2id },
            time: small(kdf, "time")?,
            memory_kib: small(kdf, "memory")?,
            lanes: small(kdf, "cpus")?,
            salt: base64_of(kdf, "salt")?,
        },
        _ => return Err(Error::unsupported("reading a LUKS2 key slot", "its key derivation is unknown")),
    };
    Ok(Slot {
        derivation,
        cipher: Cipher::named(text_of(area, "encryption")?)?,
        area_key_len: small(area, "key_size")? as usize,
        area: number_of(area, "offset")?,
        hash: Hash::named(text_of(splitter, "hash")?)?,
        stripes: small(splitter, "stripes")? as usize,
        key_len: small(slot, "key_size")? as usize,
    })
}

fn pbkdf2(from: &Value) -> Result<Derivation> {
    Ok(Derivation::Pbkdf2 {
        hash: Hash::named(text_of(from, "hash")?)?,
        iterations: small(from, "iterations")?,
        salt: base64_of(from, "salt")?,
    })
}

fn section<'a>(json: &'a Value, key: &str) -> Result<&'a Map<String, Value>> {
    json.get(key).and_then(Value::as_object).ok_or_else(|| broken("a section of its JSON is missing"))
}

fn text_of<'a>(from: &'a Value, key: &str) -> Result<&'a str> {
    from.get(key).and_then(Value::as_str).ok_or_else(|| broken("a text in its JSON is missing"))
}

/// 64-bit numbers stand as text, since JSON's are not exact; others as numbers.
fn number_of(from: &Value, key: &str) -> Result<u64> {
    let value = from.get(key);
    let number = value.and_then(Value::as_u64).or_else(|| value?.as_str()?.parse().ok());
    number.ok_or_else(|| broken("a number in its JSON is missing"))
}

fn small(from: &Value, key: &str) -> Result<u32> {
    u32::try_from(number_of(from, key)?).map_err(|_| broken("a number in its JSON is too large"))
}

fn base64_of(from: &Value, key: &str) -> Result<Vec<u8>> {
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text_of(from, key)?).map_err(|_| broken("a value in its JSON is not base64"))
}
