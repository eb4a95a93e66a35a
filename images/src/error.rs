// SPDX-License-Identifier: Apache-2.0
//! One error type: a kind to match on, the context said once, the source kept apart.
//!
//! ```text
//!   capturing /dev/sda: reading group descriptor 17 at 0x11000: checksum mismatch
//!   `- outer Error ---'  `- inner Error: doing + at -----------'  `- because ----'
//! ```
//!
//! `Display` prints one link of the chain; [`Error::chain`] prints all of it, for `main` alone.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// The result of everything in this workspace that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure; the only part that callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system failed a read, write or ioctl.
    Io,
    /// Bytes from a disk or file break their format's rules (bounds, magic, loop, checksum).
    Malformed,
    /// Well-formed, but uses something that unmoor does not read or write.
    Unsupported,
    /// Content differs from the hash recorded for it.
    Mismatch,
    /// Not done because it could do harm; nothing was written. Exit status 3.
    Refused,
    /// A caller's or user's argument makes no sense. Exit status 2 from the command line.
    Usage,
    /// Stopped by a signal or by the monitor.
    Cancelled,
}

/// Kind + context (operation, path, offset) + source.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    doing: Cow<'static, str>,
    path: Option<PathBuf>,
    offset: Option<u64>,
    because: Option<Cow<'static, str>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// `doing` is a lower-case gerund phrase: "reading the GPT header".
    pub fn new(kind: ErrorKind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            doing: doing.into(),
            path: None,
            offset: None,
            because: None,
            source: None,
        }))
    }

    /// Bytes that break their format's rules.
    pub fn malformed(doing: impl Into<Cow<'static, str>>, because: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Malformed, doing).because(because)
    }

    /// A feature that is understood to exist and is not handled.
    pub fn unsupported(doing: impl Into<Cow<'static, str>>, because: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, doing).because(because)
    }

    /// A refusal: why, and what to do. Nothing was written.
    pub fn refused(doing: impl Into<Cow<'static, str>>, because: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Refused, doing).because(because)
    }

    /// An operating system error.
    pub fn io(doing: impl Into<Cow<'static, str>>, source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, doing).source(source)
    }

    /// Adds the byte offset at which it happened.
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Adds the file or device that it happened on.
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_owned());
        self
    }

    /// Adds the reason, where there is no other error that says it.
    pub fn because(mut self, because: impl Into<Cow<'static, str>>) -> Self {
        self.0.because = Some(because.into());
        self
    }

    /// Adds the cause.
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What to match on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operating system's error, from anywhere in the chain.
    pub fn io_cause(&self) -> Option<&std::io::Error> {
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return Some(io);
            }
            cause = error.source();
        }
        None
    }

    /// The whole chain as one sentence.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.doing)?;
        if let Some(path) = &self.0.path {
            write!(f, " {}", path.display())?;
        }
        if let Some(offset) = self.0.offset {
            write!(f, " at {offset:#x}")?;
        }
        if let Some(because) = &self.0.because {
            write!(f, ": {because}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Wraps a failure in what was being done.
pub trait ResultExt<T> {
    /// Adds an outer link to the chain; the kind is kept. `doing` is a gerund phrase.
    fn doing<S: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn doing<S: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::new(error.kind(), doing()).source(error))
    }
}

impl<T> ResultExt<T> for std::io::Result<T> {
    fn doing<S: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(doing(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_as_a_sentence_and_keeps_its_kind() {
        let inner: Result<()> =
            Err(Error::malformed("reading group descriptor 17", "checksum mismatch").at(0x11000));
        let outer = inner.doing(|| "capturing /dev/sda").unwrap_err();
        assert_eq!(outer.kind(), ErrorKind::Malformed);
        assert_eq!(
            outer.chain(),
            "capturing /dev/sda: reading group descriptor 17 at 0x11000: checksum mismatch"
        );
    }
}
