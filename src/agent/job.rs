// SPDX-License-Identifier: Apache-2.0
//! One job: the code of the command of that name, heard by a listener in place of a terminal.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};
use unmoor_capture::disk::OpenOptions;
use unmoor_capture::facts::{self, Tree};
use unmoor_capture::{Request, Target, in_use, live};
use unmoor_images::formats::Compression;
use unmoor_images::monitor::Event;
use unmoor_images::store::Since;
use unmoor_images::{Error, ErrorKind, Result, layout};
use unmoor_pxe_boot::api::{Assignment, DiskRule, Outcome, Progress, Task};
use unmoor_pxe_boot::client::store::RemoteStore;
use unmoor_pxe_boot::client::{Heart, Job, Log, rules};

use super::{TOOL, Voice, in_rescue, restore, uptime, wipe};
use crate::cli;
use crate::output::size::show_size;
use crate::output::{Listener, Terminal};

/// Most bytes of a result.
const LONGEST: usize = 4 << 20;
/// Between two lines of a job's progress on the console.
const SAID: Duration = Duration::from_secs(10);

/// What comes after a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next job.
    Stay,
    /// The machine starts again.
    Reboot,
    /// The machine is switched off.
    PowerOff,
}

/// Hears a command: its progress goes to the heart, its warnings to the log, and what it prints is the result.
pub(super) struct Hearer {
    cancel: Arc<AtomicBool>,
    /// For jobs; an inspection at the start tells nobody.
    told: Option<Told>,
    state: Mutex<State>,
}

struct Told {
    heart: Arc<dyn Fn(Progress) + Send + Sync>,
    log: Arc<Log>,
}

#[derive(Default)]
struct State {
    printed: Vec<String>,
    phase: String,
    totals: Vec<(usize, u64, u64)>,
    last: Option<(Instant, u64)>,
    rate: u64,
}

impl Hearer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last document that was printed.
    fn document(&self) -> Value {
        let state = self.state();
        let text = state.printed.last().map(String::as_str).unwrap_or("null");
        serde_json::from_str(text).unwrap_or_else(|_| json!({ "lines": state.printed }))
    }

    fn tell(&self) {
        let Some(told) = &self.told else { return };
        let progress = {
            let mut state = self.state();
            let done = state.totals.iter().map(|(_, done, _)| *done).sum::<u64>();
            let total = state.totals.iter().map(|(_, _, total)| *total).sum::<u64>();
            let now = Instant::now();
            match state.last {
                Some((then, before)) => {
                    let seconds = now.duration_since(then).as_secs_f64();
                    if seconds < 1.0 {
                        return;
                    }
                    let fresh = done.saturating_sub(before) as f64 / seconds;
                    // Half of it is what was before: a rate that does not jump.
                    state.rate = ((state.rate as f64 + fresh) / 2.0) as u64;
                    state.last = Some((now, done));
                }
                None => state.last = Some((now, done)),
            }
            Progress { phase: state.phase.clone(), done, total, rate: state.rate }
        };
        (told.heart)(progress);
    }
}

impl Listener for Hearer {
    fn printed(&self, text: &str) {
        self.state().printed.push(text.to_owned());
    }

    fn event(&self, event: &Event) {
        match event {
            Event::Started { disk, phase, total_bytes, .. } => {
                {
                    let mut state = self.state();
                    let label = format!("{phase:?}").to_lowercase();
                    if state.phase != label {
                        state.totals.clear();
                        state.last = None;
                        state.phase = label;
                    }
                    state.totals.retain(|(known, ..)| known != disk);
                    state.totals.push((*disk, 0, *total_bytes));
                }
                self.tell();
            }
            Event::Advanced { disk, done_bytes, .. } => {
                if let Some(entry) = self.state().totals.iter_mut().find(|(known, ..)| known == disk) {
                    entry.1 = *done_bytes;
                }
                self.tell();
            }
            Event::Finished { .. } => self.tell(),
            Event::Warning(text) | Event::Note(text) => {
                let level = if matches!(event, Event::Warning(_)) { "warning" } else { "info" };
                if let Some(told) = &self.told {
                    told.log.add(level, uptime(), text);
                }
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// A result that the server takes: a plan has the files that it writes in it, an initramfs of tens of MiB too.
fn fitting(mut document: Value) -> Value {
    let is_long = |document: &Value| document.to_string().len() > LONGEST;
    if is_long(&document)
        && let Some(plan) = document.pointer_mut("/fitting/plan")
    {
        *plan = json!("left out: it has the files that it writes in it");
    }
    if is_long(&document) { json!({ "left_out": "the result is too long to be sent" }) } else { document }
}

/// How far a job is, for who stands before the machine.
fn line(progress: &Progress) -> String {
    let Progress { phase, done, total, rate } = progress;
    let of = if *total > 0 { format!(" of {}", show_size(*total)) } else { String::new() };
    format!("{phase}: {}{of}, {}/s", show_size(*done), show_size(*rate))
}

/// Does what the assignment says; answers how it went, what the command printed, and what comes then.
pub(super) fn perform(
    assignment: &Assignment,
    requests: &Job,
    heart: &Heart,
    log: &Arc<Log>,
    cancel: Arc<AtomicBool>,
    voice: &Voice<'_>,
) -> (Outcome, Value, Next) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let hearer = Arc::new(Hearer {
        cancel,
        told: Some(Told {
            heart: Arc::new(move |progress| {
                // Nobody hears it once the job has ended.
                let _ = sender.send(progress);
            }),
            log: log.clone(),
        }),
        state: Mutex::default(),
    });
    let terminal = Terminal::heard_by(hearer.clone());
    let work = std::sync::Mutex::new(None);
    std::thread::scope(|scope| {
        let terminal = &terminal;
        let doing = scope.spawn(|| {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                done(assignment, requests, terminal)
            }));
            let result = caught.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Io, "doing the job")
                    .because("the program panicked: see the console"))
            });
            *work.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        let mut said = Instant::now();
        while !doing.is_finished() {
            if let Ok(progress) = receiver.recv_timeout(Duration::from_millis(200)) {
                if said.elapsed() >= SAID {
                    said = Instant::now();
                    (voice.say)(&line(&progress));
                }
                heart.progress(progress);
            }
            if (voice.stopped)() {
                hearer.cancel.store(true, Ordering::Relaxed);
            }
        }
    });
    let result = work.into_inner().unwrap_or_else(PoisonError::into_inner);
    let result =
        result.unwrap_or_else(|| Err(Error::new(ErrorKind::Io, "doing the job").because("it has no result")));
    let document = fitting(hearer.document());
    match result {
        Ok(next) => (Outcome::Done, document, next),
        Err(error) => {
            let text = error.chain();
            log.add("error", uptime(), &text);
            let outcome = match error.kind() {
                ErrorKind::Cancelled => Outcome::Cancelled,
                ErrorKind::Refused | ErrorKind::Usage => Outcome::Refused(text),
                _ => Outcome::Failed(text),
            };
            (outcome, document, Next::Stay)
        }
    }
}

fn done(assignment: &Assignment, requests: &Job, terminal: &Terminal) -> Result<Next> {
    match &assignment.task {
        Task::Inspect => {
            let facts = facts::read(&Tree::default());
            let disks = rules::fixed(&facts.disks)?;
            let paths = disks.iter().map(|disk| Path::new("/dev").join(&disk.name)).collect::<Vec<_>>();
            inspect_with(&paths, terminal)?;
            Ok(Next::Stay)
        }
        Task::Capture { name, disks } => {
            capture(name, disks, requests, assignment.rate_limit, terminal)?;
            Ok(Next::Stay)
        }
        Task::Restore { then, .. } => {
            restore::run(assignment, requests, terminal)?;
            Ok(if in_rescue() { next(then)? } else { Next::Stay })
        }
        Task::Wipe { disks } => {
            wipe::run(disks, terminal)?;
            Ok(Next::Stay)
        }
        Task::Reboot { .. } if in_rescue() => Ok(Next::Reboot),
        Task::Reboot { .. } => Err(Error::refused(
            "starting the machine again",
            "this agent runs on a host that is in use: it does that in the rescue environment alone",
        )),
        Task::Idle => Ok(Next::Stay),
    }
}

fn next(then: &str) -> Result<Next> {
    match then {
        "reboot" => Ok(Next::Reboot),
        "poweroff" => Ok(Next::PowerOff),
        "stay" => Ok(Next::Stay),
        other => Err(Error::new(ErrorKind::Usage, "ending the job")
            .because(format!("{other:.40?} is none of reboot, poweroff and stay"))),
    }
}

/// Refuses words that a restore would stumble over when it has written all.
pub(super) fn check_then(then: &str) -> Result<()> {
    next(then).map(drop)
}

fn capture(
    name: &str,
    disks: &[DiskRule],
    requests: &Job,
    rate_limit: u64,
    terminal: &Terminal,
) -> Result<()> {
    let facts = facts::read(&Tree::default());
    let chosen = match disks {
        [] => rules::fixed(&facts.disks)?,
        disks => rules::choose(disks, &facts.disks, true)?,
    };
    let sources: Vec<PathBuf> = chosen.iter().map(|disk| Path::new("/dev").join(&disk.name)).collect();
    // On a host that runs, as it is at one instant; in the rescue environment nothing is mounted.
    let used = |path: &PathBuf| in_use::claim(path).is_ok_and(|claim| !claim.users.is_empty());
    let live = sources.iter().any(used).then(live::Options::default);
    let request = Request {
        sources,
        target: Target::Server { server: requests.server().to_owned(), machine: name.to_owned() },
        store: Some(Arc::new(RemoteStore::new(requests.clone(), rate_limit))),
        since: Since::Latest,
        compression: Compression::Auto,
        cluster_size: None,
        layout: layout::Options { all: false, hibernated: layout::Hibernated::default() },
        open: OpenOptions::default(),
        unsafe_live: false,
        live,
        force: false,
        threads: 0,
        tool: TOOL.to_owned(),
    };
    cli::capture::run_request(&request, terminal).map(drop)
}

/// `unmoor inspect --json` of these disks together.
pub(super) fn inspect(paths: &[PathBuf], cancel: Arc<AtomicBool>) -> Result<Value> {
    let hearer = Arc::new(Hearer { cancel, told: None, state: Mutex::default() });
    inspect_with(paths, &Terminal::heard_by(hearer.clone()))?;
    Ok(hearer.document())
}

fn inspect_with(paths: &[PathBuf], terminal: &Terminal) -> Result<()> {
    /// The command's own arguments.
    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: cli::inspect::Arguments,
    }
    let words = std::iter::once("inspect".into()).chain(paths.iter().map(|path| path.as_os_str().to_owned()));
    let line = Line::try_parse_from(words)
        .map_err(|error| Error::new(ErrorKind::Usage, "inspecting the disks").source(error))?;
    cli::inspect::run(&line.arguments, terminal).map(drop)
}

/// An outcome, for people.
pub(super) fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Refused(why) => format!("refused: {why}"),
        Outcome::Failed(why) => format!("failed: {why}"),
        Outcome::Cancelled => "given up as it was told".to_owned(),
    }
}
