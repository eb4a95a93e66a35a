// SPDX-License-Identifier: Apache-2.0
//! Documents as bytes, for the fuzzer: framed with a hash that is right for them, since that protects the parsers otherwise.

use serde::de::DeserializeOwned;

use super::document;
use super::image::ImageRecord;
use super::keys::KeyInfo;
use super::seal::{Kind, Seal};
use super::{Config, LeaseState, Mark, Usage, damage, moved};
use crate::Result;

/// A kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DocumentKind {
    Config,
    Key,
    Image,
    Lease,
    Mark,
    Moved,
    Damaged,
    Usage,
}

/// What a reader makes of a document's JSON.
pub fn decode_document(kind: DocumentKind, json: &[u8]) -> Result<String> {
    match kind {
        DocumentKind::Config => {
            let config: Config = decode(json)?;
            config.check().map(|()| format!("{config:?}"))
        }
        DocumentKind::Key => decode::<KeyInfo>(json)?.check(),
        DocumentKind::Image => {
            let record: ImageRecord = decode(json)?;
            record.check("an image")?;
            let roots = super::walk::roots(&record)?;
            Ok(format!("{:?} {:?} {roots:?}", record.summary, record.pack_ids()?))
        }
        DocumentKind::Lease => decode::<LeaseState>(json).map(|lease| {
            let _ = lease.is_surely_dead();
            format!("{lease:?}")
        }),
        DocumentKind::Mark => decode::<Mark>(json).map(|mark| format!("{mark:?}")),
        DocumentKind::Moved => moved::decode(&frame(json)),
        DocumentKind::Damaged => decode::<damage::Record>(json).map(|record| format!("{record:?}")),
        DocumentKind::Usage => decode::<Usage>(json).map(|usage| format!("{usage:?}")),
    }
}

fn frame(json: &[u8]) -> Vec<u8> {
    let hash = crate::manifest::hex(blake3::hash(json).as_bytes());
    [format!("{{\"blake3\":\"{hash}\",\"document\":").as_bytes(), json, b"}\n"].concat()
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    document::decode(&frame(json), &Seal::none(), Kind::Image, "a document")
}
