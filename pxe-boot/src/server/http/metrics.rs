// SPDX-License-Identifier: Apache-2.0
//! Numbers, as Prometheus reads them (text exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::super::Server;
use super::{Answer, blocking};
use crate::api::JobState;

/// Requests by what they were for and how they were answered.
#[derive(Default)]
pub(in super::super) struct Requests(Mutex<BTreeMap<(&'static str, u16), u64>>);

impl Requests {
    pub(super) fn count(&self, class: &'static str, status: u16) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((class, status)).or_default();
        *count = count.saturating_add(1);
    }
}

/// What a request is for.
pub(super) fn class(path: &str) -> &'static str {
    let Some(rest) = path.strip_prefix("/v1/") else {
        return if path == "/metrics" { "metrics" } else { "web" };
    };
    match rest.strip_prefix("agent/") {
        Some("register") => "register",
        Some("heartbeat") => "heartbeat",
        Some("jobs/next") => "next",
        Some(job) if job.ends_with("/done") => "done",
        Some(job) if job.contains("/store/") => "store",
        Some(_) => "image",
        None => "admin",
    }
}

pub(super) fn router() -> Router<Arc<Server>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(server): State<Arc<Server>>) -> Answer<Response> {
    let text = blocking(&server, |server| {
        let (machines, jobs) = server.state.counts()?;
        let mut text = String::new();
        family(&mut text, "unmoor_machines", "gauge", "Machines by presence.");
        for presence in ["booting", "here", "gone"] {
            let count = machines.get(presence).copied().unwrap_or(0);
            let _ = writeln!(text, "unmoor_machines{{presence=\"{presence}\"}} {count}");
        }
        family(&mut text, "unmoor_jobs", "gauge", "Jobs by state.");
        use JobState::{Cancelled, Done, Failed, Lost, Refused, Running, Waiting};
        for state in [Waiting, Running, Lost, Done, Refused, Failed, Cancelled] {
            let state = super::super::state::word(state);
            let count = jobs.get(state).copied().unwrap_or(0);
            let _ = writeln!(text, "unmoor_jobs{{state=\"{state}\"}} {count}");
        }
        family(&mut text, "unmoor_connections", "gauge", "Open connections.");
        let _ = writeln!(text, "unmoor_connections {}", server.limits.open());
        let traffic = [("received", &server.traffic.received), ("sent", &server.traffic.sent)];
        for (name, bytes) in traffic {
            let name = format!("unmoor_{name}_bytes_total");
            family(&mut text, &name, "counter", "Bytes of HTTPS connections.");
            let _ = writeln!(text, "{name} {}", bytes.load(Ordering::Relaxed));
        }
        family(&mut text, "unmoor_requests_total", "counter", "Requests by purpose and status.");
        for ((class, status), count) in
            server.requests.0.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            let _ = writeln!(text, "unmoor_requests_total{{for=\"{class}\",status=\"{status}\"}} {count}");
        }
        Ok(text)
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
