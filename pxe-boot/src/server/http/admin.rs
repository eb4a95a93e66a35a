// SPDX-License-Identifier: Apache-2.0
//! What administrators ask.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::super::{Admin, Server};
use super::{Answer, blocking, body, events, json};
use crate::api::{Approve, NewJob};

/// Most bytes of a request.
const REQUEST: usize = 1 << 20;
/// Jobs and lines where nothing is said.
const MOST: usize = 1000;

pub(super) fn router() -> Router<Arc<Server>> {
    Router::new()
        .route("/v1/machines", get(machines))
        .route("/v1/machines/{id}", get(machine).delete(forget))
        .route("/v1/machines/{id}/log", get(log))
        .route("/v1/machines/{id}/approve", post(approve))
        .route("/v1/jobs", get(jobs).post(add_job))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/retry", post(retry))
        .route("/v1/images", get(images))
        .route("/v1/events", get(events::events))
}

#[derive(Deserialize)]
struct Most {
    most: Option<usize>,
}

type Asked = State<Arc<Server>>;

async fn machines(State(server): Asked) -> Answer<Response> {
    blocking(&server, Server::machines).await.map(json)
}

async fn machine(State(server): Asked, Path(id): Path<u64>) -> Answer<Response> {
    blocking(&server, move |server| server.machine(id)).await.map(json)
}

async fn forget(State(server): Asked, Path(id): Path<u64>) -> Answer<Response> {
    blocking(&server, move |server| server.forget(id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn log(
    State(server): Asked,
    Path(id): Path<u64>,
    Query(Most { most }): Query<Most>,
) -> Answer<Response> {
    blocking(&server, move |server| server.log(id, most.unwrap_or(MOST))).await.map(json)
}

async fn approve(State(server): Asked, Path(id): Path<u64>, request: Body) -> Answer<Response> {
    let code: Approve = body(request, REQUEST).await?;
    blocking(&server, move |server| server.approve(id, &code)).await.map(json)
}

async fn jobs(State(server): Asked, Query(Most { most }): Query<Most>) -> Answer<Response> {
    blocking(&server, move |server| server.jobs(most.unwrap_or(MOST))).await.map(json)
}

async fn add_job(State(server): Asked, request: Body) -> Answer<Response> {
    let job: NewJob = body(request, REQUEST).await?;
    blocking(&server, move |server| server.add_job(&job))
        .await
        .map(|job| (StatusCode::CREATED, json(job)).into_response())
}

async fn job(State(server): Asked, Path(id): Path<u64>) -> Answer<Response> {
    blocking(&server, move |server| server.job(id)).await.map(json)
}

async fn cancel(State(server): Asked, Path(id): Path<u64>) -> Answer<Response> {
    blocking(&server, move |server| server.cancel_job(id)).await.map(json)
}

async fn retry(State(server): Asked, Path(id): Path<u64>) -> Answer<Response> {
    blocking(&server, move |server| server.retry_job(id))
        .await
        .map(|job| (StatusCode::CREATED, json(job)).into_response())
}

async fn images(State(server): Asked) -> Answer<Response> {
    blocking(&server, Server::images).await.map(json)
}
