// SPDX-License-Identifier: Apache-2.0
//! Messages (RFC 1350 section 5) and options.

use unmoor_images::parse::Bytes;
use unmoor_images::{Error, Result};

/// Bytes of a block that nobody negotiated.
pub(super) const BLOCK: u16 = 512;
/// Longest name and option that is read.
const LONGEST: usize = 1024;

/// What went wrong (RFC 1350 appendix, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Something that only text tells.
    Other = 0,
    /// There is no such file.
    NotFound = 1,
    /// It may not be read or written.
    Forbidden = 2,
    /// The message makes no sense.
    Illegal = 4,
    /// No transfer has that port.
    UnknownTransfer = 5,
    /// The options are not to be had.
    Options = 8,
}

/// What a transfer is made with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a block, 8 to 65464.
    pub block: Option<u16>,
    /// The client wants to know the file's size.
    pub size: bool,
    /// Seconds before something is sent again, 1 to 255.
    pub timeout: Option<u8>,
    /// Blocks that are sent before an answer is waited for.
    pub window: Option<u16>,
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Wants to read.
    Read {
        /// The file.
        name: String,
        /// What it would like.
        options: Options,
    },
    /// Wants to write.
    Write,
    /// Has everything up to this block.
    Ack(u16),
    /// Gives up.
    Error {
        /// Its number, which may be none that is known.
        code: u16,
        /// For people.
        text: String,
    },
}

impl Packet {
    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// `Malformed` where it is no message that a client sends.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let bytes = Bytes::new(data, "TFTP message");
        match bytes.u16_be(0)? {
            1 => {
                let mut rest = data.get(2..).unwrap_or_default();
                let name = string(&mut rest)?;
                let mode = string(&mut rest)?.to_ascii_lowercase();
                // What is not text has no lines whose ends could be changed.
                if !matches!(mode.as_str(), "octet" | "netascii" | "binary") {
                    return Err(malformed(format!("its mode is {mode:.40?}")));
                }
                let mut options = Options::default();
                while !rest.is_empty() {
                    let (Ok(key), Ok(value)) = (string(&mut rest), string(&mut rest)) else { break };
                    options.set(&key.to_ascii_lowercase(), &value);
                }
                Ok(Self::Read { name, options })
            }
            2 => Ok(Self::Write),
            4 => Ok(Self::Ack(bytes.u16_be(2)?)),
            5 => {
                let text = data.get(4..).unwrap_or_default();
                let text = unmoor_images::parse::c_text(text.get(..LONGEST).unwrap_or(text));
                Ok(Self::Error { code: bytes.u16_be(2)?, text })
            }
            other => Err(malformed(format!("its operation is {other}"))),
        }
    }
}

impl Options {
    /// An option that is not known, or makes no sense, counts as not asked for (RFC 2347).
    fn set(&mut self, key: &str, value: &str) {
        match key {
            "blksize" => {
                self.block = value.parse().ok().filter(|size: &u16| *size >= 8).map(|size| size.min(65464));
            }
            "tsize" => self.size = true,
            "timeout" => self.timeout = value.parse().ok().filter(|seconds| *seconds > 0),
            "windowsize" => self.window = value.parse().ok().filter(|blocks| *blocks > 0),
            _ => {}
        }
    }

    /// True if nothing was asked for.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The acknowledgement of what was asked for, as it is granted.
    pub(super) fn acknowledge(&self, size: u64) -> Vec<u8> {
        let mut data = vec![0, 6];
        let mut add = |key: &str, value: u64| {
            data.extend(key.as_bytes());
            data.push(0);
            data.extend(value.to_string().as_bytes());
            data.push(0);
        };
        if let Some(block) = self.block {
            add("blksize", block.into());
        }
        if self.size {
            add("tsize", size);
        }
        if let Some(seconds) = self.timeout {
            add("timeout", seconds.into());
        }
        if let Some(blocks) = self.window {
            add("windowsize", blocks.into());
        }
        data
    }
}

/// The message that a transfer does not go on.
pub(super) fn error(problem: Problem, text: &str) -> Vec<u8> {
    let mut data = vec![0, 5];
    data.extend((problem as u16).to_be_bytes());
    data.extend(text.bytes().filter(|byte| *byte != 0));
    data.push(0);
    data
}

fn malformed(because: String) -> Error {
    Error::malformed("reading a TFTP message", because)
}

/// Text up to the next NUL.
fn string(rest: &mut &[u8]) -> Result<String> {
    let end = rest.iter().take(LONGEST).position(|byte| *byte == 0);
    let end = end.ok_or_else(|| malformed("a text in it has no end".to_owned()))?;
    let (text, later) = rest.split_at(end);
    *rest = later.get(1..).unwrap_or_default();
    String::from_utf8(text.to_vec()).map_err(|_| malformed("a text in it is not UTF-8".to_owned()))
}
