// SPDX-License-Identifier: Apache-2.0
//! What all pages look like.

use std::fmt::Display;

use axum::http::StatusCode;
use axum::response::{Html as Answer, IntoResponse, Response};
use unmoor_images::Error;

use crate::server::errors;

use super::assets::VERSION;
use super::html::Html;
use super::session::Session;

/// Which of the navigation's entries a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Machines,
    Jobs,
    Images,
    None,
}

/// A page: what it is called, what it shows, and what makes it out of date (topics of [`super::events`]).
pub(super) struct Page {
    pub(super) tab: Tab,
    pub(super) title: String,
    pub(super) live: String,
    pub(super) body: Html,
}

impl Page {
    /// Complete, for who is signed in or nobody.
    pub(super) fn answer(&self, session: Option<&Session>) -> Response {
        Answer(self.text(session)).into_response()
    }

    fn text(&self, session: Option<&Session>) -> String {
        let mut html = Html::default();
        html.fill(
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>$ - unmoor</title>\
             <meta name='viewport' content='width=device-width, initial-scale=1'>\
             <meta name='color-scheme' content='light dark'>\
             <link rel='stylesheet' href='/assets/style.css?v=$'><link rel='icon' href='/assets/icon.svg?v=$'>\
             <script src='/assets/page.js?v=$' defer></script></head>\n<body>\
             <a class='skip' href='#main'>Skip to the content</a>",
            &[&self.title, &*VERSION, &*VERSION, &*VERSION],
        );
        html.raw("<header class='top'><a class='brand' href='/'>unmoor</a>");
        if let Some(session) = session {
            html.raw("<nav aria-label='Main'><ul>");
            for (tab, href, word) in [
                (Tab::Machines, "/", "Machines"),
                (Tab::Jobs, "/jobs", "Jobs"),
                (Tab::Images, "/images", "Images"),
            ] {
                html.fill("<li><a href='$'", &[&href]);
                if tab == self.tab {
                    html.raw(" aria-current='page'");
                }
                html.fill(">$</a></li>", &[&word]);
            }
            html.raw(
                "</ul></nav><span id='live' class='live' hidden></span><form method='post' action='/logout'>",
            );
            html.fill(
                "<input type='hidden' name='csrf' value='$'><button class='quiet'>Sign out</button></form>",
                &[&session.csrf],
            );
        }
        html.fill("</header>\n<main id='main' tabindex='-1' data-live='$'>\n", &[&self.live]);
        html.add(&self.body);
        html.raw("\n</main>\n<div id='said' class='away' aria-live='polite'></div></body></html>\n");
        html.into_string()
    }
}

/// A request that was not done.
pub(super) struct Failure {
    status: StatusCode,
    message: String,
    session: Option<Session>,
}

impl Failure {
    /// What the server says, to who asked.
    pub(super) fn new(error: &Error, session: &Session) -> Self {
        let (status, _) = errors::status(error);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::said(status, error.chain(), session)
    }

    /// What the page itself says.
    pub(super) fn said(status: StatusCode, message: impl Into<String>, session: &Session) -> Self {
        Self { status, message: message.into(), session: Some(session.clone()) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let heading = match self.status {
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::CONFLICT => "Refused",
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => "Not done",
            _ => "Failed",
        };
        let mut body = Html::default();
        body.fill("<h1>$</h1><p class='note bad' role='alert'>$</p>", &[&heading, &self.message]);
        body.raw("<p><a href='/'>Machines</a></p>");
        let page = Page { tab: Tab::None, title: heading.to_owned(), live: String::new(), body };
        (self.status, page.answer(self.session.as_ref())).into_response()
    }
}

/// A line of a list of facts, where there is something to say.
pub(super) fn fact(html: &mut Html, word: &'static str, value: Option<&dyn Display>) {
    if let Some(value) = value {
        html.fill("<div><dt>$</dt><dd>$</dd></div>", &[&word, value]);
    }
}

/// The same with markup in it.
pub(super) fn fact_html(html: &mut Html, word: &'static str, value: &Html) {
    html.fill("<div><dt>$</dt><dd>", &[&word]);
    html.add(value);
    html.raw("</dd></div>");
}

/// The box that filters a list.
pub(super) fn filter(action: &'static str, label: &'static str, q: &str) -> Html {
    let mut html = Html::default();
    html.fill(
        "<form class='filter' method='get' action='$' role='search' data-keep id='filter'><label for='q'>$</label>\
         <input id='q' name='q' type='search' value='$' autocomplete='off'><button>Filter</button>",
        &[&action, &label, &q],
    );
    if !q.is_empty() {
        html.fill("<a href='$'>all</a>", &[&action]);
    }
    html.raw("</form>");
    html
}

/// Whether one of the texts has all words of `q` in it, whatever their case.
pub(super) fn fits(q: &str, texts: &[&str]) -> bool {
    let all = texts.join(" ").to_lowercase();
    q.to_lowercase().split_whitespace().all(|word| all.contains(word))
}
