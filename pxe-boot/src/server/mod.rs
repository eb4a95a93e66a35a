// SPDX-License-Identifier: Apache-2.0
//! The server: machines, jobs, and the store behind them.

mod admin;
mod options;

use std::net::SocketAddr;
use std::sync::Arc;

use unmoor_images::{Error, Monitor, Result};

use crate::api::{Approve, Job, LogLine, Machine, NewJob};
use crate::boot::{Asker, Choice, Choices};

pub use admin::{Admin, Image, Subscription};
pub use options::{Group, Known, Options, Web};

/// A server that can serve.
pub struct Server {
    options: Options,
}

impl Server {
    /// Opens the state, and makes keys, certificates and the admin's token where there are none.
    pub fn open(options: Options) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { options }))
    }

    /// Where HTTPS is served.
    pub fn address(&self) -> SocketAddr {
        self.options.listen
    }

    /// The CA's certificate: what agents and administrators trust. Public.
    pub fn ca_pem(&self) -> &str {
        ""
    }

    /// SHA-256 of the CA's certificate (DER), as hex digits.
    pub fn pin(&self) -> String {
        String::new()
    }

    /// The administrators' token.
    pub fn admin_token(&self) -> &str {
        ""
    }

    /// Serves HTTPS until `stopped`, asked several times a second.
    pub fn serve(
        self: &Arc<Self>,
        _stopped: &(dyn Fn() -> bool + Sync),
        _monitor: &dyn Monitor,
    ) -> Result<()> {
        missing()
    }
}

fn missing<T>() -> Result<T> {
    Err(Error::unsupported("serving", "it is not there yet"))
}

impl Choices for Server {
    fn choose(&self, _asker: &Asker) -> Result<Choice> {
        missing()
    }
}

impl Admin for Server {
    fn machines(&self) -> Result<Vec<Machine>> {
        missing()
    }
    fn machine(&self, _id: u64) -> Result<Machine> {
        missing()
    }
    fn log(&self, _id: u64, _most: usize) -> Result<Vec<LogLine>> {
        missing()
    }
    fn approve(&self, _id: u64, _approve: &Approve) -> Result<Machine> {
        missing()
    }
    fn forget(&self, _id: u64) -> Result<()> {
        missing()
    }
    fn jobs(&self, _most: usize) -> Result<Vec<Job>> {
        missing()
    }
    fn job(&self, _id: u64) -> Result<Job> {
        missing()
    }
    fn add_job(&self, _job: &NewJob) -> Result<Job> {
        missing()
    }
    fn cancel_job(&self, _id: u64) -> Result<Job> {
        missing()
    }
    fn retry_job(&self, _id: u64) -> Result<Job> {
        missing()
    }
    fn images(&self) -> Result<Vec<Image>> {
        missing()
    }
    fn subscribe(&self) -> Subscription {
        tokio::sync::broadcast::channel(1).1
    }
}
