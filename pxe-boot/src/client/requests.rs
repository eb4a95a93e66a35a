// SPDX-License-Identifier: Apache-2.0
//! The requests of an agent, as the table in [`crate::api`] has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::blocking::RequestBuilder;
use serde::Serialize;
use serde::de::DeserializeOwned;
use unmoor_images::{Error, ErrorKind, Result};

use super::backoff::{Patience, persist};
use super::{Client, Failure, MOST_JSON, body, json, send};
use crate::api::{Assignment, Done, Heartbeat, Orders, Register, Registered};

/// How long the server may hold back its answer where there is no job.
const WAIT: Duration = Duration::from_secs(25);

impl Client {
    /// Tells the server of this agent, as long as it takes; `failed` hears why it takes long.
    pub fn register(
        &self,
        register: &Register,
        given_up: &dyn Fn() -> bool,
        failed: &dyn Fn(&Error),
    ) -> Result<Registered> {
        const DOING: &str = "registering with the server";
        persist(Patience::Forever, given_up, failed, || {
            let answered: std::result::Result<Registered, Failure> =
                post(self.http.post(self.url("register")), register, DOING);
            match answered {
                // Whatever a server has against this agent, an administrator can change; a machine that waits must not end by it.
                Err(Failure::Said(error)) => Err(Failure::Passing(error)),
                other => other,
            }
        })
        .map_err(Failure::error)
    }

    /// Says once that this agent lives.
    pub fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Orders> {
        let request = self.http.post(self.url("heartbeat")).timeout(Duration::from_secs(20));
        post(request, heartbeat, "telling the server of this agent").map_err(Failure::error)
    }

    /// The next job, if there is one within half a minute. None, too, where the server does not know this agent any more: the
    /// heartbeat registers it again.
    pub fn next_job(
        &self,
        given_up: &dyn Fn() -> bool,
        failed: &dyn Fn(&Error),
    ) -> Result<Option<Assignment>> {
        const DOING: &str = "asking the server for a job";
        let url = format!("{}?wait={}", self.url("jobs/next"), WAIT.as_secs());
        persist(Patience::Forever, given_up, failed, || {
            let request = self.http.get(&url).timeout(WAIT + Duration::from_secs(15));
            let response = match send(request, DOING) {
                Err(Failure::Said(error)) => return Err(Failure::Passing(error)),
                other => other?,
            };
            if response.status().as_u16() == 204 {
                return Ok(None);
            }
            json(&body(response, DOING, MOST_JSON)?, DOING).map(Some)
        })
        .map_err(Failure::error)
    }

    /// The requests of one job. Once `cancelled` is true they fail.
    pub fn job(&self, assignment: &Assignment, cancelled: Arc<AtomicBool>) -> Job {
        Job {
            client: self.clone(),
            id: assignment.job,
            token: assignment.token.as_str().into(),
            patience: Patience::JOB,
            cancelled,
        }
    }
}

/// A job's requests.
#[derive(Clone)]
pub struct Job {
    client: Client,
    id: u64,
    token: Arc<str>,
    patience: Patience,
    cancelled: Arc<AtomicBool>,
}

impl Job {
    /// The same with other patience.
    pub fn patient(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The server, for people.
    pub fn server(&self) -> &str {
        self.client.server()
    }

    /// Tells how it ended, as long as it takes: the server gives out no other job before. A job that is not known any more is no
    /// failure. `given_up` ends the attempts.
    pub fn done(&self, done: &Done, given_up: &dyn Fn() -> bool) -> Result<()> {
        const DOING: &str = "telling the server how the job ended";
        let body = encoded(done, DOING)?;
        let told = persist(Patience::Forever, given_up, &|_| {}, || {
            send(
                self.request("POST", "done").body(body.clone()).header("content-type", "application/json"),
                DOING,
            )
            .map(drop)
        });
        match told {
            Ok(()) | Err(Failure::Said(..)) => Ok(()),
            Err(failure) => Err(failure.error()),
        }
    }

    /// True once somebody wants it to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn post_bytes(&self, path: &str, bytes: &[u8], most: u64, doing: &str) -> Result<Vec<u8>> {
        self.persist(|| {
            let request = self.request("POST", path).header("content-type", "application/octet-stream");
            body(send(request.body(bytes.to_vec()), doing)?, doing, most)
        })
    }

    pub(crate) fn post_json<T: DeserializeOwned>(&self, path: &str, bytes: &[u8], doing: &str) -> Result<T> {
        let answer = self.post_bytes(path, bytes, MOST_JSON, doing)?;
        json(&answer, doing).map_err(Failure::error)
    }

    pub(crate) fn get_bytes(&self, path: &str, most: u64, doing: &str) -> Result<Vec<u8>> {
        self.persist(|| body(send(self.request("GET", path), doing)?, doing, most))
    }

    pub(crate) fn get_json<T: DeserializeOwned>(&self, path: &str, doing: &str) -> Result<T> {
        json(&self.get_bytes(path, MOST_JSON, doing)?, doing).map_err(Failure::error)
    }

    fn persist<T>(&self, attempt: impl FnMut() -> std::result::Result<T, Failure>) -> Result<T> {
        persist(self.patience, &|| self.is_cancelled(), &|_| {}, attempt).map_err(Failure::error)
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let url = self.client.url(&format!("jobs/{}/{path}", self.id));
        let http = &self.client.http;
        let request = if method == "GET" { http.get(url) } else { http.post(url) };
        // Some MiB over a slow or limited link take their time; a connection that is gone shows by its keep-alive.
        request.bearer_auth(&self.token).timeout(Duration::from_secs(180))
    }
}

pub(super) fn encoded<T: Serialize>(value: &T, doing: &'static str) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::new(ErrorKind::Malformed, doing).source(error))
}

fn post<B: Serialize, T: DeserializeOwned>(
    request: RequestBuilder,
    value: &B,
    doing: &'static str,
) -> std::result::Result<T, Failure> {
    let bytes = encoded(value, doing).map_err(Failure::Own)?;
    let response = send(request.header("content-type", "application/json").body(bytes), doing)?;
    json(&body(response, doing, MOST_JSON)?, doing)
}
