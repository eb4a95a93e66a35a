// SPDX-License-Identifier: Apache-2.0
//! Small objects in JSON, with a hash of their own: a store's own flipped bytes are found before anything is believed.
//!
//! ```text
//!   {"blake3":"64 hex digits","document":...}          the hash is of the bytes of `...`
//!   "UNMOORSD" | version, u16 le | 0, u16 | sealed     in an encrypted store, instead
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::seal::{Kind, Seal};
use super::{config, parse_id};
use crate::manifest::hex;
use crate::parse::Bytes;
use crate::{Error, ErrorKind, Result, ResultExt};

const BEFORE: &str = "{\"blake3\":\"";
const BETWEEN: &str = "\",\"document\":";
const SEALED: &[u8; 8] = b"UNMOORSD";

/// The bytes of an object that is called `name`.
pub(super) fn encode(value: &impl Serialize, seal: &Seal, kind: Kind, name: &str) -> Result<Vec<u8>> {
    let broken = |error| Error::new(ErrorKind::Malformed, format!("writing {name}")).source(error);
    let inner = serde_json::to_vec(value).map_err(broken)?;
    if seal.is_sealed() {
        let mut out = SEALED.to_vec();
        out.extend_from_slice(&config::VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        seal.seal(kind, name.as_bytes(), &inner, &mut out)?;
        return Ok(out);
    }
    let mut out = Vec::with_capacity(inner.len() + 100);
    out.extend_from_slice(BEFORE.as_bytes());
    out.extend_from_slice(hex(blake3::hash(&inner).as_bytes()).as_bytes());
    out.extend_from_slice(BETWEEN.as_bytes());
    out.extend_from_slice(&inner);
    out.extend_from_slice(b"}\n");
    Ok(out)
}

/// What [`encode`] made.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], seal: &Seal, kind: Kind, name: &str) -> Result<T> {
    let doing = || format!("reading {name}");
    let plain;
    let inner = if seal.is_sealed() {
        let object = Bytes::new(bytes, "sealed document");
        if object.slice(0, 8).doing(doing)? != SEALED {
            return Err(Error::malformed(doing(), "it is not a sealed document"));
        }
        check_version(object.u16_le(8).doing(doing)?, object.u16_le(10).doing(doing)?).doing(doing)?;
        plain = seal.open(kind, name.as_bytes(), bytes.get(12..).unwrap_or_default()).doing(doing)?;
        &*plain
    } else {
        unframe(bytes).doing(doing)?
    };
    serde_json::from_slice(inner).map_err(|error| Error::new(ErrorKind::Malformed, doing()).source(error))
}

/// The document's own bytes, checked.
fn unframe(bytes: &[u8]) -> Result<&[u8]> {
    let broken = || Error::malformed("taking a document apart", "it does not begin and end as one");
    let rest = bytes.strip_prefix(BEFORE.as_bytes()).ok_or_else(broken)?;
    let (digits, rest) = rest.split_at_checked(64).ok_or_else(broken)?;
    let inner = rest.strip_prefix(BETWEEN.as_bytes()).ok_or_else(broken)?;
    let inner = inner.strip_suffix(b"}\n").ok_or_else(broken)?;
    let hash = parse_id(std::str::from_utf8(digits).map_err(|_| broken())?)?;
    if *blake3::hash(inner).as_bytes() != hash {
        return Err(Error::new(ErrorKind::Mismatch, "comparing a document with its hash")
            .because("it was changed, or not written whole"));
    }
    Ok(inner)
}

/// Refuses what a later version wrote.
pub(super) fn check_version(version: u16, flags: u16) -> Result<()> {
    if version != config::VERSION {
        let because =
            format!("it is of version {version}, and this unmoor reads version {}", config::VERSION);
        return Err(Error::unsupported("reading an object of a store", because));
    }
    if flags != 0 {
        let because = format!("it has flags ({flags:#x}) that this unmoor does not know: use a newer one");
        return Err(Error::unsupported("reading an object of a store", because));
    }
    Ok(())
}
