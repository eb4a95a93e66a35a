// SPDX-License-Identifier: Apache-2.0
//! Machines, as administrators see them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use unmoor_images::manifest::MachineFacts;

use super::{Job, Verdict};

/// What tells a machine: all that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address of one of its adapters, `52:54:00:12:34:56`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The UUID of its firmware (SMBIOS type 1), lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// Its number.
    pub id: u64,
    /// Its name: as configured, else the product and the last digits of its address.
    pub name: String,
    /// The group of the configuration that it belongs to.
    pub group: Option<String>,
    /// The addresses of its adapters.
    pub macs: Vec<String>,
    /// Where it is.
    pub presence: Presence,
    /// When it was heard of first and last: RFC 3339.
    pub first_seen: String,
    /// When it was heard of last.
    pub last_seen: String,
    /// The address that it was heard from.
    pub address: Option<String>,
    /// The short code of its agent's key.
    pub code: Option<String>,
    /// Whether that key is approved.
    pub approved: bool,
    /// What it is; none before an agent has registered.
    pub facts: Option<MachineFacts>,
    /// What was on its disks when the agent started.
    #[serde(default)]
    pub disks: Value,
    /// How disk and network did.
    pub verdict: Option<Verdict>,
    /// What it does or did last.
    pub job: Option<Job>,
}

/// Where a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It asked to be booted; its agent has not registered yet.
    Booting,
    /// Its agent is heard of.
    Here,
    /// Its agent is not heard of.
    Gone,
}

/// An agent's key is the machine's, says an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// The short code that the machine's console shows.
    pub code: String,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A machine.
    Machine {
        /// As it is now.
        machine: Box<Machine>,
    },
    /// A job.
    Job {
        /// As it is now.
        job: Box<Job>,
    },
    /// Lines of a machine's log.
    Log {
        /// Whose.
        machine: u64,
        /// What it said.
        lines: Vec<super::LogLine>,
    },
    /// An image was stored.
    Image {
        /// NAME@TIME
        image: String,
    },
}
