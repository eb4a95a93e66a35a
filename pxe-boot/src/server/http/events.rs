// SPDX-License-Identifier: Apache-2.0
//! Server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use tokio::sync::broadcast::error::RecvError;

use super::super::{Admin, Server, Subscription};

pub(super) async fn events(State(server): State<Arc<Server>>) -> impl IntoResponse {
    Sse::new(stream_of(server.subscribe())).keep_alive(KeepAlive::default())
}

/// What is subscribed to, as server-sent events. Where some were lost, `lagged` tells the reader to look at everything again.
pub(crate) fn stream_of(events: Subscription) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    stream::unfold(events, |mut events| async {
        let event = match events.recv().await {
            Ok(event) => Event::default().json_data(&*event).unwrap_or_default(),
            Err(RecvError::Lagged(..)) => Event::default().event("lagged").data(""),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), events))
    })
}
