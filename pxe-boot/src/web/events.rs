// SPDX-License-Identifier: Apache-2.0
//! `/events`: what changed, in topics that pages name. A page that is told asks for itself again, so that what is shown live and what
//! is shown at first are one.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::sse::{Event as Sent, Sse};
use futures_util::Stream;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::Web;
use super::session::Session;
use crate::api::Event;

/// What comes within this time is told together.
const TOGETHER: Duration = Duration::from_millis(400);
/// How often something is sent though nothing happened.
const PULSE: Duration = Duration::from_secs(20);

/// `GET /events`
pub(super) async fn stream(
    State(web): State<Arc<Web>>,
    Extension(session): Extension<Session>,
) -> Sse<impl Stream<Item = Result<Sent, Infallible>>> {
    let events = web.admin.subscribe();
    let first = Some(Sent::default().comment("here"));
    let stream = futures_util::stream::unfold(
        (first, events, web, session),
        |(first, mut events, web, session)| async move {
            if let Some(first) = first {
                return Some((Ok(first), (None, events, web, session)));
            }
            let mut topics = BTreeSet::new();
            match tokio::time::timeout(PULSE, events.recv()).await {
                Ok(Ok(event)) => topics_of(&event, &mut topics),
                Ok(Err(RecvError::Lagged(_))) => everything(&mut topics),
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) => {}
            }
            if !web.sessions.lasts(&session) {
                return None;
            }
            if topics.is_empty() {
                return Some((Ok(Sent::default().comment("here")), (None, events, web, session)));
            }
            tokio::time::sleep(TOGETHER).await;
            loop {
                match events.try_recv() {
                    Ok(event) => topics_of(&event, &mut topics),
                    Err(TryRecvError::Lagged(_)) => everything(&mut topics),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            let words = topics.into_iter().collect::<Vec<_>>().join(" ");
            Some((Ok(Sent::default().event("changed").data(words)), (None, events, web, session)))
        },
    );
    Sse::new(stream)
}

fn everything(topics: &mut BTreeSet<String>) {
    topics.insert("all".to_owned());
}

fn topics_of(event: &Event, topics: &mut BTreeSet<String>) {
    match event {
        Event::Machine { machine } => {
            topics.extend(["machines".to_owned(), format!("machine-{}", machine.id)]);
        }
        Event::Job { job } => {
            topics.extend(["jobs".to_owned(), format!("job-{}", job.id)]);
            topics.extend(job.machine.map(|machine| format!("machine-{machine}")));
        }
        Event::Log { machine, .. } => {
            topics.insert(format!("log-{machine}"));
        }
        Event::Image { .. } => {
            topics.insert("images".to_owned());
        }
    }
}
