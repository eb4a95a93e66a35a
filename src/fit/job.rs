// SPDX-License-Identifier: Apache-2.0
//! The job that the appliance is given, and what does it there.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unmoor_images::manifest::MachineFacts;
use unmoor_images::monitor::Event;
use unmoor_images::{Error, ErrorKind, Monitor, Result, ResultExt};
use unmoor_initramfs::rescue::payload;

use super::{Action, guest};

/// What [`super::Fitter`] sends.
#[derive(Serialize, Deserialize)]
pub(crate) struct Job {
    /// Always "fit".
    job: String,
    action: Action,
    /// Disks by serial number DISK0, DISK1 ...
    disks: usize,
    /// Secrets for LUKS, base64.
    keys: Vec<String>,
    facts: Option<MachineFacts>,
}

impl Job {
    pub(super) fn new(action: &Action, disks: usize, keys: &[Vec<u8>], facts: Option<&MachineFacts>) -> Self {
        Self {
            job: "fit".into(),
            action: action.clone(),
            disks,
            keys: keys.iter().map(|key| STANDARD.encode(key)).collect(),
            facts: facts.cloned(),
        }
    }

    /// Does it, on the disks of this machine.
    pub(crate) fn run(&self, monitor: &dyn Monitor) -> Result<Value> {
        let disks =
            (0..self.disks).map(|number| disk(&format!("DISK{number}"))).collect::<Result<Vec<_>>>()?;
        let keys =
            self.keys.iter().map(|key| STANDARD.decode(key)).collect::<std::result::Result<Vec<_>, _>>();
        let keys =
            keys.map_err(|error| Error::new(ErrorKind::Malformed, "reading the job's keys").source(error))?;
        let mut action = self.action.clone();
        if let Action::Plan(request) = &mut action {
            let place = Path::new(payload::PLACE);
            if place.is_dir() {
                request.payload = payload::collect(&[place.to_owned()])?;
            }
        }
        guest::act((&disks, 0), &action, &keys, self.facts.as_ref(), monitor)
    }
}

/// Does a job of this kind; the answer is `{"result": ...}` or `{"error": ...}`.
pub(crate) fn answer(job: &Value, events: &(dyn Fn(Value) + Sync)) -> Value {
    let done = Job::deserialize(job)
        .map_err(|error| Error::new(ErrorKind::Malformed, "reading the job").source(error))
        .and_then(|job| job.run(&Events(events)));
    match done {
        Ok(result) => json!({ "result": result }),
        Err(error) => unmoor_initramfs::init::failure(&error),
    }
}

/// Passes on what the host should hear.
struct Events<'a>(&'a (dyn Fn(Value) + Sync));

impl Monitor for Events<'_> {
    fn event(&self, event: Event) {
        match event {
            Event::Warning(text) => (self.0)(json!({ "event": "warning", "warning": text })),
            Event::Note(text) => (self.0)(json!({ "event": "note", "note": text })),
            _ => {}
        }
    }
}

/// The virtio disk with this serial number.
fn disk(serial: &str) -> Result<PathBuf> {
    let blocks = fs::read_dir("/sys/block").doing(|| "listing /sys/block")?;
    for block in blocks {
        let block = block.doing(|| "listing /sys/block")?;
        let found = fs::read_to_string(block.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            return Ok(PathBuf::from("/dev").join(block.file_name()));
        }
    }
    Err(Error::malformed("looking for the guest's disks", format!("there is no disk {serial}")))
}
