// SPDX-License-Identifier: Apache-2.0
//! Signing in with the admin token, and out.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Form;
use axum::extract::{ConnectInfo, Extension, State};
use axum::http::StatusCode;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::Web;
use super::html::Html;
use super::page::{Failure, Page, Tab};
use super::session::Session;

/// `GET /login`
pub(super) async fn ask() -> Response {
    form(None)
}

fn form(wrong: Option<&'static str>) -> Response {
    let mut body = Html::default();
    body.raw("<section class='login'><h1>Sign in</h1>");
    if let Some(wrong) = wrong {
        body.fill("<p class='note bad' role='alert'>$</p>", &[&wrong]);
    }
    body.raw(
        "<form method='post' action='/login' class='fields'><label for='token'>Admin token</label>\
         <input id='token' name='token' type='password' required autocomplete='current-password' \
         aria-describedby='where' autofocus><p id='where' class='hint'>The server keeps it in <code>admin.token</code> in its state \
         directory.</p><p><button class='main'>Sign in</button></p></form></section>",
    );
    Page { tab: Tab::None, title: "Sign in".to_owned(), live: String::new(), body }.answer(None)
}

/// The form.
#[derive(Deserialize)]
pub(super) struct Token {
    token: String,
}

/// `POST /login`
pub(super) async fn enter(
    State(web): State<Arc<Web>>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Form(given): Form<Token>,
) -> Response {
    let address = peer.map(|Extension(ConnectInfo(peer))| peer.ip());
    if !web.attempts.may(address) {
        let wait = form(Some("Too many wrong tokens: wait a minute."));
        return (StatusCode::TOO_MANY_REQUESTS, wait).into_response();
    }
    if !(web.check)(given.token.trim()) {
        web.attempts.failed(address);
        return (StatusCode::UNAUTHORIZED, form(Some("This is not the admin token."))).into_response();
    }
    match web.sessions.begin() {
        Ok(cookie) => ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The form of the button.
#[derive(Deserialize)]
pub(super) struct Leaving {
    #[serde(default)]
    csrf: String,
}

/// `POST /logout`
pub(super) async fn leave(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
    Form(leaving): Form<Leaving>,
) -> Response {
    if !session.wrote(&leaving.csrf) {
        return Failure::said(StatusCode::FORBIDDEN, "this form is not of this session", &session)
            .into_response();
    }
    ([(SET_COOKIE, web.sessions.end(&session))], Redirect::to("/login")).into_response()
}
