// SPDX-License-Identifier: Apache-2.0
//! The store, as agents reach it through the server: `/v1/agent/jobs/ID/store/...` and `/v1/agent/jobs/ID/image...` of
//! [`crate::api`].
//!
//! ```text
//!   request --PeerKey, token--> Gate --Access--> session of the job: one Writer, or one StoredImage
//!   body --pieces of 1 MiB--> Pace (bytes per second) --> Turns (a processor, by job) --> store, in a thread that may block
//! ```
//!
//! Nothing here knows of machines, approvals or the end of jobs: that is [`Gate`]'s. A leaf is taken in only after it was unpacked and
//! its hash compared, since what lies under a hash in the store is relied upon by the images of all machines.

mod answer;
mod body;
mod capture;
mod gate;
mod restore;
mod sessions;
mod turns;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use unmoor_images::store::Store;

pub use body::decode_commit;
pub use gate::{Access, Gate, PeerKey, Reach};

use sessions::Shared;

/// What all agents together may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes per second that leaves may come and go with; 0 means as many as there are. Jobs share it equally.
    pub rate_limit: u64,
    /// Requests that are worked on at a time.
    pub workers: usize,
    /// Bytes that packs may take in memory, of all captures together.
    pub memory: usize,
    /// A capture that nobody talks to for so long is suspended: what has come is stored, its lease ends.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { rate_limit: 0, workers, memory: 96 << 20, idle: Duration::from_secs(15 * 60) }
    }
}

/// The endpoints. Each request has to have a [`PeerKey`] among its extensions, or is refused. When the router and all its requests are
/// gone, what captures have sent is stored for those that come after.
pub fn router(store: Arc<Store>, gate: Arc<dyn Gate>, limits: Limits) -> Router {
    Router::new()
        .route("/v1/agent/jobs/{job}/store/begin", post(capture::begin))
        .route("/v1/agent/jobs/{job}/store/wanted", post(capture::wanted))
        .route("/v1/agent/jobs/{job}/store/frames", post(capture::frames))
        .route("/v1/agent/jobs/{job}/store/commit", post(capture::commit))
        .route("/v1/agent/jobs/{job}/image", get(restore::image))
        .route("/v1/agent/jobs/{job}/image/disks/{disk}/map", get(restore::map))
        .route("/v1/agent/jobs/{job}/image/disks/{disk}/frames", get(restore::frames))
        .with_state(Shared::new(store, gate, limits))
}
