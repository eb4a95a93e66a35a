// SPDX-License-Identifier: Apache-2.0
//! As much of DER (X.690) as an Authenticode signature takes.

use unmoor_images::{Error, Result};

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BITS: u8 = 0x03;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// Context-specific and constructed, with this number.
pub(super) fn context(number: u8) -> u8 {
    0xa0 | number
}

/// A value with its tag and length.
pub(super) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    if len < 0x80 {
        out.extend(u8::try_from(len));
    } else {
        let bytes: Vec<u8> = len.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        out.extend(u8::try_from(bytes.len()).map(|count| 0x80 | count));
        out.extend(bytes);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// One value that was read.
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// With its tag and length.
    pub(super) whole: &'a [u8],
}

/// Reads the value that `bytes` begin with; returns it and what follows.
pub(super) fn read(bytes: &[u8]) -> Result<(Value<'_>, &[u8])> {
    let bad = || Error::malformed("reading a certificate", "it is no DER");
    let (tag, rest) = bytes.split_first().ok_or_else(bad)?;
    let (first, rest) = rest.split_first().ok_or_else(bad)?;
    let (len, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (raw, rest) = rest.split_at_checked(usize::from(*first & 0x7f)).ok_or_else(bad)?;
        if raw.is_empty() || raw.len() > 4 {
            return Err(bad());
        }
        (raw.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(len).ok_or_else(bad)?;
    let whole = bytes.get(..bytes.len() - rest.len()).ok_or_else(bad)?;
    Ok((Value { tag: *tag, content, whole }, rest))
}
