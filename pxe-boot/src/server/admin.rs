// SPDX-License-Identifier: Apache-2.0
//! What administrators may ask: one set of answers behind the HTTP API and the web page.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unmoor_images::Result;
use unmoor_images::store::{Store, Summary};

use crate::api::{Approve, Event, Job, LogLine, Machine, NewJob};

/// An image of the store, for lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Image {
    /// NAME@TIME
    pub name: String,
    /// What it is.
    pub summary: Summary,
}

/// Events from now on, in order; the oldest are dropped where the reader is slow.
pub type Subscription = tokio::sync::broadcast::Receiver<Arc<Event>>;

/// Machines and jobs. All of it may block: async callers use `spawn_blocking`.
///
/// Errors are `NotFound` where there is no such machine or job, `Refused` where the state does not allow it.
pub trait Admin: Send + Sync {
    /// All machines, by name.
    fn machines(&self) -> Result<Vec<Machine>>;
    /// One.
    fn machine(&self, id: u64) -> Result<Machine>;
    /// The last `most` lines of what its agents said, oldest first.
    fn log(&self, id: u64, most: usize) -> Result<Vec<LogLine>>;
    /// Its agent's key may do what needs approval, if it has that code.
    fn approve(&self, id: u64, approve: &Approve) -> Result<Machine>;
    /// Forgets it and its key. Refused while a job runs.
    fn forget(&self, id: u64) -> Result<()>;
    /// Jobs, newest first, `most` of them.
    fn jobs(&self, most: usize) -> Result<Vec<Job>>;
    /// One.
    fn job(&self, id: u64) -> Result<Job>;
    /// Takes a job.
    fn add_job(&self, job: &NewJob) -> Result<Job>;
    /// Gives it up: at once where it waits, with the agent's next heartbeat where it runs.
    fn cancel_job(&self, id: u64) -> Result<Job>;
    /// Does an ended one again, as a new job.
    fn retry_job(&self, id: u64) -> Result<Job>;
    /// Images of the store, newest first.
    fn images(&self) -> Result<Vec<Image>>;
    /// What changes from now on.
    fn subscribe(&self) -> Subscription;
}

/// The store's images, newest first. One that is being removed, or cannot be read, is not among them.
pub(super) fn images(store: &Store) -> Result<Vec<Image>> {
    let found = store.images()?;
    let summaries = store.summaries(&found);
    let mut images: Vec<Image> = found
        .iter()
        .zip(summaries)
        .filter_map(|(image, summary)| {
            let summary = summary.ok()?;
            Some(Image { name: format!("{}@{}", summary.machine, image.time), summary })
        })
        .collect();
    images.sort_by(|one, two| {
        two.summary.created.cmp(&one.summary.created).then_with(|| one.name.cmp(&two.name))
    });
    Ok(images)
}
