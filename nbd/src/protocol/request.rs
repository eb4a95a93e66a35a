// SPDX-License-Identifier: Apache-2.0
//! Requests of the transmission phase.

use unmoor_images::parse::Bytes;
use unmoor_images::{Error, Result};

use super::{Errno, MAX_PAYLOAD, REQUEST_MAGIC, command_flag};

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    BlockStatus,
    Other(u16),
}

impl From<u16> for Command {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }
}

impl Command {
    /// The flags that it may have. FUA is ignored where nothing is written: clients are known to set it everywhere.
    fn flags(self) -> u16 {
        command_flag::FUA
            | match self {
                Self::Read => command_flag::DF,
                Self::WriteZeroes => command_flag::NO_HOLE | command_flag::FAST_ZERO,
                Self::BlockStatus => command_flag::REQ_ONE,
                _ => 0,
            }
    }

    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Trim | Self::WriteZeroes)
    }
}

/// A request's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// See [`command_flag`].
    pub flags: u16,
    /// What it wants.
    pub command: Command,
    /// The client's own name for it; stands in the reply.
    pub cookie: u64,
    /// First byte of the export that it is about.
    pub offset: u64,
    /// Bytes of the export that it is about.
    pub len: u32,
}

impl Request {
    /// Length in bytes, without the payload of a write.
    pub const LEN: usize = 28;

    /// Checks the magic number; without it the connection is out of step.
    pub fn parse(raw: &[u8; Self::LEN]) -> Result<Self> {
        let bytes = Bytes::new(raw, "a request");
        if bytes.u32_be(0)? != REQUEST_MAGIC {
            return Err(Error::malformed("reading a request", "its magic number is missing"));
        }
        Ok(Self {
            flags: bytes.u16_be(4)?,
            command: bytes.u16_be(6)?.into(),
            cookie: bytes.u64_be(8)?,
            offset: bytes.u64_be(16)?,
            len: bytes.u32_be(24)?,
        })
    }

    /// Bytes of payload that follow.
    pub fn payload(&self) -> u32 {
        if self.command == Command::Write { self.len } else { 0 }
    }

    /// True if the client set `flag`.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// What is wrong with it for an export of `size` bytes ("Error values" of the specification).
    pub fn check(&self, size: u64, read_only: bool, has_context: bool) -> std::result::Result<(), Errno> {
        if self.flags & !self.command.flags() != 0 || matches!(self.command, Command::Other(_)) {
            return Err(Errno::Invalid);
        }
        if self.command == Command::Flush {
            return if self.offset == 0 && self.len == 0 { Ok(()) } else { Err(Errno::Invalid) };
        }
        if self.command.writes() && read_only {
            return Err(Errno::Perm);
        }
        if self.offset.checked_add(self.len.into()).is_none_or(|end| end > size) {
            let no_space = matches!(self.command, Command::Write | Command::WriteZeroes);
            return Err(if no_space { Errno::NoSpace } else { Errno::Invalid });
        }
        if self.command == Command::BlockStatus && (self.len == 0 || !has_context) {
            return Err(Errno::Invalid);
        }
        if matches!(self.command, Command::Read | Command::Write) && self.len > MAX_PAYLOAD {
            return Err(Errno::Invalid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_being_wrong_has_its_error_value() {
        let good = Request { flags: 0, command: Command::Read, cookie: 7, offset: 0, len: 512 };
        let check = |request: Request| request.check(1 << 30, false, true);
        assert_eq!(check(good), Ok(()));
        assert_eq!(check(Request { offset: (1 << 30) - 511, ..good }), Err(Errno::Invalid));
        assert_eq!(check(Request { offset: u64::MAX, ..good }), Err(Errno::Invalid));
        assert_eq!(check(Request { offset: 1 << 30, command: Command::Write, ..good }), Err(Errno::NoSpace));
        assert_eq!(check(Request { len: MAX_PAYLOAD + 1, ..good }), Err(Errno::Invalid));
        assert_eq!(check(Request { len: 1 << 29, command: Command::Trim, ..good }), Ok(()));
        assert_eq!(check(Request { flags: command_flag::NO_HOLE, ..good }), Err(Errno::Invalid));
        assert_eq!(check(Request { flags: command_flag::FUA, ..good }), Ok(()));
        assert_eq!(check(Request { command: Command::Other(8), ..good }), Err(Errno::Invalid));
        assert_eq!(check(Request { command: Command::Flush, ..good }), Err(Errno::Invalid));
        let write = Request { command: Command::Write, ..good };
        assert_eq!(write.check(1 << 30, true, true), Err(Errno::Perm));
        let status = Request { command: Command::BlockStatus, ..good };
        assert_eq!(status.check(1 << 30, true, false), Err(Errno::Invalid));
        assert!(Request::parse(&[0; 28]).is_err());
    }
}
