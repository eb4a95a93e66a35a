// SPDX-License-Identifier: Apache-2.0
//! A job, as an administrator sees it.

use crate::lab::network::{Server, Timeline};
use crate::lab::qemu::Running;
use crate::run::{Failure, Result};
use serde_json::Value;
use std::time::Duration;

/// From power on until a job has ended: two minutes on idle processors.
pub(super) const LIMIT: Duration = Duration::from_secs(1500);

/// Stages.
pub(crate) const ASKED: &str = "the server is asked what to start";
pub(crate) const UP: &str = "the rescue environment is up";
pub(crate) const REGISTERED: &str = "the rescue environment has registered";
pub(crate) const DONE: &str = "the job is done";

/// How far a job is.
pub(crate) enum Seen {
    /// Which part of the disk is written, 0 to 1.
    Going(f64),
    Done,
}

impl Server<'_> {
    /// Adds a job; its number.
    pub(crate) fn job(&self, words: &[&str]) -> Result<u64> {
        let mut command = vec!["jobs", "add"];
        command.extend(words);
        let said = self.ask(&command)?;
        said["job"]["id"].as_u64().ok_or_else(|| Failure::new(format!("no job was made: {said}")))
    }

    /// Looks how far the job is; approves its machine's key by the code that its console shows.
    pub(crate) fn look(
        &self,
        job: u64,
        mac: &str,
        running: &mut Running,
        timeline: &mut Timeline,
    ) -> Result<Seen> {
        let said = self.ask(&["jobs", "show", &job.to_string()])?["job"].take();
        let machine = self.machine(mac)?;
        let fail = |what: &str, running: &Running| {
            let (console, server) = (running.console(20), self.said(30));
            Err(Failure::new(format!("{what}: {said}; the console:\n{console}\nthe server:\n{server}")))
        };
        match machine["presence"].as_str() {
            Some("booting") => timeline.mark(ASKED),
            Some("here") => timeline.mark(REGISTERED),
            _ => {}
        }
        let console = running.console(400);
        if console.contains("is up: PID 1 began") {
            timeline.mark(UP);
        }
        if machine["approved"] == false
            && let (Some(id), Some(code)) = (machine["id"].as_u64(), machine["code"].as_str())
            // What an administrator compares.
            && console.contains(code)
        {
            self.ask(&["machines", "approve", &id.to_string(), "--code", code])?;
            timeline.mark("its key is approved");
        }
        match said["state"].as_str() {
            Some("running") => timeline.mark("the job runs"),
            Some("done") => {
                timeline.mark(DONE);
                return Ok(Seen::Done);
            }
            Some("waiting" | "lost") => {}
            _ => return fail("the job ended otherwise", running),
        }
        if running.has_ended()? {
            return fail("the machine went off", running);
        }
        if running.elapsed() > LIMIT {
            return fail("the job does not end", running);
        }
        std::thread::sleep(Duration::from_millis(500));
        let progress = &said["progress"];
        let (done, total) = (progress["done"].as_f64(), progress["total"].as_f64());
        let written = progress["phase"] == "restore";
        Ok(Seen::Going(
            done.zip(total).filter(|_| written).map_or(0.0, |(done, total)| done / total.max(1.0)),
        ))
    }

    fn machine(&self, mac: &str) -> Result<Value> {
        let said = self.ask(&["machines", "list"])?;
        let rows = said["machines"].as_array().cloned().unwrap_or_default();
        let has = |row: &Value| row["macs"].as_array().is_some_and(|macs| macs.iter().any(|one| one == mac));
        Ok(rows.into_iter().find(has).unwrap_or(Value::Null))
    }
}
