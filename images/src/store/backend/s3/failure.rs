// SPDX-License-Identifier: Apache-2.0
//! What went wrong with a request, whether it can pass, and what to do about it.
//!
//! The crate keeps the type of a server's answer to itself and prints it: `... status code: 403 Forbidden: <Error>...`. Its text
//! is all there is to go by; error codes are those of "Error responses" in the Amazon S3 API reference, which other servers share.

use std::error::Error as _;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use crate::{Error, ErrorKind};

pub(super) const NO_CREDENTIALS: &str = "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
     AWS_PROFILE for a profile of ~/.aws/credentials; this machine has no role of its own that could be asked";

/// A request that failed for good.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: Why,
    /// Attempts that failed before the last.
    pub(super) tries: u32,
    /// Since the first of them began.
    pub(super) elapsed: Duration,
}

#[derive(Debug)]
pub(super) enum Why {
    Error(object_store::Error),
    /// The last attempt was given up after so long.
    Timeout(Duration),
}

/// An answer that ended early.
pub(super) fn short(wanted: u64, found: u64) -> object_store::Error {
    let source = format!("the answer ended after {found} of {wanted} bytes").into();
    object_store::Error::Generic { store: "S3", source }
}

/// The whole chain; links repeat what is below them.
fn text(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let link = error.to_string();
        if !text.contains(&link) {
            text.push_str(": ");
            text.push_str(&link);
        }
        cause = error.source();
    }
    text
}

/// What stands between `<name>` and its end.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(inside, _)| inside.trim())
}

impl Failure {
    fn text(&self) -> String {
        match &self.why {
            Why::Error(error) => text(error),
            Why::Timeout(limit) => format!("there was no answer within {} s", limit.as_secs()),
        }
    }

    /// The status of the server's answer, if there was one.
    pub(super) fn status(&self) -> Option<u16> {
        let text = self.text();
        let (_, rest) = text.split_once("status code: ")?;
        rest.get(..3)?.parse().ok()
    }

    /// True if the server gave this error code.
    pub(super) fn has(&self, code: &str) -> bool {
        element(&self.text(), "Code") == Some(code)
    }

    /// True if the server answered at all.
    pub(super) fn is_answer(&self) -> bool {
        self.status().is_some() || self.text().contains("<Code>")
    }

    /// True if there is no such object, in a bucket that there is.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.why, Why::Error(object_store::Error::NotFound { .. }))
            && !self.has("NoSuchBucket")
            && !self.has("NoSuchUpload")
    }

    /// True if a condition was not met.
    pub(super) fn already_exists(&self) -> bool {
        use object_store::Error::{AlreadyExists, NotModified, Precondition};
        matches!(self.why, Why::Error(AlreadyExists { .. } | Precondition { .. } | NotModified { .. }))
    }

    /// True if the same request will get the same answer.
    pub(super) fn is_final(&self) -> bool {
        let error = match &self.why {
            Why::Timeout(_) => return false,
            Why::Error(error) => error,
        };
        if !matches!(error, object_store::Error::Generic { .. }) {
            return true;
        }
        if let Some(status) = self.status() {
            // What a slow line, or too many at once, bring about.
            let passing = [408, 429].contains(&status) || self.has("RequestTimeout") || self.has("SlowDown");
            return !passing && (status < 500 || status == 501);
        }
        let text = self.text();
        let hopeless = ["redirect", "certificate", "builder error", "invalid URL", "Invalid URI"];
        hopeless.iter().any(|word| text.contains(word)) || transport(error) == Some(HttpErrorKind::Decode)
    }

    /// The error that people see.
    pub(super) fn explain(self, doing: String, bucket: &str, endpoint: &str) -> Error {
        let text = self.text();
        let code = element(&text, "Code").unwrap_or_default().to_owned();
        let advice = advice(&code, &text, bucket, endpoint);
        let said = match element(&text, "Message") {
            Some(message) if !code.is_empty() => format!("the server says {code}: {message:.300}"),
            _ if !code.is_empty() => format!("the server says {code}"),
            _ => said(&self),
        };
        let tried = match self.tries {
            0 => String::new(),
            tries => format!(", after {} attempts in {} s", tries + 1, self.elapsed.as_secs()),
        };
        let because = match advice {
            Some(advice) => format!("{advice} ({said}{tried})"),
            None => format!("{said}{tried}"),
        };
        Error::new(ErrorKind::Io, doing).because(because)
    }
}

fn transport(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        cause = error.source();
    }
    None
}

/// The innermost cause, which is what people can do something about.
fn said(failure: &Failure) -> String {
    let Why::Error(error) = &failure.why else { return failure.text() };
    if let Some(status) = failure.status() {
        return format!("the server answers with status {status}");
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    format!("{deepest:.300}")
}

/// What to do, by the server's error code.
fn advice(code: &str, text: &str, bucket: &str, endpoint: &str) -> Option<String> {
    let advice = match code {
        "NoSuchBucket" => format!("there is no bucket {bucket} at {endpoint}: make it, or correct its name"),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => format!(
            "access to the bucket {bucket} is denied: the credentials need s3:ListBucket on it, and s3:GetObject, s3:PutObject and \
             s3:DeleteObject on its objects"
        ),
        "InvalidAccessKeyId" => {
            format!("the access key is not known at {endpoint}: check AWS_ACCESS_KEY_ID, or the profile")
        }
        "SignatureDoesNotMatch" => {
            "the secret key is wrong: check AWS_SECRET_ACCESS_KEY, or the profile".to_owned()
        }
        "RequestTimeTooSkewed" | "RequestExpired" => {
            "the clock of this machine is wrong, and requests carry the time: set it".to_owned()
        }
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            "the session token has expired: get new credentials".to_owned()
        }
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "IllegalLocationConstraintException"
        | "TemporaryRedirect" => wrong_region(bucket, text),
        "SlowDown" | "ServiceUnavailable" | "Busy" => format!("{endpoint} is overloaded: try again later"),
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" => {
            format!(
                "there is no room left in the bucket {bucket}: remove images and prune, or raise its quota"
            )
        }
        _ if text.contains("redirect") => wrong_region(bucket, text),
        _ if text.contains("certificate") => format!(
            "the certificate of {endpoint} is not trusted: name the authority's certificate with AWS_CA_BUNDLE=FILE"
        ),
        _ if ["error trying to connect", "dns error", "Connection refused"]
            .iter()
            .any(|what| text.contains(what)) =>
        {
            format!("{endpoint} cannot be reached: check AWS_ENDPOINT_URL and the network")
        }
        _ => return None,
    };
    Some(advice)
}

fn wrong_region(bucket: &str, text: &str) -> String {
    // "the region 'us-east-1' is wrong; expecting 'eu-central-1'"
    let named = element(text, "Region")
        .or_else(|| text.split_once("expecting '").and_then(|(_, rest)| rest.split('\'').next()))
        .filter(|region| !region.is_empty() && region.len() < 40);
    match named {
        Some(region) => format!("the bucket {bucket} is in another region: set AWS_REGION={region}"),
        None => format!("the bucket {bucket} is in another region: set AWS_REGION"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str, body: &str) -> Failure {
        let source = format!(
            "Error performing GET https://s3.example/b/x in 3ms - Server returned non-2xx status code: {status}: {body}"
        );
        let error = object_store::Error::Generic { store: "S3", source: source.into() };
        Failure { why: Why::Error(error), tries: 0, elapsed: Duration::ZERO }
    }

    fn explained(status: &str, body: &str) -> String {
        answer(status, body).explain("reading s3://b/x".into(), "b", "https://s3.example").chain()
    }

    #[test]
    fn errors_say_what_to_do() {
        let denied =
            explained("403 Forbidden", "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>");
        assert_eq!(
            denied,
            "reading s3://b/x: access to the bucket b is denied: the credentials need s3:ListBucket on it, and s3:GetObject, \
             s3:PutObject and s3:DeleteObject on its objects (the server says AccessDenied: No.)"
        );
        let region = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; expecting \
                      'eu-central-1'</Message><Region>eu-central-1</Region></Error>";
        assert!(explained("400 Bad Request", region).contains("set AWS_REGION=eu-central-1"));
        let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>";
        assert!(explained("403 Forbidden", skewed).contains("clock of this machine is wrong"));
        assert!(
            explained("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>").contains("no bucket b at")
        );
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        for (status, code, passes) in [
            ("500 Internal Server Error", "InternalError", true),
            ("503 Slow Down", "SlowDown", true),
            ("502 Bad Gateway", "", true),
            ("429 Too Many Requests", "", true),
            ("400 Bad Request", "RequestTimeout", true),
            ("400 Bad Request", "InvalidArgument", false),
            ("403 Forbidden", "SignatureDoesNotMatch", false),
            ("501 Not Implemented", "NotImplemented", false),
        ] {
            let failure = answer(status, &format!("<Error><Code>{code}</Code></Error>"));
            assert_eq!(!failure.is_final(), passes, "{status} {code}");
        }
        let cut = Failure { why: Why::Error(short(10, 3)), tries: 0, elapsed: Duration::ZERO };
        assert!(!cut.is_final() && !cut.is_answer());
    }
}
