// SPDX-License-Identifier: Apache-2.0
//! What agents ask. A request that waits for a job costs a connection, not a thread.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::limits::Kind;
use super::super::state::{self, Key};
use super::super::tls::Peer;
use super::super::{Server, errors};
use super::{Answer, Failure, bearer, blocking, body, json};
use crate::api::{Done, Heartbeat, Register};

/// Most bytes of a registration: thousands of PCI functions, and what is on many disks.
const REGISTER: usize = 8 << 20;
/// Of a heartbeat: 500 lines of 4 KiB, as JSON.
const HEARTBEAT: usize = 8 << 20;
/// Of a job's end: what a command printed.
const DONE: usize = 16 << 20;
/// Most bytes that are sent to tell a rate, and how many at a time.
const PROBE: u64 = 64 << 20;
const PIECE: usize = 64 << 10;
/// The longest that an agent may wait for a job.
const WAIT: u64 = 60;
/// Between two looks for an agent that has not registered.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn router() -> Router<Arc<Server>> {
    Router::new()
        .route("/v1/agent/register", post(register))
        .route("/v1/agent/probe", get(probe))
        .route("/v1/agent/heartbeat", post(heartbeat))
        .route("/v1/agent/jobs/next", get(next))
        .route("/v1/agent/jobs/{job}/done", post(done))
}

fn key(peer: &Peer) -> Answer<(Key, Arc<str>)> {
    let (key, code) =
        peer.key.clone().ok_or_else(|| errors::denied("checking the agent's key", "there is none"))?;
    Ok((key.0, code))
}

async fn register(
    State(server): State<Arc<Server>>,
    Extension(peer): Extension<Peer>,
    request: Body,
) -> Answer<Response> {
    let (key, code) = key(&peer)?;
    let known = blocking(&server, move |server| server.state.knows(&key)).await?;
    if !known && !server.limits.allows(peer.address, Kind::Stranger) {
        return Err(Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "busy",
            "too many new keys from this address",
        ));
    }
    let register: Register = body(request, REGISTER).await?;
    let address = Some(peer.address);
    blocking(&server, move |server| server.state.register(&key, &code, address, &register)).await.map(json)
}

async fn heartbeat(
    State(server): State<Arc<Server>>,
    Extension(peer): Extension<Peer>,
    request: Body,
) -> Answer<Response> {
    let (key, _) = key(&peer)?;
    let beat: Heartbeat = body(request, HEARTBEAT).await?;
    let address = Some(peer.address);
    blocking(&server, move |server| server.state.heartbeat(&key, address, &beat)).await.map(json)
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    bytes: u64,
}

/// Zeros, for who wants to know how fast they come.
async fn probe(Query(Probe { bytes }): Query<Probe>) -> Response {
    let piece = bytes::Bytes::from_static(&[0; PIECE]);
    let pieces = bytes.min(PROBE) / PIECE as u64;
    let zeros =
        futures_util::stream::iter(0..pieces).map(move |_| Ok::<_, std::convert::Infallible>(piece.clone()));
    Body::from_stream(zeros).into_response()
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default)]
    wait: u64,
}

async fn next(
    State(server): State<Arc<Server>>,
    Extension(peer): Extension<Peer>,
    Query(Wait { wait }): Query<Wait>,
) -> Answer<Response> {
    let (key, _) = key(&peer)?;
    let address = Some(peer.address);
    let end = Instant::now() + Duration::from_secs(wait.min(WAIT));
    let mut asked = blocking(&server, move |server| server.state.ask(&key, address)).await?;
    let mut last: Option<Arc<Notify>> = None;
    loop {
        match blocking(&server, move |server| server.state.next(&key, asked)).await? {
            state::Next::Job(assignment) => return Ok(json(assignment)),
            state::Next::Pin(job, image) => {
                blocking(&server, move |server| server.state.pin(job, &image)).await?;
                continue;
            }
            state::Next::Superseded => {
                // What woke this one was meant for the other.
                if let Some(wake) = last {
                    wake.notify_one();
                }
                break;
            }
            state::Next::Unknown => {
                let look = end.min(Instant::now() + LOOK);
                tokio::time::sleep_until(look).await;
                asked = blocking(&server, move |server| server.state.ask(&key, address)).await?;
            }
            state::Next::Wait(wake) => {
                let _ = tokio::time::timeout_at(end, wake.notified()).await;
                last = Some(wake);
            }
        }
        if Instant::now() >= end || server.is_stopping() {
            break;
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn done(
    State(server): State<Arc<Server>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    request: Body,
) -> Answer<Response> {
    let (key, _) = key(&peer)?;
    let Some(token) = bearer(&headers).map(str::to_owned) else {
        return Err(errors::denied("checking a job's token", "there is none").into());
    };
    let done: Done = body(request, DONE).await?;
    blocking(&server, move |server| server.state.done(&key, &token, id, &done)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
