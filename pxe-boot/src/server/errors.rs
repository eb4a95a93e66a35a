// SPDX-License-Identifier: Apache-2.0
//! Failures that HTTP tells apart beyond an error's kind: what is not there, and who may not.

use std::borrow::Cow;

use unmoor_images::{Error, ErrorKind};

#[derive(Debug, Clone, Copy)]
enum Why {
    Missing,
    Denied,
    Forbidden,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "there is no such thing",
            Self::Denied => "who asks has not shown who it is",
            Self::Forbidden => "who asks may not",
        })
    }
}

impl std::error::Error for Why {}

/// There is no such machine or job.
pub fn missing(doing: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Usage, doing).source(Why::Missing)
}

/// A token or key that does not count.
pub fn denied(doing: impl Into<Cow<'static, str>>, because: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Refused, doing).because(because).source(Why::Denied)
}

/// Who asks is known, and may not do that.
pub fn forbidden(doing: impl Into<Cow<'static, str>>, because: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Refused, doing).because(because).source(Why::Forbidden)
}

/// The status (RFC 9110) and the problem's kind that say so.
pub fn status(error: &Error) -> (u16, &'static str) {
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        if let Some(why) = found.downcast_ref::<Why>() {
            return match why {
                Why::Missing => (404, "not_found"),
                Why::Denied => (401, "unauthorized"),
                Why::Forbidden => (403, "forbidden"),
            };
        }
        cause = found.source();
    }
    match error.kind() {
        ErrorKind::Usage | ErrorKind::Malformed | ErrorKind::Unsupported => (400, "usage"),
        ErrorKind::Refused => (409, "refused"),
        ErrorKind::Io | ErrorKind::Mismatch | ErrorKind::Cancelled => (500, "io"),
    }
}

/// True where there is no such machine or job.
pub fn is_missing(error: &Error) -> bool {
    status(error).0 == 404
}

/// True where a token or key does not count.
pub fn is_denied(error: &Error) -> bool {
    status(error).0 == 401
}
