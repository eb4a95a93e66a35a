// SPDX-License-Identifier: Apache-2.0
//! The store's data key, wrapped by passphrases and key files: any one of them opens the store.

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::backend::{Backend, names};
use super::document;
use super::seal::{self, Kind, Seal};
use crate::{Error, ErrorKind, Result, ResultExt};

/// RFC 9106, section 4, second recommended option: 64 MiB, three passes, four lanes.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// Most that a key object may ask for.
const MOST_MEMORY_KIB: u32 = 1 << 20;
const MOST_PASSES: u32 = 64;
/// Largest and smallest key file in bytes.
const MOST_KEY_FILE: u64 = 1 << 20;
const LEAST_KEY_FILE: usize = 32;
/// Most keys that are tried; each passphrase costs a tenth of a second.
const MOST_KEYS: usize = 64;

/// What opens an encrypted store. Its memory is cleared when it is dropped.
#[derive(Clone)]
pub enum Secret {
    /// Words that somebody knows.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The content of a file of at least 32 bytes.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl Secret {
    /// Reads a key file.
    pub fn key_file(path: &Path) -> Result<Self> {
        let doing = || format!("reading the key file {}", path.display());
        if std::fs::metadata(path).doing(doing)?.len() > MOST_KEY_FILE {
            return Err(Error::malformed(doing(), "it is larger than 1 MiB"));
        }
        let bytes = Zeroizing::new(std::fs::read(path).doing(doing)?);
        if bytes.len() < LEAST_KEY_FILE {
            return Err(Error::malformed(doing(), "it has fewer than 32 bytes"));
        }
        Ok(Self::KeyFile(bytes))
    }

    fn kind(&self) -> KeyKind {
        match self {
            Self::Passphrase(_) => KeyKind::Passphrase,
            Self::KeyFile(_) => KeyKind::KeyFile,
        }
    }
}

/// How a key is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// By Argon2id from a passphrase.
    Passphrase,
    /// By BLAKE3 from a file, which nobody can guess.
    KeyFile,
}

/// One key of a store, as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its name: 16 hex digits.
    pub id: String,
    /// When it was added: RFC 3339.
    pub created: String,
    /// How it is derived.
    pub kind: KeyKind,
    /// Argon2id's numbers, for a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argon2id: Option<Costs>,
    /// Salt of the derivation, hex.
    salt: String,
    /// The data key, sealed, hex.
    wrapped: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Costs {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl KeyInfo {
    fn object(id: &str) -> String {
        format!("keys/{id}.json")
    }

    /// All of it that needs no secret, for the fuzzer.
    pub(super) fn check(&self) -> Result<String> {
        let (salt, wrapped) = (unhex(&self.salt)?, unhex(&self.wrapped)?);
        let file = Secret::KeyFile(Zeroizing::new(vec![7; LEAST_KEY_FILE]));
        let opened = seal::unwrap(&*self.wrapping(&file)?, &context("store", &self.id), &wrapped);
        Ok(format!("{} {} {:?} {salt:?} {opened:?}", self.id, self.created, self.argon2id))
    }

    fn wrapping(&self, secret: &Secret) -> Result<Zeroizing<[u8; 32]>> {
        let salt = unhex(&self.salt)?;
        match secret {
            Secret::KeyFile(bytes) => {
                let mut hasher = blake3::Hasher::new_derive_key("unmoor 2026-11-24 store key file");
                hasher.update(&(salt.len() as u64).to_le_bytes()).update(&salt).update(bytes);
                Ok(Zeroizing::new(*hasher.finalize().as_bytes()))
            }
            Secret::Passphrase(words) => {
                let doing = "deriving a key from the passphrase";
                let costs =
                    self.argon2id.ok_or_else(|| Error::malformed(doing, "its key object has no numbers"))?;
                if costs.memory_kib > MOST_MEMORY_KIB || costs.passes > MOST_PASSES || costs.lanes > 64 {
                    return Err(Error::unsupported(doing, "its key object asks for too much memory or time"));
                }
                let broken = |error: argon2::Error| Error::malformed(doing, format!("Argon2: {error}"));
                let params =
                    Params::new(costs.memory_kib, costs.passes, costs.lanes, Some(32)).map_err(broken)?;
                let mut key = Zeroizing::new([0; 32]);
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                argon2.hash_password_into(words, &salt, &mut *key).map_err(broken)?;
                Ok(key)
            }
        }
    }
}

/// What a wrapped key is bound to.
fn context(store: &str, id: &str) -> Vec<u8> {
    format!("{store}/{id}").into_bytes()
}

/// Adds a key to a store: wraps `key` by `secret`.
pub(super) fn add(
    backend: &dyn Backend,
    store: &str,
    key: &[u8; 32],
    secret: &Secret,
    created: String,
) -> Result<String> {
    if let Secret::Passphrase(words) = secret
        && words.is_empty()
    {
        return Err(Error::new(ErrorKind::Usage, "adding a key").because("the passphrase is empty"));
    }
    let (mut name, mut salt) = ([0; 8], [0; 16]);
    random(&mut name)?;
    random(&mut salt)?;
    let id = hex(&name);
    let costs = Costs { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
    let kind = secret.kind();
    let argon2id = (kind == KeyKind::Passphrase).then_some(costs);
    let mut info =
        KeyInfo { id: id.clone(), created, kind, argon2id, salt: hex(&salt), wrapped: String::new() };
    let wrapping = info.wrapping(secret)?;
    info.wrapped = hex(&seal::wrap(&wrapping, &context(store, &id), key)?);
    let object = KeyInfo::object(&id);
    backend.put(&object, &document::encode(&info, &Seal::none(), Kind::Key, &object)?)?;
    backend.barrier()?;
    Ok(id)
}

/// All keys of a store. One that cannot be read is left out: others may open the store.
pub(super) fn list(backend: &dyn Backend) -> Result<Vec<KeyInfo>> {
    let mut keys = Vec::new();
    for name in names(backend, "keys/")?.into_iter().take(MOST_KEYS) {
        let Some(bytes) = backend.get(&name, 1 << 16)? else { continue };
        if let Ok(key) = document::decode::<KeyInfo>(&bytes, &Seal::none(), Kind::Key, &name)
            && KeyInfo::object(&key.id) == name
        {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Key objects that cannot be read.
pub(super) fn unreadable(backend: &dyn Backend) -> Result<Vec<String>> {
    let readable: Vec<String> = list(backend)?.iter().map(|key| KeyInfo::object(&key.id)).collect();
    Ok(names(backend, "keys/")?.into_iter().filter(|name| !readable.contains(name)).collect())
}

/// The data key.
///
/// # Errors
///
/// `Refused` if no key of the store is made from `secret`.
pub(super) fn unlock(backend: &dyn Backend, store: &str, secret: &Secret) -> Result<Zeroizing<[u8; 32]>> {
    let keys = list(backend)?;
    let mut tried = 0;
    for info in keys.iter().filter(|info| info.kind == secret.kind()) {
        tried += 1;
        let wrapping = info.wrapping(secret)?;
        let wrapped = unhex(&info.wrapped)?;
        if let Some(key) = seal::unwrap(&wrapping, &context(store, &info.id), &wrapped) {
            return Ok(Zeroizing::new(key));
        }
    }
    let what = if secret.kind() == KeyKind::Passphrase { "passphrase" } else { "key file" };
    let because = match tried {
        0 => format!("none of its {} keys is a {what}", keys.len()),
        1 => format!("wrong {what}"),
        more => format!("wrong {what}: none of its {more} {what}s is this one"),
    };
    Err(Error::refused("opening the encrypted store", because))
}

/// Removes a key. The last one is refused: nothing could be read any more.
pub(super) fn remove(backend: &dyn Backend, id: &str) -> Result<()> {
    let keys = list(backend)?;
    if !keys.iter().any(|key| key.id == id) {
        let known: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
        return Err(Error::refused(
            "removing a key",
            format!("there is no key {id:.40}; there are {}", known.join(", ")),
        ));
    }
    if keys.len() == 1 {
        return Err(Error::refused("removing a key", "it is the last one: add another first"));
    }
    backend.delete(&KeyInfo::object(id))?;
    backend.barrier()
}

/// Fills `bytes` from the kernel's generator.
pub(super) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::io("asking the kernel for random bytes", error.into()))
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let broken = || Error::malformed("reading a key object", "a field is not hex digits");
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || digits.len() > 1024 {
        return Err(broken());
    }
    let value = |byte: u8| (byte as char).to_digit(16);
    digits
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some((value(*high)? << 4 | value(*low)?) as u8),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(broken)
}
