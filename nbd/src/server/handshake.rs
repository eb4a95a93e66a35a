// SPDX-License-Identifier: Apache-2.0
//! The handshake: fixed newstyle, options until an export is chosen.

use std::io;

use unmoor_images::{Error, Result, ResultExt};

use super::Export;
use super::channel::Channel;
use crate::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, INIT_MAGIC, InfoRequest, MAX_OPTION, MAX_PAYLOAD, MetaRequest,
    OPTION_MAGIC, Opt, OptionHeader, handshake, info, option_reply, put, rep, transmission,
};

/// Most options that a client sends before it chooses an export; libnbd needs about ten.
const OPTIONS_MOST: usize = 500;
/// The block size in bytes that clients should keep to: an overlay's granule.
const PREFERRED: u32 = 4096;

/// What is to be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// The server has no certificate.
    Off,
    /// Nothing is said before TLS (FORCEDTLS of the specification).
    Wanted,
    /// This is inside TLS.
    On,
}

/// How the handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Requests follow.
    Transmission(Negotiated),
    /// TLS begins, and in it options from the start.
    StartTls,
    /// The client has what it wanted.
    Ended,
}

/// What the client chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Negotiated {
    /// Number of the export.
    pub(super) export: usize,
    /// Replies come in chunks.
    pub(super) structured: bool,
    /// BLOCK_STATUS tells of `base:allocation`.
    pub(super) context: bool,
}

/// Greets; returns whether the zeros after EXPORT_NAME may be left out.
pub(super) fn greet(channel: &dyn Channel) -> Result<bool> {
    let flags = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
    channel.write_message(&[&put![INIT_MAGIC, OPTION_MAGIC, flags]]).doing(|| "greeting the client")?;
    let mut raw = [0; 4];
    channel.read_exact(&mut raw).doing(|| "reading the client's flags")?;
    let chosen = u32::from_be_bytes(raw);
    if chosen & !u32::from(flags) != 0 {
        return Err(Error::malformed("reading the client's flags", format!("{chosen:#x} has unknown ones")));
    }
    Ok(chosen & u32::from(handshake::NO_ZEROES) != 0)
}

/// Options until the client has chosen, or leaves.
pub(super) fn haggle(
    channel: &dyn Channel,
    exports: &[Export<'_>],
    encryption: Encryption,
    no_zeroes: bool,
) -> Result<Outcome> {
    let mut haggling = Haggling { channel, exports, no_zeroes, structured: false, context: None };
    for _ in 0..OPTIONS_MOST {
        let mut raw = [0; OptionHeader::LEN];
        match channel.read_exact(&mut raw) {
            // Leaving without ABORT is not polite, but usual.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Outcome::Ended),
            other => other.doing(|| "reading an option")?,
        }
        let header = OptionHeader::parse(&raw)?;
        if header.len > MAX_OPTION {
            return Err(Error::malformed("reading an option", format!("it has {} bytes", header.len)));
        }
        let mut data = vec![0; header.len as usize];
        channel.read_exact(&mut data).doing(|| "reading an option")?;
        if let Some(outcome) = haggling.option(header.option, &data, encryption)? {
            return Ok(outcome);
        }
    }
    Err(Error::malformed("reading options", "the client sends them without end"))
}

struct Haggling<'a> {
    channel: &'a dyn Channel,
    exports: &'a [Export<'a>],
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was chosen.
    context: Option<usize>,
}

impl Haggling<'_> {
    fn option(&mut self, number: u32, data: &[u8], encryption: Encryption) -> Result<Option<Outcome>> {
        let option = match Opt::parse(number, data) {
            Ok(option) => option,
            // There is no reply to it.
            Err(error) if number == 1 => return Err(error),
            Err(error) => return self.refuse(number, rep::ERR_INVALID, &error.chain()),
        };
        match (&option, encryption) {
            (Opt::Abort, _) => {
                // The client may be gone without waiting for it.
                let _ = self.reply(number, rep::ACK, &[]);
                return Ok(Some(Outcome::Ended));
            }
            (Opt::StartTls, Encryption::Off) => {
                return self.refuse(number, rep::ERR_POLICY, "this server has no certificate");
            }
            (Opt::StartTls, Encryption::Wanted) => {
                self.reply(number, rep::ACK, &[])?;
                return Ok(Some(Outcome::StartTls));
            }
            (Opt::StartTls, Encryption::On) => {
                return self.refuse(number, rep::ERR_INVALID, "this is TLS already");
            }
            (Opt::ExportName(_), Encryption::Wanted) => {
                return Err(Error::refused("choosing an export", "the client asks for it without TLS"));
            }
            (_, Encryption::Wanted) => {
                return self.refuse(number, rep::ERR_TLS_REQD, "this server speaks TLS only");
            }
            _ => {}
        }
        match option {
            Opt::ExportName(name) => self.export_name(&name).map(Some),
            Opt::List => {
                for export in self.exports {
                    let mut data = put![export.name.len() as u32];
                    data.extend_from_slice(export.name.as_bytes());
                    data.extend_from_slice(export.description.as_bytes());
                    self.reply(number, rep::SERVER, &data)?;
                }
                self.acknowledge(number)
            }
            Opt::Info(request) => {
                self.info(number, &request)?;
                Ok(None)
            }
            Opt::Go(request) => {
                let chosen = self.info(number, &request)?;
                Ok(chosen.map(|export| self.chosen(export)))
            }
            Opt::StructuredReply => {
                self.structured = true;
                self.acknowledge(number)
            }
            Opt::ListMetaContext(request) => self.contexts(number, &request, false),
            Opt::SetMetaContext(request) => self.contexts(number, &request, true),
            // Both were dealt with above.
            Opt::Abort | Opt::StartTls | Opt::Other(_) => {
                self.refuse(number, rep::ERR_UNSUP, "this server does not know the option")
            }
        }
    }

    fn reply(&self, option: u32, kind: u32, data: &[u8]) -> Result<()> {
        self.channel.write_message(&[&option_reply(option, kind, data)]).doing(|| "answering an option")
    }

    fn acknowledge(&self, option: u32) -> Result<Option<Outcome>> {
        self.reply(option, rep::ACK, &[])?;
        Ok(None)
    }

    fn refuse(&self, option: u32, kind: u32, words: &str) -> Result<Option<Outcome>> {
        self.reply(option, kind, words.as_bytes())?;
        Ok(None)
    }

    /// By name; the empty name is the first one's.
    fn find(&self, name: &str) -> Option<usize> {
        let named = self.exports.iter().position(|export| export.name == name);
        named.or_else(|| (name.is_empty() && !self.exports.is_empty()).then_some(0))
    }

    fn chosen(&self, export: usize) -> Outcome {
        let context = self.context == Some(export);
        Outcome::Transmission(Negotiated { export, structured: self.structured, context })
    }

    fn flags(&self, export: &Export<'_>) -> u16 {
        use transmission::*;
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE;
        // All connections share one disk with one flush, so this holds for each of ours.
        flags |= CAN_MULTI_CONN;
        flags |= if self.structured { SEND_DF } else { 0 };
        flags
            | if export.disk.is_read_only() {
                READ_ONLY
            } else {
                SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO
            }
    }

    fn export_name(&self, name: &str) -> Result<Outcome> {
        let found = self.find(name).and_then(|index| Some((index, self.exports.get(index)?)));
        let Some((index, export)) = found else {
            return Err(Error::refused("choosing an export", format!("there is no export {name:?}")));
        };
        let mut data = put![export.disk.size(), self.flags(export)];
        if !self.no_zeroes {
            data.extend([0; 124]);
        }
        self.channel.write_message(&[&data]).doing(|| "describing an export")?;
        Ok(self.chosen(index))
    }

    /// Tells of an export; returns its number.
    fn info(&self, option: u32, request: &InfoRequest) -> Result<Option<usize>> {
        let found = self.find(&request.name).and_then(|index| Some((index, self.exports.get(index)?)));
        let Some((index, export)) = found else {
            self.refuse(option, rep::ERR_UNKNOWN, "there is no such export")?;
            return Ok(None);
        };
        self.reply(option, rep::INFO, &put![info::EXPORT, export.disk.size(), self.flags(export)])?;
        let text = |kind: u16, text: &str| [&kind.to_be_bytes(), text.as_bytes()].concat();
        let mut wanted = request.wanted.clone();
        wanted.sort_unstable();
        wanted.dedup();
        for kind in wanted {
            match kind {
                info::NAME => self.reply(option, rep::INFO, &text(kind, &export.name))?,
                info::DESCRIPTION => self.reply(option, rep::INFO, &text(kind, &export.description))?,
                info::BLOCK_SIZE => {
                    self.reply(option, rep::INFO, &put![kind, 1u32, PREFERRED, MAX_PAYLOAD])?;
                }
                _ => {}
            }
        }
        self.reply(option, rep::ACK, &[])?;
        Ok(Some(index))
    }

    fn contexts(&mut self, option: u32, request: &MetaRequest, set: bool) -> Result<Option<Outcome>> {
        if set {
            // Even where this fails.
            self.context = None;
        }
        if !self.structured {
            return self.refuse(option, rep::ERR_INVALID, "it needs structured replies");
        }
        let Some(export) = self.find(&request.name) else {
            return self.refuse(option, rep::ERR_UNKNOWN, "there is no such export");
        };
        let named = request.queries.iter().any(|query| query == BASE_ALLOCATION);
        let listed = request.queries.is_empty() || request.queries.iter().any(|query| query == "base:");
        if named || (!set && listed) {
            // When listed, the number means nothing.
            let id = if set { BASE_ALLOCATION_ID } else { 0 };
            let mut data = put![id];
            data.extend_from_slice(BASE_ALLOCATION.as_bytes());
            self.reply(option, rep::META_CONTEXT, &data)?;
            if set {
                self.context = Some(export);
            }
        }
        self.acknowledge(option)
    }
}
