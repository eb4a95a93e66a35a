// SPDX-License-Identifier: Apache-2.0
//! What stands before all pages: who is signed in, and what browsers are told.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderValue, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use super::Web;

/// Nothing from elsewhere, nothing inline, no framing.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'";

/// Lets through who has a session, which handlers find among the request's extensions.
pub(super) async fn signed_in(State(web): State<Arc<Web>>, mut request: Request, next: Next) -> Response {
    let Some(session) = web.sessions.of(request.headers()) else {
        // A script that asks for events is told so; a person is shown where to go.
        return if request.uri().path() == "/events" {
            StatusCode::UNAUTHORIZED.into_response()
        } else {
            Redirect::to("/login").into_response()
        };
    };
    request.extensions_mut().insert(session);
    next.run(request).await
}

/// What every answer carries; and a form that another site sent is turned away whatever it carries.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    if request.method() == Method::POST && foreign(request.headers()) {
        return (StatusCode::FORBIDDEN, "this form is not of this page\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // With no-referrer browsers send `Origin: null` with forms, which would tell nothing.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether the browser says that a form comes from elsewhere.
fn foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(origin) = text(ORIGIN) else { return false };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_none() || text(HOST).is_some_and(|host| authority != Some(host))
}
