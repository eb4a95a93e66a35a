// SPDX-License-Identifier: Apache-2.0
//! Jobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Progress, Selector};

/// What an agent can be told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Task {
    /// Say what is on the disks.
    Inspect,
    /// Capture the machine's disks.
    Capture {
        /// The machine's name in the store.
        name: String,
        /// Which disks: all fixed ones where none is named.
        #[serde(default)]
        disks: Vec<DiskRule>,
    },
    /// Put an image onto the machine's disks.
    Restore {
        /// NAME, or NAME@TIME. The server pins NAME to its latest image when the job is given out first.
        image: String,
        /// What the guest is fitted to: `auto` is this machine, `keep` fits nothing, or a profile's name.
        #[serde(default = "auto")]
        profile: String,
        /// The firmware that the result is for; `keep`, `bios`, `uefi`; `auto` is how this machine was started.
        #[serde(default = "auto")]
        firmware: String,
        /// Where disks go, in the image's order: `only` where none is named.
        #[serde(default)]
        disks: Vec<DiskRule>,
        /// Take a disk that a rule names though it is removable or on USB.
        #[serde(default)]
        removable: bool,
        /// What comes then: `reboot`, `poweroff`, `stay`.
        #[serde(default = "reboot")]
        then: String,
    },
    /// Make what is on disks unreadable, and read back that it is gone.
    Wipe {
        /// Which disks; none is chosen by itself.
        disks: Vec<DiskRule>,
    },
    /// Start again: from the machine's own disk, or from the network.
    Reboot {
        /// `disk` or `network`.
        #[serde(default = "disk")]
        into: String,
    },
    /// Wait.
    Idle,
}

fn auto() -> String {
    "auto".to_owned()
}

fn reboot() -> String {
    "reboot".to_owned()
}

fn disk() -> String {
    "disk".to_owned()
}

impl Task {
    /// True for what waits until the agent's key has been approved.
    pub fn needs_approval(&self) -> bool {
        matches!(self, Self::Capture { .. } | Self::Restore { .. } | Self::Wipe { .. })
    }

    /// `capture`, ...
    pub fn name(&self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Capture { .. } => "capture",
            Self::Restore { .. } => "restore",
            Self::Wipe { .. } => "wipe",
            Self::Reboot { .. } => "reboot",
            Self::Idle => "idle",
        }
    }
}

/// Which disk: `serial=S`, `wwn=W`, `name=sda`, `size>=100G`, `size<=2T`, or `only`. A rule that fits several is a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DiskRule(pub String);

/// A job that somebody wants done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// Which machine; it need not have appeared yet.
    pub machine: Selector,
    /// What.
    pub task: Task,
    /// Most bytes per second; 0 means as many as there are.
    #[serde(default)]
    pub rate_limit: u64,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// For whom.
    pub selector: Selector,
    /// The machine's number, once it is known.
    pub machine: Option<u64>,
    /// What.
    pub task: Task,
    /// How far it is.
    pub state: JobState,
    /// Times that it was begun.
    pub attempts: u32,
    /// When it was made, begun last, and ended: RFC 3339.
    pub created: String,
    /// When it was begun last.
    pub began: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
    /// How far it is, while it runs.
    pub progress: Option<Progress>,
    /// What it waits for, or why it failed or was refused.
    pub message: Option<String>,
    /// What came of it.
    #[serde(default)]
    pub result: Value,
    /// Most bytes per second.
    pub rate_limit: u64,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// For its machine, an approval, or the job before it.
    Waiting,
    /// An agent does it.
    Running,
    /// Its agent is not heard of: it goes on when the machine appears again.
    Lost,
    /// Done.
    Done,
    /// Refused; nothing was written.
    Refused,
    /// Failed.
    Failed,
    /// Given up.
    Cancelled,
}
