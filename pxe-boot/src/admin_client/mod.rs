// SPDX-License-Identifier: Apache-2.0
//! The administrator's end of the contract in [`crate::api`]: blocking requests with the admin token.
//!
//! The token goes to the server that has the right CA and to nobody else: it is sent over TLS that was verified by pin or file.

use std::path::Path;

use reqwest::blocking::RequestBuilder;
use serde::Serialize;
use serde::de::DeserializeOwned;
use unmoor_images::{Error, ErrorKind, Result};

use crate::api::{Approve, Job, LogLine, Machine, NewJob};
use crate::client::{Failure, MOST_JSON, Options, base, body, connection, json, send};
use crate::server::Image;

/// Most bytes of a file with a token.
const LONGEST: usize = 4096;

/// A connection to one server, as its administrator.
pub struct AdminClient {
    http: reqwest::blocking::Client,
    base: String,
    token: String,
}

impl AdminClient {
    /// Prepares to talk; with a pin the server's CA is fetched and compared.
    ///
    /// # Errors
    ///
    /// As [`Client::new`](crate::client::Client::new)'s.
    pub fn new(options: &Options, token: &str) -> Result<Self> {
        let base = base(&options.server)?;
        let http = connection(options, &base, None)?;
        Ok(Self { http, base, token: token.to_owned() })
    }

    /// The token that lies in the first line of a file.
    ///
    /// # Errors
    ///
    /// `Io` where it cannot be read, `Usage` where it holds none.
    pub fn token(path: &Path) -> Result<String> {
        let text =
            std::fs::read(path).map_err(|error| Error::io("reading the admin token", error).path(path))?;
        let text = String::from_utf8(text).unwrap_or_default();
        let token = text.lines().next().unwrap_or_default().trim();
        if token.is_empty() || token.len() > LONGEST || !token.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::new(ErrorKind::Usage, "reading the admin token")
                .path(path)
                .because("there is none in it"));
        }
        Ok(token.to_owned())
    }

    /// All machines.
    ///
    /// # Errors
    ///
    /// This one's and all others': what the server says, `Io` where it cannot be asked.
    pub fn machines(&self) -> Result<Vec<Machine>> {
        self.get("machines", "listing machines")
    }

    /// One machine.
    pub fn machine(&self, id: u64) -> Result<Machine> {
        self.get(&format!("machines/{id}"), "asking for a machine")
    }

    /// The last `most` lines of a machine's log.
    pub fn log(&self, id: u64, most: usize) -> Result<Vec<LogLine>> {
        self.get(&format!("machines/{id}/log?most={most}"), "asking for a machine's log")
    }

    /// Approves the key of a machine's agent.
    pub fn approve(&self, id: u64, approve: &Approve) -> Result<Machine> {
        self.post(&format!("machines/{id}/approve"), approve, "approving a key")
    }

    /// Forgets a machine.
    pub fn forget(&self, id: u64) -> Result<()> {
        let doing = "forgetting a machine";
        let request = self.http.delete(self.url(&format!("machines/{id}"))).bearer_auth(&self.token);
        send(request, doing).map(drop).map_err(Failure::error)
    }

    /// Jobs, newest first, `most` of them.
    pub fn jobs(&self, most: usize) -> Result<Vec<Job>> {
        self.get(&format!("jobs?most={most}"), "listing jobs")
    }

    /// One job.
    pub fn job(&self, id: u64) -> Result<Job> {
        self.get(&format!("jobs/{id}"), "asking for a job")
    }

    /// One job, for who asks again and again: none where asking later may help, with the reason.
    pub fn job_or_later(&self, id: u64) -> Result<std::result::Result<Job, Error>> {
        let doing = "asking for a job";
        let request = self.http.get(self.url(&format!("jobs/{id}")));
        match self.answer(request, doing) {
            Ok(job) => Ok(Ok(job)),
            Err(Failure::Passing(error)) => Ok(Err(error)),
            Err(failure) => Err(failure.error()),
        }
    }

    /// Makes a job.
    pub fn add_job(&self, job: &NewJob) -> Result<Job> {
        self.post("jobs", job, "adding a job")
    }

    /// Gives a job up.
    pub fn cancel_job(&self, id: u64) -> Result<Job> {
        self.post(&format!("jobs/{id}/cancel"), &(), "cancelling a job")
    }

    /// Does an ended job again.
    pub fn retry_job(&self, id: u64) -> Result<Job> {
        self.post(&format!("jobs/{id}/retry"), &(), "doing a job again")
    }

    /// Images of the server's store, newest first.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.get("images", "listing images")
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.base)
    }

    fn get<T: DeserializeOwned>(&self, path: &str, doing: &str) -> Result<T> {
        self.answer(self.http.get(self.url(path)), doing).map_err(Failure::error)
    }

    fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, value: &B, doing: &str) -> Result<T> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::new(ErrorKind::Malformed, doing.to_owned()).source(error))?;
        let request = self.http.post(self.url(path)).header("content-type", "application/json").body(bytes);
        self.answer(request, doing).map_err(Failure::error)
    }

    fn answer<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        doing: &str,
    ) -> std::result::Result<T, Failure> {
        let response = send(request.bearer_auth(&self.token), doing)?;
        json(&body(response, doing, MOST_JSON)?, doing)
    }
}
