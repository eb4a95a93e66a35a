// SPDX-License-Identifier: Apache-2.0
//! `unmoor jobs wait`.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use unmoor_images::monitor::{Event, Phase};
use unmoor_images::{Error, ErrorKind, Monitor, Result};
use unmoor_pxe_boot::api::{Job, JobState, Progress};

use super::{state, task};
use crate::cli::remote::ServerOptions;
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor jobs wait 17 --state /var/lib/unmoor
  unmoor jobs wait --json 17";

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a server may be away.
const PATIENCE: Duration = Duration::from_secs(300);

/// Wait until a job has ended
///
/// Shows its progress. The exit status is the job's: 0 done, 3 refused, 1 failed or cancelled. A server that starts again is waited
/// for.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Wait {
    /// Its number
    #[arg(value_name = "JOB")]
    job: u64,
    #[command(flatten)]
    server: ServerOptions,
}

impl Wait {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<Outcome> {
        let client = self.server.connect()?;
        let (mut shown, mut said, mut away) = (Shown::default(), String::new(), None);
        loop {
            let job = match client.job_or_later(self.job)? {
                Ok(job) => job,
                Err(error) => {
                    let since = *away.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE || terminal.cancelled() {
                        return Err(error);
                    }
                    pause(terminal)?;
                    continue;
                }
            };
            away = None;
            shown.show(&job, terminal);
            let words = words(&job);
            if !matches!(job.state, JobState::Waiting | JobState::Running | JobState::Lost) {
                shown.end(terminal);
                return ended(&job, &words, terminal);
            }
            if words != said && job.state != JobState::Running {
                terminal.note(words.clone());
            }
            said = words;
            pause(terminal)?;
        }
    }
}

fn pause(terminal: &Terminal) -> Result<()> {
    let end = Instant::now() + PAUSE;
    while Instant::now() < end {
        if terminal.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "waiting for a job")
                .because("stopped on request; the job goes on"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn words(job: &Job) -> String {
    let message = job.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    format!("job {}, {}: {}{message}", job.id, task(&job.task), state(job.state))
}

fn ended(job: &Job, words: &str, terminal: &Terminal) -> Result<Outcome> {
    if job.state == JobState::Done {
        if terminal.json() {
            terminal.print_result(&json!({ "job": job }))?;
        } else {
            terminal.print(&crate::output::table::plain(words))?;
        }
        return Ok(Outcome::Done);
    }
    let doing = format!("job {}, {}", job.id, task(&job.task));
    let because = job.message.clone().unwrap_or_else(|| format!("it was {}", state(job.state)));
    Err(match job.state {
        JobState::Refused => Error::refused(doing, because),
        JobState::Cancelled => Error::new(ErrorKind::Cancelled, doing).because(because),
        _ => Error::new(ErrorKind::Io, doing).because(because),
    })
}

/// The phase that is on the terminal.
#[derive(Default)]
struct Shown(Option<(String, u64)>);

impl Shown {
    fn show(&mut self, job: &Job, terminal: &Terminal) {
        let running = job.state == JobState::Running;
        let Some(now) = job.progress.as_ref().filter(|now| running && now.total > 0) else { return };
        let current = (now.phase.clone(), now.total);
        if self.0.as_ref() != Some(&current) {
            self.end(terminal);
            let name = format!("job {}", job.id);
            terminal.event(Event::Started { disk: 0, phase: phase(now), total_bytes: now.total, name });
            self.0 = Some(current);
        }
        terminal.event(Event::Advanced { disk: 0, done_bytes: now.done, written_bytes: 0 });
    }

    fn end(&mut self, terminal: &Terminal) {
        if self.0.take().is_some() {
            terminal.event(Event::Finished { disk: 0 });
        }
    }
}

/// What the agent calls a phase.
fn phase(progress: &Progress) -> Phase {
    let all = [
        ("capture", Phase::Capture),
        ("restore", Phase::Restore),
        ("compare", Phase::Compare),
        ("verify", Phase::Verify),
        ("wipe", Phase::Wipe),
        ("commit", Phase::Commit),
    ];
    let known =
        all.into_iter().find(|(word, phase)| progress.phase == *word || progress.phase == phase.label());
    known.map_or(Phase::Restore, |(_, phase)| phase)
}
