// SPDX-License-Identifier: Apache-2.0
//! What is served by HTTPS, below `/v1`; the table is in [`crate::api`].

mod admin;
mod agent;
mod events;
mod metrics;
mod openapi;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use unmoor_images::{Error, ErrorKind};

use super::errors::{self, status};
use super::limits::Kind;
use super::tls::Peer;
use super::{Server, limits::Limits, store};
use crate::api::Problem;

pub(super) use metrics::Requests;
#[cfg(test)]
pub(super) use openapi::document;

/// How long a body of JSON may take to arrive.
const BODY: Duration = Duration::from_secs(30);

/// A request's failure.
pub(super) struct Failure(StatusCode, Problem);

impl Failure {
    pub(super) fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        Self(status, Problem { kind: kind.to_owned(), message: message.into() })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (status, kind) = status(&error);
        Self::new(
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            kind,
            error.chain(),
        )
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.0, axum::Json(self.1)).into_response();
        if self.0 == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

type Answer<T> = std::result::Result<T, Failure>;

/// Everything.
pub(super) fn router(server: &Arc<Server>) -> Router {
    let admin = admin::router().merge(metrics::router());
    let admin = admin.route_layer(axum::middleware::from_fn_with_state(server.clone(), administrators));
    let agent = agent::router().route_layer(axum::middleware::from_fn(agents));
    let shared = store::Limits { rate_limit: server.rate_limit, ..store::Limits::default() };
    let store = store::router(server.store.clone(), server.state.clone(), shared)
        .route_layer(axum::middleware::from_fn(agents));
    let mut router = Router::new()
        .merge(admin)
        .merge(agent)
        .merge(openapi::router())
        .route("/v1/{*rest}", axum::routing::any(nothing))
        .with_state(server.clone())
        .merge(store);
    match &server.web {
        Some(web) => router = router.merge(web(server)),
        None => router = router.fallback(nothing),
    }
    router.layer(axum::middleware::from_fn_with_state(server.clone(), guard))
}

async fn nothing() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
}

/// Every request: who shows nothing may ask a little, who shows what does not count even less.
async fn guard(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    let path = request.uri().path();
    let class = metrics::class(path);
    // A key is as good as nothing where an administrator is wanted.
    let shown = match path.starts_with("/v1/agent/") {
        true => peer.as_ref().is_some_and(|peer| peer.key.is_some()),
        false => server.is_admin(request.headers()),
    };
    let allowed = |limits: &Limits, kind| peer.as_ref().is_none_or(|peer| limits.allows(peer.address, kind));
    let too_many =
        || Failure::new(StatusCode::TOO_MANY_REQUESTS, "busy", "too many requests from this address");
    let mut response = if shown || allowed(&server.limits, Kind::Anonymous) {
        next.run(request).await
    } else {
        too_many().into_response()
    };
    if response.status() == StatusCode::UNAUTHORIZED && !allowed(&server.limits, Kind::Wrong) {
        response = too_many().into_response();
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    server.requests.count(class, response.status().as_u16());
    response
}

async fn administrators(State(server): State<Arc<Server>>, request: Request, next: Next) -> Answer<Response> {
    if server.is_admin(request.headers()) {
        return Ok(next.run(request).await);
    }
    Err(errors::denied("checking the administrator's token", "show the token of admin.token as Bearer")
        .into())
}

async fn agents(request: Request, next: Next) -> Answer<Response> {
    if request.extensions().get::<Peer>().is_some_and(|peer| peer.key.is_some()) {
        return Ok(next.run(request).await);
    }
    Err(errors::denied("checking the agent's key", "show a client certificate; it need not be signed").into())
}

impl Server {
    /// Whether the request has the administrators' token.
    fn is_admin(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|token| self.is_admin_token(token))
    }

    /// Whether `token` is the administrators'. How long that takes tells nothing of it.
    pub fn is_admin_token(&self, token: &str) -> bool {
        let (one, two) = (Sha256::digest(token.as_bytes()), Sha256::digest(self.admin_token.as_bytes()));
        one.iter().zip(two.iter()).fold(0, |differing, (one, two)| differing | (one ^ two)) == 0
    }
}

/// The token of `Authorization: Bearer` (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A body of JSON, of `most` bytes, that comes in time.
async fn body<T: DeserializeOwned>(body: Body, most: usize) -> Answer<T> {
    let bytes = match tokio::time::timeout(BODY, axum::body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            while let Some(found) = cause {
                if found.to_string().contains("length limit exceeded") {
                    let message = format!("a request has {most} bytes at most here");
                    return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "usage", message));
                }
                cause = found.source();
            }
            return Err(Failure::new(StatusCode::BAD_REQUEST, "usage", "the request ended early"));
        }
        Err(_) => {
            return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "usage", "the request came too slowly"));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::from(Error::new(ErrorKind::Usage, "reading the request's JSON").because(error.to_string()))
    })
}

fn json<T: Serialize>(value: T) -> Response {
    axum::Json(value).into_response()
}

/// Does what waits for the disk where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server) -> unmoor_images::Result<T> + Send + 'static,
) -> Answer<T> {
    let server = server.clone();
    match tokio::task::spawn_blocking(move || work(&server)).await {
        Ok(done) => done.map_err(Failure::from),
        Err(_) => {
            Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "io", "the request's work ended early"))
        }
    }
}
