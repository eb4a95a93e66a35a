// SPDX-License-Identifier: Apache-2.0
//! The binary's monitor, its output, and its end.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use unmoor_images::monitor::{Event, Phase};
use unmoor_images::{Error, ErrorKind, Monitor, Result};

use super::bars::Bars;
use super::lines::{self, Pace};
use super::meter::Meter;
use super::table::plain;
use crate::cli::Common;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As asked.
    Done,
}

/// Who hears a command in place of a terminal: a job of the agent's.
pub(crate) trait Listener: Send + Sync {
    /// A line of the result: JSON.
    fn printed(&self, text: &str);
    /// A report.
    fn event(&self, event: &Event);
    /// True once it is to stop.
    fn cancelled(&self) -> bool;
}

/// Standard output, standard error and the signals.
pub(crate) struct Terminal {
    /// If there is one, it gets everything.
    listener: Option<Arc<dyn Listener>>,
    json: bool,
    verbose: bool,
    strict: bool,
    cancelled: Arc<AtomicBool>,
    /// Standard output carries a disk: everything else goes to standard error.
    stdout_is_data: AtomicBool,
    /// With --json the result is one document that has the warnings in it: no events before it.
    one_document: AtomicBool,
    /// That document was printed, the error with it: nothing comes behind it.
    answered: AtomicBool,
    state: Mutex<State>,
}

struct State {
    meters: HashMap<usize, Meter>,
    bars: Option<Bars>,
    pace: Pace,
    warnings: Vec<String>,
}

impl Terminal {
    /// Also installs the signal handlers: the first SIGINT, SIGTERM or SIGHUP asks for a clean stop, a second one ends
    /// the process at once.
    pub(crate) fn new(common: &Common) -> Self {
        let cancelled = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag unset and sets it. Registering fails for signals that
            // cannot be caught only.
            let _ = signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&cancelled));
            let _ = signal_hook::flag::register(signal, Arc::clone(&cancelled));
        }
        let bars = (!common.json && io::stderr().is_terminal()).then(Bars::new);
        let every = Duration::from_secs(if common.json { 1 } else { 5 });
        Self {
            listener: None,
            json: common.json,
            verbose: common.verbose,
            strict: common.strict,
            cancelled,
            stdout_is_data: AtomicBool::new(false),
            one_document: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            state: Mutex::new(State {
                meters: HashMap::new(),
                bars,
                pace: Pace::new(every),
                warnings: Vec::new(),
            }),
        }
    }

    /// Nothing is printed: `listener` hears all, as JSON.
    pub(crate) fn heard_by(listener: Arc<dyn Listener>) -> Self {
        Self {
            listener: Some(listener),
            json: true,
            verbose: false,
            strict: false,
            cancelled: Arc::default(),
            stdout_is_data: AtomicBool::new(false),
            one_document: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            state: Mutex::new(State {
                meters: HashMap::new(),
                bars: None,
                pace: Pace::new(Duration::from_secs(5)),
                warnings: Vec::new(),
            }),
        }
    }

    /// True if JSON is wanted.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// True if more is wanted.
    pub(crate) fn verbose(&self) -> bool {
        self.verbose
    }

    /// From here on standard output carries a disk.
    pub(crate) fn stdout_is_data(&self) {
        self.stdout_is_data.store(true, Ordering::Relaxed);
    }

    /// From here on events are not printed as JSON: the result will have them.
    pub(crate) fn one_document(&self) {
        self.one_document.store(true, Ordering::Relaxed);
    }

    /// All warnings so far.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.state().warnings.clone()
    }

    /// Prints lines of the result.
    pub(crate) fn print(&self, text: &str) -> Result<()> {
        if let Some(listener) = &self.listener {
            listener.printed(text);
            return Ok(());
        }
        if let Some(bars) = &mut self.state().bars {
            bars.clear();
        }
        let written = if self.stdout_is_data.load(Ordering::Relaxed) {
            writeln!(io::stderr(), "{text}")
        } else {
            writeln!(io::stdout(), "{text}")
        };
        match written {
            // `unmoor inspect sda | head` has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|error| Error::io("writing to standard output", error)),
        }
    }

    /// Prints the result of a command that has printed events before: the last line.
    pub(crate) fn print_result(&self, result: &Value) -> Result<()> {
        let mut line = json!({ "event": "result" });
        if let (Some(line), Some(result)) = (line.as_object_mut(), result.as_object()) {
            line.extend(result.clone());
        }
        self.print(&line.to_string())
    }

    /// Prints the document of a command that refuses, with the error that it is about to end with.
    pub(crate) fn print_refusal(&self, document: &Value, error: &Error) -> Result<()> {
        let mut document = document.clone();
        if let Some(document) = document.as_object_mut() {
            document.insert("error".into(), explained(error));
        }
        self.answered.store(true, Ordering::Relaxed);
        self.print(&document.to_string())
    }

    /// Asks the user, who must type `yes`. False where nobody can answer.
    pub(crate) fn confirm(&self, question: &str) -> bool {
        if self.listener.is_some() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return false;
        }
        let _ = write!(io::stderr(), "{question} Type yes to go on: ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && answer.trim() == "yes"
    }

    /// Says how it ended, and turns that into the process's exit status.
    pub(crate) fn exit_code(&self, outcome: Result<Outcome>) -> ExitCode {
        let mut state = self.state();
        if let Some(bars) = &mut state.bars {
            bars.clear();
        }
        let error = match outcome {
            Ok(Outcome::Done) => {
                let strict = self.strict && !state.warnings.is_empty();
                return ExitCode::from(if strict { 4 } else { 0 });
            }
            Err(error) => error,
        };
        drop(state);
        to_stderr(&format!("error: {}", plain(&error.chain())));
        if self.json && !self.answered.load(Ordering::Relaxed) {
            // An error is an answer too: programs that read one document get this one.
            let mut line = explained(&error);
            if let Some(line) = line.as_object_mut() {
                line.insert("event".into(), "error".into());
            }
            let _ = self.print(&line.to_string());
        }
        ExitCode::from(match error.kind() {
            ErrorKind::Usage => 2,
            ErrorKind::Refused => 3,
            _ => 1,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, state: &State, text: &str) {
        match &state.bars {
            Some(bars) => bars.line(text),
            None => to_stderr(text),
        }
    }

    /// A line of JSON among the events.
    fn json_line(&self, value: &Value) {
        if self.one_document.load(Ordering::Relaxed) {
            return;
        }
        if self.stdout_is_data.load(Ordering::Relaxed) {
            to_stderr(&value.to_string());
        } else {
            // A failure here shows again when the result is printed.
            let _ = writeln!(io::stdout(), "{value}");
        }
    }
}

/// An error for programs.
fn explained(error: &Error) -> Value {
    json!({ "kind": format!("{:?}", error.kind()).to_lowercase(), "message": error.chain() })
}

/// A line on standard error; if that fails there is nobody to tell.
pub(super) fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

impl Monitor for Terminal {
    fn event(&self, event: Event) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(listener) = &self.listener {
            if let Event::Warning(text) = &event {
                if state.warnings.contains(text) {
                    return;
                }
                state.warnings.push(text.clone());
            }
            drop(state);
            listener.event(&event);
            return;
        }
        let state = &mut *state;
        match event {
            Event::Started { phase: Phase::Analyze, name, .. } => {
                if self.verbose && !self.json {
                    self.line(state, &format!("analyzing {name}"));
                }
            }
            Event::Started { disk, phase, total_bytes, name } => {
                let meter = Meter::new(name, phase, total_bytes, now);
                state.pace.start(disk, now);
                match &mut state.bars {
                    _ if self.json => self.json_line(&lines::json("started", disk, &meter, now)),
                    Some(bars) => bars.started(disk, &meter),
                    None => {}
                }
                state.meters.insert(disk, meter);
            }
            Event::Advanced { disk, done_bytes, written_bytes } => {
                let Some(meter) = state.meters.get_mut(&disk) else { return };
                meter.advance(done_bytes, written_bytes, now);
                match &mut state.bars {
                    Some(bars) => bars.advanced(disk, meter, now),
                    None if state.pace.due(disk, now) => {
                        if self.json {
                            self.json_line(&lines::json("progress", disk, meter, now));
                        } else {
                            to_stderr(&lines::text(meter, now));
                        }
                    }
                    None => {}
                }
            }
            Event::Finished { disk } => {
                let Some(meter) = state.meters.remove(&disk) else { return };
                match &mut state.bars {
                    _ if self.json => self.json_line(&lines::json("finished", disk, &meter, now)),
                    Some(bars) => bars.finished(disk, &meter, now),
                    None => {
                        let (label, name) = (meter.phase.label(), &meter.name);
                        to_stderr(&format!("{label} {name}: {}", meter.summary(now)));
                    }
                }
            }
            Event::Warning(text) => {
                if state.warnings.contains(&text) {
                    return;
                }
                if self.json {
                    self.json_line(&json!({ "event": "warning", "message": text }));
                } else {
                    self.line(state, &format!("warning: {}", plain(&text)));
                }
                state.warnings.push(text);
            }
            Event::Note(text) => {
                if self.json {
                    self.json_line(&json!({ "event": "note", "message": text }));
                } else {
                    self.line(state, &plain(&text));
                }
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
            || self.listener.as_ref().is_some_and(|listener| listener.cancelled())
    }
}
