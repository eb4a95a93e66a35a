// SPDX-License-Identifier: Apache-2.0
//! The service that keeps an image of this host young.
//!
//! ```text
//!   every --every, or when asked through the socket: capture what was written -> old images go -> figures
//! ```

pub(crate) mod config;
pub(crate) mod control;
mod metrics;
mod sys;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unmoor_capture::live::{Follower, Options};
use unmoor_capture::{Report, Request};
use unmoor_images::store::{PruneOptions, Store};
use unmoor_images::{ErrorKind, Monitor, Result};

use crate::output::Terminal;
use config::Config;
use control::Control;
use metrics::Figures;

/// How often the room of removed images is given back.
const SWEEP: Duration = Duration::from_secs(3600);
/// How often it is looked whether somebody asks.
const TICK: Duration = Duration::from_millis(100);
/// How often figures are written though nothing has happened.
const FIGURES: Duration = Duration::from_secs(10);

/// What to do.
pub(crate) struct Plan {
    /// The machine's name in the store.
    pub(crate) machine: String,
    pub(crate) config: Config,
    pub(crate) request: Request,
    pub(crate) options: Options,
    pub(crate) store: Store,
}

/// Follows until the terminal says that it is enough.
pub(crate) fn run(plan: Plan, terminal: &Terminal) -> Result<()> {
    let Plan { machine, config, request, options, store } = plan;
    let control = Control::listen(&config.control)?;
    if config.idle {
        sys::be_idle();
    }
    let target = request.target.to_string();
    let mut follower = Follower::start(request, &options, terminal)?;
    let reads = if follower.tracks() { "what is written is followed" } else { "each image reads all" };
    terminal.note(format!("following for {target}, an image every {}: {reads}", config.every));
    let mut figures = Figures::new(&machine, config.metrics.clone());
    let mut swept = Instant::now();
    let mut due = Instant::now();
    let mut written = Instant::now();
    while !terminal.cancelled() {
        let asked = control
            .asked(&mut |question| (question == "status").then(|| figures.status(follower.pending_bytes())));
        if asked.is_empty() && Instant::now() < due {
            if written.elapsed() >= FIGURES {
                written = Instant::now();
                figures.write(follower.pending_bytes(), terminal);
            }
            std::thread::sleep(TICK.min(due.saturating_duration_since(Instant::now())));
            continue;
        }
        // From its beginning: images come every so often, and not so long after each other.
        due = (due + config.every.0).max(Instant::now());
        let began = Instant::now();
        let answer = match follower.capture(terminal) {
            Ok(report) => {
                let (line, answer) = told(&report, began.elapsed());
                terminal.note(line);
                figures.succeeded(&report, began.elapsed());
                answer
            }
            Err(error) if error.kind() == ErrorKind::Cancelled && terminal.cancelled() => break,
            Err(error) => {
                let text = error.chain();
                terminal.note(format!("no image this time: {text}"));
                figures.failed();
                json!({ "error": text })
            }
        };
        control::answer(asked, &answer);
        if config.keep.any() {
            let sweep = swept.elapsed() >= SWEEP;
            if let Err(error) = remove_old(&store, &machine, &config, sweep, terminal) {
                terminal.note(format!("old images stay for now: {}", error.chain()));
            }
            if sweep {
                swept = Instant::now();
            }
        }
        figures.write(follower.pending_bytes(), terminal);
        written = Instant::now();
    }
    Ok(())
}

/// A line for the log, and the same for whoever has asked.
fn told(report: &Report, took: Duration) -> (String, Value) {
    let image = report.stored.as_ref().map(|stored| stored.image.clone()).unwrap_or_default();
    let live = report.live.clone().unwrap_or_default();
    let added = report.stored.as_ref().map(|stored| stored.added);
    let line = format!("{image}: {} in {:.1} s", crate::cli::live::line(&live), took.as_secs_f64());
    (line, json!({ "image": image, "live": live, "added": added }))
}

/// Removes the images that no rule keeps; gives back their room if `sweep`.
fn remove_old(
    store: &Store,
    machine: &str,
    config: &Config,
    sweep: bool,
    monitor: &dyn Monitor,
) -> Result<()> {
    let decisions = config.keep.policy().decide(&store.images_of(machine)?);
    let going: Vec<_> = decisions
        .into_iter()
        .filter(|decision| decision.reasons.is_empty())
        .map(|decision| decision.image)
        .collect();
    if !going.is_empty() {
        store.remove_images(&going)?;
    }
    if sweep {
        let holder = unmoor_capture::facts::holder();
        store.prune(&PruneOptions { wait: false, holder, ..PruneOptions::default() }, monitor)?;
    }
    Ok(())
}
