// SPDX-License-Identifier: Apache-2.0
//! The appliance: the rescue environment in QEMU, with disks attached, a job in and a result out.
//!
//! ```text
//!   job (one line of JSON) --virtio-serial "unmoor.0"--> PID 1 --{"event": ...}...--> {"result": ...} or {"error": ...}
//! ```
//!
//! A guest's filesystems are then parsed by the appliance's kernel, which is thrown away afterwards, and by no other. It has no
//! network, its files are in a folder that only this user can read, and it ends with this process.

mod accelerator;
mod command;
mod environment;
mod port;
mod sys;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use unmoor_images::{Error, ErrorKind, Monitor, Result, ResultExt};

pub(crate) use accelerator::Accelerator;
pub(crate) use environment::Environment;
use port::{Line, Port};
pub(crate) use sys::{clone_file, private_folder, raise_open_files};

const PROGRAM: &str = "qemu-system-x86_64";
/// A machine that works has said something by then; one whose KVM does not work never does.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// QEMU's own end, after the result is there.
const GOODBYE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(20);

/// A disk of the appliance.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// QEMU's name of its format.
    pub(crate) format: &'static str,
    pub(crate) read_only: bool,
    /// Bytes per logical sector.
    pub(crate) sector_size: u32,
}

/// What is to be done.
pub(crate) struct Job<'a> {
    pub(crate) job: &'a Value,
    /// In the order of their serial numbers DISK0, DISK1 ...
    pub(crate) disks: &'a [Disk],
    /// After this time it has failed.
    pub(crate) limit: Duration,
}

/// Runs the job; its result.
///
/// # Errors
///
/// What the job failed with; `Refused` where QEMU is missing; `Io` where it fails or the time is over.
pub(crate) fn run(environment: &Environment, job: &Job<'_>, monitor: &dyn Monitor) -> Result<Value> {
    let accelerator = Accelerator::choose();
    match attempt(environment, job, accelerator, monitor) {
        Ok(Some(result)) => {
            accelerator.works();
            Ok(result)
        }
        Ok(None) => {
            monitor.warn(
                "KVM does not run a machine here: falling back to emulation, which is several times slower"
                    .into(),
            );
            accelerator.does_not_work();
            let emulated = attempt(environment, job, Accelerator::Tcg, monitor)?;
            emulated
                .ok_or_else(|| Error::new(ErrorKind::Io, "running the appliance").because("it says nothing"))
        }
        Err(error) => Err(error),
    }
    .doing(|| "running the appliance")
}

/// `None` where a machine with KVM never says a word.
fn attempt(
    environment: &Environment,
    job: &Job<'_>,
    accelerator: Accelerator,
    monitor: &dyn Monitor,
) -> Result<Option<Value>> {
    let folder = sys::private_folder()?;
    let port = Port::listen(&folder.path().join("job"), job.job)?;
    let console = folder.path().join("console");
    let errors = folder.path().join("errors");
    let mut command = command::of(environment, job.disks, accelerator, folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(std::fs::File::create(&errors).doing(|| "creating a file for QEMU's messages")?);
    sys::end_with_parent(&mut command);
    let child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::refused(
            "starting QEMU",
            format!(
                "{PROGRAM} is not installed, and a guest's filesystems are mounted in it unless --direct is given: \
                 apt-get install qemu-system-x86"
            ),
        ),
        _ => Error::io("starting QEMU", error),
    })?;
    let mut running = Running(child);
    let start = Instant::now();
    let said = || std::fs::metadata(&console).is_ok_and(|found| found.len() > 0);
    let mut heard = false;
    loop {
        if monitor.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "waiting for it").because("stopped on request"));
        }
        match port.next(TICK) {
            Line::Event(event) => {
                heard = true;
                report(&event, monitor);
            }
            Line::Result(result) => {
                running.ended_well(&errors)?;
                return Ok(Some(result));
            }
            Line::Failed(error) => {
                // The machine's own end does not matter any more.
                return Err(error);
            }
            Line::Nothing => {}
            Line::Malformed(because) => {
                return Err(Error::malformed("reading its answer", because));
            }
        }
        heard = heard || said();
        if let Some(status) = running.0.try_wait().doing(|| "waiting for QEMU")? {
            // Its last words may still be on their way.
            match port.next(Duration::from_millis(500)) {
                Line::Result(result) if status.success() => return Ok(Some(result)),
                Line::Failed(error) => return Err(error),
                _ => {}
            }
            if accelerator == Accelerator::Kvm && !heard && !status.success() {
                return Ok(None);
            }
            let because = format!("QEMU ended without a result ({status}){}", words(&errors, &console));
            return Err(Error::new(ErrorKind::Io, "waiting for it").because(because));
        }
        if accelerator == Accelerator::Kvm && !heard && start.elapsed() > FIRST_WORD {
            return Ok(None);
        }
        if start.elapsed() > job.limit {
            let seconds = job.limit.as_secs();
            let because = format!("there is no result after {seconds} s{}", words(&errors, &console));
            return Err(Error::new(ErrorKind::Io, "waiting for it").because(because));
        }
    }
}

/// An event of the appliance's: what it warns of, and what it is at.
fn report(event: &Value, monitor: &dyn Monitor) {
    let text = |name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
    match (text("warning"), text("note")) {
        (Some(warning), _) => monitor.warn(warning),
        (None, Some(note)) => monitor.note(note),
        (None, None) => {}
    }
}

/// The last words of QEMU and of the machine.
fn words(errors: &Path, console: &Path) -> String {
    let tail = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let from = bytes.len().saturating_sub(2000);
        let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.iter().skip(lines.len().saturating_sub(5)).copied().collect::<Vec<_>>().join(" | ")
    };
    let mut text = String::new();
    for (who, path) in [("QEMU said", errors), ("its console ends with", console)] {
        let tail = tail(path);
        if !tail.is_empty() {
            text.push_str(&format!("; {who}: {tail}"));
        }
    }
    text
}

/// QEMU, ended when dropped.
struct Running(Child);

impl Running {
    /// Waits for the machine to power itself off.
    fn ended_well(&mut self, errors: &Path) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < GOODBYE {
            if let Some(status) = self.0.try_wait().doing(|| "waiting for QEMU")? {
                if status.success() {
                    return Ok(());
                }
                let because = format!("{status}{}", words(errors, Path::new("")));
                return Err(Error::new(ErrorKind::Io, "ending the machine").because(because));
            }
            std::thread::sleep(TICK);
        }
        // The result was sent after everything was flushed, but what QEMU holds in memory may not be in the overlay.
        let because = format!("it did not power off within {} s", GOODBYE.as_secs());
        Err(Error::new(ErrorKind::Io, "ending the machine").because(because))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
