// SPDX-License-Identifier: Apache-2.0
//! Options of the handshake, as clients send them.

use unmoor_images::parse::Bytes;
use unmoor_images::{Error, Result};

use super::{MAX_STRING, OPTION_MAGIC};

/// The 16 bytes before an option's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Number of the option.
    pub option: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// Checks the magic number; without it the connection is out of step.
    pub fn parse(raw: &[u8; Self::LEN]) -> Result<Self> {
        let bytes = Bytes::new(raw, "an option's header");
        if bytes.u64_be(0)? != OPTION_MAGIC {
            return Err(Error::malformed("reading an option", "its magic number is missing"));
        }
        Ok(Self { option: bytes.u32_be(8)?, len: bytes.u32_be(12)? })
    }
}

/// What a client asks of an export with INFO or GO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest {
    /// The export.
    pub name: String,
    /// Types of facts that it wants.
    pub wanted: Vec<u16>,
}

/// What a client asks of an export's metadata contexts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest {
    /// The export.
    pub name: String,
    /// Contexts, or patterns of them.
    pub queries: Vec<String>,
}

/// An option with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opt {
    /// Use this export; there is no reply for errors.
    ExportName(String),
    /// End.
    Abort,
    /// Name the exports.
    List,
    /// Go on in TLS.
    StartTls,
    /// Tell of an export.
    Info(InfoRequest),
    /// Tell of an export and begin transmission.
    Go(InfoRequest),
    /// Replies in chunks.
    StructuredReply,
    /// Name metadata contexts.
    ListMetaContext(MetaRequest),
    /// Choose metadata contexts.
    SetMetaContext(MetaRequest),
    /// Not known here.
    Other(u32),
}

impl Opt {
    /// Takes the data of option number `option` apart.
    ///
    /// # Errors
    ///
    /// `Malformed` where the data breaks the option's format: the client gets ERR_INVALID.
    pub fn parse(option: u32, data: &[u8]) -> Result<Self> {
        match option {
            1 => Ok(Self::ExportName(text(data)?)),
            // Whatever comes with it is to be ignored.
            2 => Ok(Self::Abort),
            3 => empty(data, Self::List),
            5 => empty(data, Self::StartTls),
            6 => Ok(Self::Info(info_request(data)?)),
            7 => Ok(Self::Go(info_request(data)?)),
            8 => empty(data, Self::StructuredReply),
            9 => Ok(Self::ListMetaContext(meta_request(data)?)),
            10 => Ok(Self::SetMetaContext(meta_request(data)?)),
            other => Ok(Self::Other(other)),
        }
    }
}

fn malformed(because: &'static str) -> Error {
    Error::malformed("reading an option", because)
}

fn empty(data: &[u8], option: Opt) -> Result<Opt> {
    if data.is_empty() { Ok(option) } else { Err(malformed("it has data, and must not")) }
}

fn text(raw: &[u8]) -> Result<String> {
    if raw.len() > MAX_STRING {
        return Err(malformed("a name is longer than 4096 bytes"));
    }
    let text = std::str::from_utf8(raw).map_err(|_| malformed("a name is not UTF-8"))?;
    if text.contains('\0') { Err(malformed("a name holds a NUL")) } else { Ok(text.to_owned()) }
}

/// A string with its length before it, and what follows.
fn string<'a>(data: Bytes<'a>) -> Result<(String, Bytes<'a>)> {
    let len = data.u32_be(0)? as usize;
    let name = text(data.slice(4, len)?)?;
    let rest = data.len().saturating_sub(4).saturating_sub(len);
    Ok((name, data.sub(4 + len, rest)?))
}

fn info_request(data: &[u8]) -> Result<InfoRequest> {
    let (name, rest) = string(Bytes::new(data, "an INFO or GO option"))?;
    let count = usize::from(rest.u16_be(0)?);
    if rest.len() != 2 + 2 * count {
        return Err(malformed("its length does not fit the number of its requests"));
    }
    let wanted = (0..count).map(|index| rest.u16_be(2 + 2 * index)).collect::<Result<_>>()?;
    Ok(InfoRequest { name, wanted })
}

fn meta_request(data: &[u8]) -> Result<MetaRequest> {
    let (name, rest) = string(Bytes::new(data, "a META_CONTEXT option"))?;
    let count = rest.u32_be(0)?;
    let mut rest = rest.sub(4, rest.len() - 4)?;
    let mut queries = Vec::new();
    // Each query has at least the four bytes of its length, so that data of a bounded size has a bounded number.
    for _ in 0..count {
        let (query, after) = string(rest)?;
        queries.push(query);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(malformed("there are bytes after its last query"));
    }
    Ok(MetaRequest { name, queries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_apart_and_what_does_not_fit_is_refused() {
        let go = [&[0, 0, 0, 2][..], b"d1", &[0, 2, 0, 0, 0, 3]].concat();
        let wanted = vec![0, 3];
        assert_eq!(Opt::parse(7, &go).unwrap(), Opt::Go(InfoRequest { name: "d1".into(), wanted }));
        for cut in 0..go.len() {
            assert!(Opt::parse(7, &go[..cut]).is_err(), "cut at {cut}");
        }
        let set = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5][..], b"base:"].concat();
        let queries = vec!["base:".to_owned()];
        assert_eq!(
            Opt::parse(10, &set).unwrap(),
            Opt::SetMetaContext(MetaRequest { name: String::new(), queries })
        );
        for cut in 0..set.len() {
            assert!(Opt::parse(10, &set[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Opt::parse(10, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).is_err(), "4 G queries in no bytes");
        assert!(
            Opt::parse(3, b"x").is_err() && Opt::parse(1, b"\xff").is_err() && Opt::parse(1, b"a\0").is_err()
        );
        assert_eq!(Opt::parse(99, b"x").unwrap(), Opt::Other(99));
    }
}
