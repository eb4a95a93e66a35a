// SPDX-License-Identifier: Apache-2.0
//! What the server, agents and administrators say to one another: JSON over HTTPS, below `/v1`.
//!
//! ```text
//!   who            how it shows who it is                  what it may ask for
//!   agent          its key: a TLS client certificate       /v1/agent/register, heartbeat, jobs/next
//!   agent          that key and a job's token (Bearer)     /v1/agent/jobs/ID/... : that job, its image, until it expires
//!   administrator  the admin token (Bearer)                /v1/machines, jobs, images, events
//!   anybody        nothing                                 /v1/openapi.json; boot files by TFTP and plain HTTP
//! ```
//!
//! | request | body -> answer |
//! |---|---|
//! | `POST /v1/agent/register` | [`Register`] -> [`Registered`] |
//! | `POST /v1/agent/heartbeat` | [`Heartbeat`] -> [`Orders`] |
//! | `GET /v1/agent/jobs/next?wait=SECONDS` | -> [`Assignment`], or 204 when there is none yet |
//! | `POST /v1/agent/jobs/ID/done` | [`Done`] -> 204 |
//! | `POST /v1/agent/jobs/ID/store/begin` | -> [`Begun`] |
//! | `POST /v1/agent/jobs/ID/store/wanted` | hashes, 32 bytes each -> one byte each, 1 where it is wanted |
//! | `POST /v1/agent/jobs/ID/store/frames` | frames of leaves -> 204 |
//! | `POST /v1/agent/jobs/ID/store/commit` | [`Commit`], then each disk's map -> [`Committed`] |
//! | `GET /v1/agent/jobs/ID/image` | -> `ImageRecord` |
//! | `GET /v1/agent/jobs/ID/image/disks/N/map` | -> the disk's map, as a file image's `.map` |
//! | `GET /v1/agent/jobs/ID/image/disks/N/frames?first=LEAF&count=LEAVES[&check=1]` | -> frames of those leaves that are not zeros; with `check` compared by the server |
//! | `GET /v1/machines`, `/v1/machines/ID`, `/v1/machines/ID/log` | -> [`Machine`] |
//! | `POST /v1/machines/ID/approve` | [`Approve`] -> [`Machine`] |
//! | `DELETE /v1/machines/ID` | -> 204 |
//! | `GET /v1/jobs`, `POST /v1/jobs`, `GET /v1/jobs/ID` | [`NewJob`] -> [`Job`] |
//! | `POST /v1/jobs/ID/cancel`, `/retry` | -> [`Job`] |
//! | `GET /v1/images` | -> [`Summary`](unmoor_images::store::Summary) and time of each |
//! | `GET /v1/events` | server-sent events: [`Event`] |
//!
//! What fails is answered with a [`Problem`].

mod agent;
mod jobs;
mod machines;

pub use agent::{
    Assignment, Begun, Commit, Committed, Done, Heartbeat, LogLine, Orders, Outcome, Progress, Register,
    Registered, Verdict,
};
pub use jobs::{DiskRule, Job, JobState, NewJob, Task};
pub use machines::{Approve, Event, Machine, Presence, Selector};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a request was not done: `kind` as in exit statuses, `message` as on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `usage`, `refused`, `not_found`, `unauthorized`, `forbidden`, `busy`, `io`.
    pub kind: String,
    /// What was being done, and why it was not.
    pub message: String,
}
