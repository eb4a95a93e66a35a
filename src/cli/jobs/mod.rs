// SPDX-License-Identifier: Apache-2.0
//! `unmoor jobs`: what machines are told to do by a server.

mod add;
mod wait;

use clap::{Args, Subcommand};
use serde_json::json;
use unmoor_images::Result;
use unmoor_pxe_boot::api::{DiskRule, Job, JobState, Selector, Task};

use super::machines::finish;
use super::remote::ServerOptions;
use crate::output::size::show_size;
use crate::output::table::{Align, Table, plain};
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor jobs add --machine web01 capture web01
  unmoor jobs add --machine 52:54:00:12:34:56 restore web01 --disk only
      The machine need not have appeared yet
  unmoor jobs wait 17
      Progress; the job's outcome is the exit status

With UNMOOR_SERVER, UNMOOR_CA and UNMOOR_TOKEN_FILE set, no options are
needed.";

/// Give jobs to machines, and follow them
///
/// A job waits until its machine's agent takes it; captures, restores and wipes also until that agent's key is approved. One runs at a
/// time on each machine.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs, newest first
    List {
        /// So many at most
        #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 100)]
        most: usize,
        #[command(flatten)]
        server: ServerOptions,
    },
    /// Show a job
    Show(One),
    Add(add::Add),
    /// Give a job up: at once where it waits, with the agent's next heartbeat where it runs
    Cancel(One),
    /// Do an ended job again, as a new job
    Retry(One),
    Wait(wait::Wait),
}

#[derive(Debug, Args)]
struct One {
    /// Its number
    #[arg(value_name = "JOB")]
    job: u64,
    #[command(flatten)]
    server: ServerOptions,
}

/// Does what is asked.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    if let Command::Wait(wait) = &arguments.command {
        return wait.run(terminal);
    }
    terminal.one_document();
    match &arguments.command {
        Command::List { most, server } => list(&server.connect()?.jobs(*most)?, terminal)?,
        Command::Show(one) => show(&one.server.connect()?.job(one.job)?, terminal)?,
        Command::Add(add) => add.run(terminal)?,
        Command::Cancel(one) => show(&one.server.connect()?.cancel_job(one.job)?, terminal)?,
        Command::Retry(one) => show(&one.server.connect()?.retry_job(one.job)?, terminal)?,
        Command::Wait(_) => {}
    }
    Ok(Outcome::Done)
}

/// What a job is, in a few words.
pub(super) fn task(task: &Task) -> String {
    let rules = |disks: &[DiskRule]| disks.iter().map(|rule| format!(" {}", rule.0)).collect::<String>();
    match task {
        Task::Inspect | Task::Idle => task.name().to_owned(),
        Task::Capture { name, disks } => format!("capture {name}{}", rules(disks)),
        Task::Restore { image, disks, .. } => format!("restore {image}{}", rules(disks)),
        Task::Wipe { disks } => format!("wipe{}", rules(disks)),
        Task::Reboot { into } => format!("reboot into {into}"),
    }
}

/// Where a job is, in a word.
pub(super) fn state(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Lost => "lost",
        JobState::Done => "done",
        JobState::Refused => "refused",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn whose(job: &Job) -> String {
    if let Some(machine) = job.machine {
        return machine.to_string();
    }
    let Selector { id, name, mac, uuid, serial } = &job.selector;
    let id = id.map(|id| id.to_string());
    [&id, name, mac, uuid, serial].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
}

/// `42 %, 812.0 MiB/s`
fn far(job: &Job) -> String {
    let Some(progress) = job.progress.as_ref().filter(|_| job.ended.is_none()) else { return String::new() };
    let percent = u128::from(progress.done).saturating_mul(100).checked_div(u128::from(progress.total));
    let percent = percent.map(|percent| format!("{} %, ", percent.min(100))).unwrap_or_default();
    format!("{} {percent}{}/s", progress.phase, show_size(progress.rate))
}

fn list(jobs: &[Job], terminal: &Terminal) -> Result<()> {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("MACHINE", Align::Left),
        ("JOB", Align::Left),
        ("STATE", Align::Left),
        ("PROGRESS", Align::Left),
        ("CREATED", Align::Left),
    ]);
    for job in jobs {
        table.row(vec![
            job.id.to_string(),
            whose(job),
            task(&job.task),
            state(job.state).to_owned(),
            far(job),
            job.created.clone(),
        ]);
    }
    let lines = if jobs.is_empty() { vec!["there are no jobs yet".to_owned()] } else { table.lines() };
    finish(&json!({ "jobs": jobs }), &lines, terminal)
}

fn show(job: &Job, terminal: &Terminal) -> Result<()> {
    let mut lines = vec![format!("job {}: {}, {}", job.id, plain(&task(&job.task)), state(job.state))];
    lines.push(format!("  machine {}", plain(&whose(job))));
    let far = far(job);
    if !far.is_empty() {
        lines.push(format!("  {}", plain(&far)));
    }
    lines.extend(job.message.iter().map(|message| format!("  {}", plain(message))));
    let times = [("made", Some(&job.created)), ("begun", job.began.as_ref()), ("ended", job.ended.as_ref())];
    let times =
        times.into_iter().filter_map(|(word, time)| time.map(|time| format!("{word} {}", plain(time))));
    lines.push(format!("  {}", times.collect::<Vec<_>>().join(", ")));
    finish(&json!({ "job": job }), &lines, terminal)
}
