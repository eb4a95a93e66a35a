// SPDX-License-Identifier: Apache-2.0
//! What an agent says and is told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use unmoor_images::manifest::{MachineFacts, Manifest};

use super::Task;

/// An agent that has started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Register {
    /// `unmoor 0.1.0`
    pub tool: String,
    /// Random, made when the agent starts: tells a restarted agent from one that lost its connection.
    pub boot: String,
    /// True in the rescue environment; false on a running host.
    pub rescue: bool,
    /// The machine.
    pub facts: MachineFacts,
    /// What was found on its disks: `unmoor inspect --json` of each, by the disk's name.
    #[serde(default)]
    pub disks: Value,
    /// How disk and network did.
    #[serde(default)]
    pub verdict: Option<Verdict>,
}

/// What the agent measured in its first two seconds. Bytes per second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// Of the link that leads to the server, in Mbit/s; absent where the driver does not say.
    pub link_mbit: Option<u64>,
    /// From the server to the agent.
    pub from_server: Option<u64>,
    /// Reading each disk, by name.
    pub disks: Vec<(String, u64)>,
    /// PCI functions whose link is slower or narrower than it could be, and other things that need eyes.
    pub concerns: Vec<String>,
}

/// The server knows the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Registered {
    /// The machine's number.
    pub machine: u64,
    /// Its name.
    pub name: String,
    /// The short code of the agent's key, as the server computes it: both show it.
    pub code: String,
    /// Whether the key is approved.
    pub approved: bool,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: u64,
}

/// An agent lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// As in [`Register`].
    pub boot: String,
    /// The job that it does.
    pub job: Option<u64>,
    /// How far that is.
    pub progress: Option<Progress>,
    /// What it said since the last one that arrived.
    #[serde(default)]
    pub log: Vec<LogLine>,
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// `capture`, `restore`, `verify`, `wipe`, ...
    pub phase: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 where that is not known.
    pub total: u64,
    /// Bytes per second, over the last seconds.
    pub rate: u64,
}

/// A line of an agent's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// Counts from 0 at each start, so that what is sent twice is kept once.
    pub number: u64,
    /// Seconds since the machine started.
    pub seconds: f64,
    /// `info`, `warning`, `error`.
    pub level: String,
    /// What it said.
    pub text: String,
}

/// What the server answers to a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Orders {
    /// The server does not know this agent (any more): register again.
    pub register: bool,
    /// Whether the agent's key is approved.
    pub approved: bool,
    /// The job is to be given up.
    pub cancel: bool,
    /// The number of the next log line that the server wants.
    pub next_log: u64,
}

/// A job for an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Assignment {
    /// The job's number.
    pub job: u64,
    /// What to do.
    pub task: Task,
    /// What this job's requests carry. It counts with the agent's key only, for this job's image only; each heartbeat renews it.
    pub token: String,
    /// Times that this job was begun before: more than 0 means that a restore goes on.
    pub attempt: u32,
    /// Most bytes per second that the job may send or fetch; 0 means as many as there are.
    #[serde(default)]
    pub rate_limit: u64,
}

/// A job's end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// How it went.
    pub outcome: Outcome,
    /// What the command would have printed with `--json`, or null.
    #[serde(default)]
    pub result: Value,
    /// The rest of the log.
    #[serde(default)]
    pub log: Vec<LogLine>,
}

/// How a job went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Done,
    /// Refused; nothing was written. Why, and what to do.
    Refused(String),
    /// Failed. Why.
    Failed(String),
    /// Given up as it was told.
    Cancelled,
}

/// A capture into the server's store has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Begun {
    /// The time of the image that is looked at first.
    pub since: Option<String>,
    /// The compression level for chunks; none stores them as they are.
    pub level: Option<i32>,
}

/// The end of a capture, followed by the disks' maps.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Commit {
    /// What the image is.
    pub manifest: Manifest,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes of each disk's map, in the manifest's order.
    pub maps: Vec<u64>,
}

/// An image has been stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Committed {
    /// Its time.
    pub time: String,
    /// What was read, new, and stored.
    pub summary: unmoor_images::store::Summary,
}
