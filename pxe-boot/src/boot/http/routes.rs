// SPDX-License-Identifier: Apache-2.0
//! What is answered.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use unmoor_images::Result;

use super::range::{Part, matches, part};
use super::server::Teller;
use crate::boot::choice::Asker;
use crate::boot::question::Question;
use crate::boot::starter::Starter;
use crate::tftp::Opened;

/// Bytes that are read at once.
const PIECE: u64 = 256 << 10;

#[derive(Clone)]
struct Context {
    starter: Arc<Starter>,
    tell: Teller,
}

/// All of it. Requests carry the client's address as `ConnectInfo`.
pub(super) fn router(starter: Arc<Starter>, tell: Teller) -> Router {
    Router::new()
        .route("/ca.pem", get(ca))
        .route("/boot/ipxe", get(ipxe))
        .route("/boot/grub", get(grub))
        .route("/boot/{name}", get(file))
        .route("/grub/grub.cfg", get(grub_first))
        .route("/boot/grub/grub.cfg", get(grub_first))
        .with_state(Context { starter, tell })
}

async fn ca(State(context): State<Context>) -> Response {
    let pem = context.starter.settings().ca_pem.clone();
    ([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response()
}

async fn ipxe(state: State<Context>, from: ConnectInfo<SocketAddr>, question: Query<Question>) -> Response {
    menu(state, from, question, Starter::ipxe, "iPXE").await
}

async fn grub(state: State<Context>, from: ConnectInfo<SocketAddr>, question: Query<Question>) -> Response {
    menu(state, from, question, Starter::grub, "GRUB").await
}

async fn menu(
    State(context): State<Context>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Query(question): Query<Question>,
    write: fn(&Starter, &Asker) -> Result<String>,
    kind: &str,
) -> Response {
    let asker = question.asker(from.ip());
    let name = asker.mac.clone().or_else(|| asker.uuid.clone()).unwrap_or_default();
    let starter = Arc::clone(&context.starter);
    // The state is a database.
    let written = tokio::task::spawn_blocking(move || write(&starter, &asker)).await;
    match written {
        Ok(Ok(text)) => {
            context.tell.note(format!("{from} {name}: menu for {kind}"));
            // Who asks again gets a new answer.
            ([(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")], text)
                .into_response()
        }
        Ok(Err(error)) => {
            context.tell.warn(format!("{from} {name}: {}", error.chain()));
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn grub_first(State(context): State<Context>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain")], context.starter.grub_first()).into_response()
}

async fn file(
    State(context): State<Context>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let starter = Arc::clone(&context.starter);
    let wanted = name.clone();
    let opened = tokio::task::spawn_blocking(move || starter.shelf().read(&wanted)).await;
    let opened = match opened {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None)) => {
            context.tell.note(format!("{from}: {name:.100?} is not there"));
            return StatusCode::NOT_FOUND.into_response();
        }
        Ok(Err(error)) => {
            context.tell.warn(format!("{from}: {}", error.chain()));
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let answer = answer(opened, &name, method == Method::HEAD, &headers);
    if method != Method::HEAD {
        context.tell.note(format!("{from}: {name}, {}", answer.status()));
    }
    answer
}

/// A file, or the part of it that the headers ask for.
fn answer(opened: Opened, name: &str, head: bool, headers: &HeaderMap) -> Response {
    let size = opened.size();
    let tag = tag(&opened);
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = if name.ends_with(".efi") { "application/efi" } else { "application/octet-stream" };
    let builder = Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, &tag);
    if text(header::IF_NONE_MATCH).is_some_and(|value| matches(value, &tag)) {
        return built(builder.status(StatusCode::NOT_MODIFIED).body(Body::empty()));
    }
    // With another tag than the file's, the client has a part of another file.
    let same = text(header::IF_RANGE).is_none_or(|value| value.trim() == tag);
    let wanted = text(header::RANGE).filter(|_| same).map_or(Part::Whole, |value| part(value, size));
    let (status, range) = match wanted {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Bytes(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Outside => {
            let builder = builder.status(StatusCode::RANGE_NOT_SATISFIABLE);
            let builder = builder.header(header::CONTENT_RANGE, format!("bytes */{size}"));
            return built(builder.body(Body::empty()));
        }
    };
    let mut builder =
        builder.status(status).header(header::CONTENT_LENGTH, range.end.saturating_sub(range.start));
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        builder = builder.header(header::CONTENT_RANGE, format!("bytes {}-{last}/{size}", range.start));
    }
    let body = if head { Body::empty() } else { stream(opened, range) };
    built(builder.body(body))
}

fn built(response: std::result::Result<Response, axum::http::Error>) -> Response {
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Another one for every content: files are replaced whole.
fn tag(opened: &Opened) -> String {
    let Opened::File(file, size) = opened else { return format!("\"{}\"", opened.size()) };
    match file.metadata() {
        Ok(facts) => format!("\"{:x}-{size:x}-{:x}.{:x}\"", facts.ino(), facts.mtime(), facts.mtime_nsec()),
        Err(_) => format!("\"{size:x}\""),
    }
}

/// Bytes of the file, a piece after the other as the client takes them.
fn stream(opened: Opened, range: std::ops::Range<u64>) -> Body {
    let state = (Arc::new(opened), range);
    Body::from_stream(futures_util::stream::unfold(state, |(opened, mut range)| async move {
        if range.is_empty() {
            return None;
        }
        let (start, count) = (range.start, range.end.saturating_sub(range.start).min(PIECE));
        let file = Arc::clone(&opened);
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; usize::try_from(count).unwrap_or_default()];
            file.read_at(&mut piece, start).map(|()| Bytes::from(piece))
        });
        let read = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        // After an error nothing more comes: the connection is cut, so that the client does not take it for whole.
        range.start = if read.is_ok() { start.saturating_add(count) } else { range.end };
        Some((read, (opened, range)))
    }))
}
