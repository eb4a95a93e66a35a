// SPDX-License-Identifier: Apache-2.0
//! The agent: it tells a server what this machine is, and does the jobs that it is given.
//!
//! ```text
//!   facts, verdict --register--> heart (thread)          a job: the command's own code, heard by a listener
//!         `--> jobs/next --> inspect, capture, restore, wipe --> done --> reboot, power off, or the next one
//! ```
//!
//! In the rescue environment it ends with the machine's end; on a running host it goes on until it is stopped.

mod job;
mod restore;
mod verdict;
mod wipe;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Map, Value, json};
use unmoor_capture::facts::{self, Tree};
use unmoor_images::manifest::MachineFacts;
use unmoor_images::{Error, ErrorKind, Result};
use unmoor_pxe_boot::api::{Done, Register};
use unmoor_pxe_boot::client::{Client, Heart, Identity, Log, Options};

pub(crate) use job::Next;

/// Between two attempts to reach a server that was not there yet.
const PAUSE: Duration = Duration::from_secs(3);
/// This program.
pub(super) const TOOL: &str = concat!("unmoor ", env!("CARGO_PKG_VERSION"));

/// Where what the agent says goes besides the server.
pub(crate) struct Voice<'a> {
    pub(crate) say: &'a (dyn Fn(&str) + Sync),
    pub(crate) stopped: &'a (dyn Fn() -> bool + Sync),
}

/// Runs until the machine is to end, or until it is stopped.
pub(crate) fn run(options: &Options, voice: &Voice<'_>) -> Result<Next> {
    let identity = Identity::new()?;
    (voice.say)(&format!("this agent's code is {}: approve it on the server", identity.code()));
    let client = connect(options, &identity, voice)?;
    let log = Arc::new(Log::default());
    let tell = |level: &str, text: &str| {
        (voice.say)(text);
        log.add(level, uptime(), text);
    };
    let facts = facts::read(&Tree::default());
    let verdict = verdict::measure(&facts, &client);
    for concern in &verdict.concerns {
        tell("warning", concern);
    }
    let register = Register {
        tool: TOOL.to_owned(),
        boot: identity.boot().to_owned(),
        rescue: in_rescue(),
        disks: inspected(&facts),
        verdict: Some(verdict),
        facts,
    };
    let complaint = Complaint::new(voice);
    let registered = client.register(&register, voice.stopped, &|error| complaint.say(error))?;
    tell(
        "info",
        &format!(
            "registered with {} as {} ({}), {}",
            client.server(),
            registered.name,
            registered.code,
            if registered.approved { "approved" } else { "not approved yet" }
        ),
    );
    if registered.code != identity.code() {
        tell("warning", "the server shows another code for this agent: somebody may be in between");
    }
    let mut approved = registered.approved;
    let heart = Heart::start(&client, &register, registered, log.clone())?;
    loop {
        let assignment = client.next_job(voice.stopped, &|error| complaint.say(error))?;
        if std::mem::replace(&mut approved, heart.is_approved()) != approved {
            let news = if approved { "has approved this agent" } else { "has withdrawn its approval" };
            tell("info", &format!("the server {news}"));
        }
        let Some(assignment) = assignment else { continue };
        complaint.forget();
        let cancel = Arc::new(AtomicBool::new(false));
        heart.begin(assignment.job, cancel.clone());
        tell("info", &format!("job {}: {}", assignment.job, assignment.task.name()));
        let requests = client.job(&assignment, cancel.clone());
        let (outcome, result, next) = job::perform(&assignment, &requests, &heart, &log, cancel, voice);
        tell("info", &format!("job {}: {}", assignment.job, job::words(&outcome)));
        let done = Done { outcome, result, log: log.batch() };
        let told = requests.done(&done, voice.stopped);
        heart.end();
        told?;
        match next {
            Next::Stay => {}
            end => return Ok(end),
        }
    }
}

/// The CA may not be reachable yet: an address is still asked for, the server starts. A wrong one is final on a host; in the
/// rescue environment, where nobody could start the agent again, it is tried again too, loudly.
fn connect(options: &Options, identity: &Identity, voice: &Voice<'_>) -> Result<Client> {
    let complaint = Complaint::new(voice);
    loop {
        if (voice.stopped)() {
            return Err(
                Error::new(ErrorKind::Cancelled, "connecting to the server").because("stopped on request")
            );
        }
        match Client::new(options, identity) {
            Err(error) if error.kind() == ErrorKind::Io || in_rescue() => complaint.say(&error),
            other => return other,
        }
        std::thread::sleep(PAUSE);
    }
}

/// Says the same thing once.
struct Complaint<'a> {
    voice: &'a Voice<'a>,
    last: std::sync::Mutex<String>,
}

impl<'a> Complaint<'a> {
    fn new(voice: &'a Voice<'a>) -> Self {
        Self { voice, last: std::sync::Mutex::default() }
    }

    fn say(&self, error: &Error) {
        let text = error.chain();
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last != text {
            (self.voice.say)(&format!("{text}; trying again"));
            *last = text;
        }
    }

    fn forget(&self) {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}

/// What is on the disks, each by its name. A disk that cannot be read says so and hinders nothing.
fn inspected(facts: &MachineFacts) -> Value {
    let mut disks = Map::new();
    for disk in facts.disks.iter().filter(|disk| disk.size_bytes > 0 && !disk.removable) {
        let paths = vec![Path::new("/dev").join(&disk.name)];
        let found = job::inspect(&paths, Arc::default());
        disks.insert(disk.name.clone(), found.unwrap_or_else(|error| json!({ "error": error.chain() })));
    }
    Value::Object(disks)
}

/// Whether this is the rescue environment, where the machine is the agent's.
pub(super) fn in_rescue() -> bool {
    Path::new(unmoor_initramfs::rescue::FACTS).exists()
}

/// Seconds since the machine started.
pub(super) fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0)
}
