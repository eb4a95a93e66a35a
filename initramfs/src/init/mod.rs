// SPDX-License-Identifier: Apache-2.0
//! The rescue environment's /init: PID 1, with no other userland.
//!
//! ```text
//!   mounts --> console --> drivers for disks and networks --> a job (virtio-serial) --> answer --> off
//!                 |            `- the rest, and what is plugged in later (threads)
//!                 `- no job: what this machine is, on the consoles, until it is switched off
//! ```
//!
//! PID 1 never ends by itself: what it fails with, a panic too, is shown for some seconds, and then the machine goes off. No
//! program is started here, so that SIGCHLD is ignored and the kernel reaps what there may be.

mod coldplug;
mod console;
mod dhcp;
mod end;
mod idle;
mod load;
mod modprobe;
mod mounts;
mod parameters;
mod port;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use unmoor_images::{Error, Result};

#[doc(hidden)]
pub use dhcp::answer as dhcp_answer;
pub use end::{End, kexec};
pub use idle::facts;
pub use modprobe::{is_modprobe, modprobe};
pub use parameters::Parameters;

use crate::sys::uevent::Uevents;
use coldplug::Wave;
use console::say;
use load::Loader;
use port::Port;

/// What PID 1 is for.
pub trait Handler {
    /// Does a job; says on the way what is worth it. The answer is `{"result": ...}` or `{"error": {"kind", "message"}}`.
    fn job(&mut self, job: &Value, events: &(dyn Fn(Value) + Sync)) -> Value;

    /// What talks to the server that `parameters` name, if they name one. It runs in a thread of its own, beside the jobs of the
    /// port.
    fn agent(&mut self, parameters: &Parameters) -> Option<Agent> {
        let _ = parameters;
        None
    }
}

/// Runs until it knows how the machine is to end; says on the consoles what it does. It is run again where it fails.
pub type Agent = Box<dyn Fn(&(dyn Fn(&str) + Sync)) -> Result<End> + Send>;

/// After an agent has failed.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

static LOADER: OnceLock<Arc<Loader>> = OnceLock::new();

/// Whether this process is to be PID 1 of a rescue environment. In a container, too, something is PID 1: there /init is another
/// file.
pub fn is_init() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init")
}

/// Is PID 1. Whatever happens, the machine's end comes from here.
pub fn run(handler: &mut dyn Handler) -> ! {
    let failed = mounts::all();
    let parameters = Parameters::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    // Should this process be killed all the same, the kernel panics, and must not stay so.
    let _ = std::fs::write("/proc/sys/kernel/panic", "10");
    // The kernel's warnings stay off the screen: its buffer keeps them, and what matters is said here.
    let _ = std::fs::write("/proc/sys/kernel/printk", "3");
    console::open();
    std::panic::set_hook(Box::new(|panic| say(&format!("panicked: {panic}"))));
    failed.iter().for_each(|failed| say(failed));
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| serve(handler, &parameters)));
    let end = match outcome {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => {
            say(&error.chain());
            end::after_failure(&parameters)
        }
        Err(_) => end::after_failure(&parameters),
    };
    end::reach(end)
}

/// Everything between the mounts and the end.
fn serve(handler: &mut dyn Handler, parameters: &Parameters) -> Result<End> {
    let started = console::clock();
    if let Err(error) = crate::sys::process::ignore_children() {
        say(&format!("ignoring ended children: {error}"));
    }
    let events = Uevents::open()?;
    let loader = Arc::new(Loader::new()?);
    if parameters.is_set("verbose") {
        loader.set_verbose();
    }
    let _ = LOADER.set(Arc::clone(&loader));
    let indexed = console::clock();
    coldplug::all(&loader, Wave::First);
    mounts::firmware_variables();
    let ready = console::clock();
    coldplug::watch(events, Arc::clone(&loader))?;
    let seconds = |time: std::time::Duration| (time.as_secs_f64() * 1000.0).round() / 1000.0;
    let times = json!({ "event": "ready", "started": seconds(started), "indexed": seconds(indexed), "ready": seconds(ready) });
    let appliance = parameters.is_set("appliance");
    if !appliance {
        let loader = Arc::clone(&loader);
        spawn("coldplug", move || coldplug::all(&loader, Wave::Rest))?;
        say(&format!(
            "unmoor {} is up: PID 1 began at {started:.2?}, disks and networks are ready at {ready:.2?}",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let agent = if appliance { None } else { handler.agent(parameters) };
    // A server is somewhere else.
    match parameters.value("net").or(agent.as_ref().map(|_| "dhcp")) {
        Some("dhcp") => dhcp::start()?,
        Some(other) if !matches!(other, "" | "no" | "off" | "none") => {
            say(&format!("unmoor.net={other} is not known: dhcp is"));
        }
        _ => {}
    }
    let mut port = if appliance { Some(Port::wait()?) } else { Port::find() };
    match agent {
        Some(agent) => spawn("agent", move || talk(&agent))?,
        None if port.is_none() => idle::show(),
        None => {}
    }
    loop {
        match port.take().or_else(Port::find) {
            Some(port) => {
                let end = answer(handler, port, &times, parameters)?;
                if end != End::Stay {
                    return Ok(end);
                }
            }
            None => idle::wait(),
        }
    }
}

/// Runs the agent until it says how the machine ends, and ends it so.
fn talk(agent: &Agent) {
    loop {
        match std::panic::catch_unwind(AssertUnwindSafe(|| agent(&|text| say(text)))) {
            Ok(Ok(End::Stay)) | Err(_) => {}
            Ok(Ok(end)) => end::reach(end),
            Ok(Err(error)) => say(&error.chain()),
        }
        std::thread::sleep(AGAIN);
    }
}

/// Does the job that comes through the port.
fn answer(handler: &mut dyn Handler, mut port: Port, ready: &Value, parameters: &Parameters) -> Result<End> {
    let line = port.read_line()?;
    port.write(ready)?;
    let job: Value = match serde_json::from_slice(&line) {
        Ok(job) => job,
        Err(error) => {
            let error = Error::malformed("reading the job", error.to_string());
            port.write(&failure(&error))?;
            return Ok(End::wanted(None, parameters));
        }
    };
    drop(line);
    let answer = {
        let events = |event: Value| {
            // An event that nobody takes is no reason to stop.
            let _ = port.write(&event);
        };
        std::panic::catch_unwind(AssertUnwindSafe(|| handler.job(&job, &events))).unwrap_or_else(
            |panic| json!({ "error": { "kind": "io", "message": format!("panicked: {}", words(&*panic)) } }),
        )
    };
    // What was written to disks is on them before anybody is told so.
    mounts::unmount_all();
    port.write(&answer)?;
    Ok(End::wanted(job.get("end").and_then(Value::as_str), parameters))
}

/// An error as a job's answer.
pub fn failure(error: &Error) -> Value {
    json!({ "error": { "kind": format!("{:?}", error.kind()).to_lowercase(), "message": error.chain() } })
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

/// Loads modules by name or alias; those that are neither loaded nor built in afterwards are told back.
pub fn load_modules(names: &[&str]) -> Vec<String> {
    let Some(loader) = LOADER.get() else { return names.iter().map(|name| (*name).to_owned()).collect() };
    let missing = names.iter().filter(|name| !loader.load(name) && !Loader::is_loaded(name));
    missing.map(|name| (*name).to_owned()).collect()
}

/// A thread that lives as long as the machine.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started.map(drop).map_err(|error| Error::io(format!("starting the thread {name}"), error))
}
