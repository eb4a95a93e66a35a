// SPDX-License-Identifier: Apache-2.0
//! The agent's end of the contract in [`crate::api`]: a blocking HTTPS client that goes on through lost networks and servers that
//! start again.
//!
//! ```text
//!   Identity (key, certificate, short code) --+
//!   trust: one CA, by pin or file ------------+--> Client --register, jobs/next--> Job --store/--> RemoteWriter
//!                                                    |                              `--image/--> RemoteImage
//!                                                    `--Heart (thread): heartbeat, progress, log
//! ```
//!
//! Nothing here touches a disk: what a job does is the caller's.

mod backoff;
mod heart;
mod identity;
mod log;
mod names;
mod requests;
pub mod rules;
pub mod store;
mod trust;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use reqwest::blocking::{RequestBuilder, Response};
use unmoor_images::{Error, ErrorKind, Result};

use crate::api::Problem;

pub use backoff::Patience;
pub use heart::Heart;
pub use identity::{Identity, short_code};
pub use log::Log;
pub use requests::Job;
pub use trust::{Pin, Trust};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a request may take where nothing else is said.
const REQUEST: Duration = Duration::from_secs(60);
/// Most bytes of a JSON answer.
const MOST_JSON: u64 = 256 << 20;

/// Where the server is, and what is trusted.
#[derive(Debug, Clone)]
pub struct Options {
    /// `https://HOST[:PORT]`
    pub server: String,
    /// Who the server is.
    pub trust: Trust,
}

/// A connection to one server, as one agent. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::blocking::Client,
    base: Arc<str>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Of the network, or of a server that is not ready: trying again may help.
    Passing(Error),
    /// What the server said.
    Said(Error),
    /// Of this end.
    Own(Error),
}

impl Failure {
    /// The error, for who does not try again.
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Passing(error) | Self::Said(error) | Self::Own(error) => error,
        }
    }
}

impl Client {
    /// Prepares to talk; with a pin the server's CA is fetched and compared, once. Nothing else is sent.
    ///
    /// # Errors
    ///
    /// `Refused` where the CA is not the one that the pin means, `Usage` for an address that is none, and `Io` where the CA cannot be
    /// read.
    pub fn new(options: &Options, identity: &Identity) -> Result<Self> {
        let base = base(&options.server)?;
        let authority = trust::authority(&options.trust, &base)?;
        let config = trust::config(&authority, matches!(options.trust, Trust::Pin { .. }), identity)?;
        let http = builder()
            .tls_backend_preconfigured(config)
            .build()
            .map_err(|error| Error::new(ErrorKind::Io, "preparing the connection").source(error))?;
        Ok(Self { http, base: base.into() })
    }

    /// `https://HOST:PORT`
    pub fn server(&self) -> &str {
        &self.base
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/agent/{path}", self.base)
    }
}

/// What all connections have in common.
fn builder() -> reqwest::blocking::ClientBuilder {
    reqwest::blocking::Client::builder()
        .user_agent(concat!("unmoor/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(REQUEST)
        .tcp_keepalive(Duration::from_secs(15))
        .dns_resolver(Arc::new(names::Names))
}

/// The address without a path.
fn base(server: &str) -> Result<String> {
    let usage = |because: &'static str| {
        Err(Error::new(ErrorKind::Usage, format!("reading the server's address {server:.200?}"))
            .because(because))
    };
    match reqwest::Url::parse(server) {
        Ok(url) if url.scheme() != "https" => usage("it has to begin with https://"),
        Ok(url) if url.host_str().is_none() || !matches!(url.path(), "" | "/") || url.query().is_some() => {
            usage("write https://HOST or https://HOST:PORT")
        }
        Ok(url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
        Err(_) => usage("write https://HOST or https://HOST:PORT"),
    }
}

/// Sends once, and looks at what came back.
fn send(request: RequestBuilder, doing: &str) -> std::result::Result<Response, Failure> {
    let response = request.send().map_err(|error| passing(doing, error))?;
    let status = response.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(response);
    }
    let text = body(response, doing, 1 << 20).unwrap_or_default();
    let problem: Option<Problem> = serde_json::from_slice(&text).ok();
    let (kind, because) = match problem {
        Some(problem) => (kind(&problem.kind), format!("the server says: {:.2000}", problem.message)),
        None => (ErrorKind::Io, format!("the server answers {status}")),
    };
    let error = Error::new(kind, doing.to_owned()).because(because);
    // Those that say "later": 408, 425, 429 and what a server says that starts or stops.
    Err(if matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504) {
        Failure::Passing(error)
    } else {
        Failure::Said(error)
    })
}

/// Refusals of the server's come before anything was done; a token that has ended may come in the middle.
fn kind(said: &str) -> ErrorKind {
    match said {
        "refused" => ErrorKind::Refused,
        "usage" => ErrorKind::Usage,
        _ => ErrorKind::Io,
    }
}

fn passing(doing: &str, error: reqwest::Error) -> Failure {
    // The address is said once, and a query carries nothing that helps.
    Failure::Passing(Error::new(ErrorKind::Io, doing.to_owned()).source(error.without_url()))
}

/// The answer's bytes, at most `most`.
fn body(response: Response, doing: &str, most: u64) -> std::result::Result<Vec<u8>, Failure> {
    use std::io::Read;
    let expected = response.content_length().unwrap_or(0).min(most).min(64 << 20);
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    let read = response.take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| Failure::Passing(Error::io(doing.to_owned(), error)))?;
    if bytes.len() as u64 > most {
        return Err(Failure::Own(Error::malformed(
            doing.to_owned(),
            format!("the answer has more than {most} bytes"),
        )));
    }
    Ok(bytes)
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8], doing: &str) -> std::result::Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::Own(Error::new(ErrorKind::Malformed, doing.to_owned()).source(error)))
}
