// SPDX-License-Identifier: Apache-2.0
//! Failures as HTTP has them.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use unmoor_images::{Error, ErrorKind};

use crate::api::Problem;

/// What comes of a request.
pub(super) type Answer = std::result::Result<Response, Failed>;

/// Why a request was not done.
#[derive(Debug)]
pub(super) struct Failed {
    status: StatusCode,
    problem: Problem,
}

impl Failed {
    pub(super) fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        Self { status, problem: Problem { kind: kind.to_owned(), message: message.into() } }
    }

    /// Nothing shows who asks.
    pub(super) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// Who asks may not.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// What the peer has sent is wrong, and would be again.
    pub(super) fn sent(error: &Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "usage", error.chain())
    }

    /// What the store has to say. Failures of reading and writing may pass, so the agent tries them again (500); others would
    /// come again.
    pub(super) fn store(error: &Error) -> Self {
        let (status, kind) = match error.kind() {
            ErrorKind::Io => (StatusCode::INTERNAL_SERVER_ERROR, "io"),
            ErrorKind::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            ErrorKind::Refused => (StatusCode::CONFLICT, "refused"),
            ErrorKind::Usage => (StatusCode::BAD_REQUEST, "usage"),
            ErrorKind::Malformed | ErrorKind::Unsupported | ErrorKind::Mismatch => {
                (StatusCode::CONFLICT, "io")
            }
        };
        Self::new(status, kind, error.chain())
    }
}

/// What came of a body is the peer's; all else is the store's.
impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Malformed => Self::sent(&error),
            _ => Self::store(&error),
        }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self.problem)).into_response()
    }
}

/// Bytes.
pub(super) fn bytes(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}
