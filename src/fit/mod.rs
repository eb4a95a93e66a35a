// SPDX-License-Identifier: Apache-2.0
//! Fitting a guest: one path for the appliance, a root host and a disk that was just restored.
//!
//! ```text
//!   plan    images --raw reading--> files --+                       +--> Report { inspection, plan, text }
//!           disks --activate, mount ro--> files --> inspect, rules, firmware, inject-drivers, lint
//!   change  overlays (appliance) or a working copy (direct) --activate, mount--> apply the plan --> disk edits --> commit
//! ```
//!
//! Planning reads the image itself where our own readers can, which takes no machine and no privilege; where they cannot
//! (LUKS, arrays, a journal to replay), the filesystems are mounted.

mod direct;
mod guest;
mod identities;
pub(crate) mod job;
mod planning;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unmoor_convert::inspection::Inspection;
use unmoor_convert::plan::{Plan, Severity};
use unmoor_convert::request::Request;
use unmoor_images::formats::{self, Format};
use unmoor_images::manifest::{MachineFacts, Manifest};
use unmoor_images::overlay::{self, About, Overlays, Target};
use unmoor_images::{BlockSource, Error, ErrorKind, Monitor, Result};

use crate::appliance::{self, Environment};
use crate::output::Terminal;

/// What an appliance may take: reading a machine's modules and writing some initramfs files, emulated.
const LIMIT: Duration = Duration::from_secs(900);

/// What is done to a guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Make a plan; nothing is written.
    Plan(Box<Request>),
    /// Carry out this plan.
    Apply(Box<Plan>),
    /// Give the files of the last plan back what they were.
    #[allow(missing_docs)]
    Undo { force: bool },
}

/// Who mounts the guest's filesystems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Where {
    /// The appliance, made from this rescue environment or from one that is found.
    Appliance(Option<PathBuf>),
    /// This host's kernel.
    Direct,
}

/// A plan and what it was made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) inspection: Option<Inspection>,
    pub(crate) plan: Plan,
    /// For people.
    pub(crate) text: String,
}

/// What a change did.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Done {
    /// Bytes of each image that are others now.
    pub(crate) changed_bytes: Vec<u64>,
    /// What was done to the guest's files.
    pub(crate) applied: Value,
}

impl Report {
    /// A plan that was made at another time.
    pub(crate) fn of_plan(plan: Plan) -> Self {
        let count = plan.edits.len();
        let disks = plan.disk.len() + plan.identities.len();
        let mut text = format!("a saved plan: {count} files, {disks} changes of disks");
        for edit in &plan.edits {
            text.push_str(&format!("\nchanges {}", edit.path));
        }
        for edit in &plan.disk {
            for line in &edit.summary {
                text.push_str(&format!("\ndisk {}: {line}", edit.disk));
            }
        }
        for edit in &plan.identities {
            text.push_str(&format!("\n{}", edit.of.summary()));
        }
        Self { inspection: None, plan, text }
    }

    /// Fails with what forbids the plan.
    pub(crate) fn refuse_if_hopeless(&self, terminal: &Terminal, dry_run: bool) -> Result<()> {
        let errors: Vec<&str> = (self.plan.findings.iter())
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| &*finding.text)
            .collect();
        if errors.is_empty() {
            return Ok(());
        }
        if terminal.json() {
            terminal.print(&self.document(dry_run, terminal).to_string())?;
        }
        Err(Error::refused("fitting the guest", errors.join("; ")))
    }

    /// For programs.
    pub(crate) fn document(&self, dry_run: bool, terminal: &Terminal) -> Value {
        json!({
            "dry_run": dry_run,
            "refused": self.plan.is_refused(),
            "inspection": self.inspection,
            "plan": self.plan,
            "warnings": terminal.warnings(),
        })
    }
}

/// The images of a machine, to be looked at and changed.
pub(crate) struct Fitter {
    targets: Vec<Target>,
    sector_sizes: Vec<u32>,
    facts: Option<MachineFacts>,
    keys: Vec<Vec<u8>>,
    place: Where,
}

impl Fitter {
    pub(crate) fn new(
        targets: Vec<Target>,
        manifest: Option<&Manifest>,
        keys: Vec<Vec<u8>>,
        place: Where,
    ) -> Self {
        let record = |target: &Target| {
            let name = target.image.file_name().unwrap_or_default().to_string_lossy();
            manifest?.disks.iter().find(|disk| disk.image == name)
        };
        let sector_sizes = targets.iter().map(|target| record(target).map_or(512, |disk| disk.sector_size));
        Self {
            sector_sizes: sector_sizes.collect(),
            facts: manifest.and_then(|manifest| manifest.machine.clone()),
            keys,
            place,
            targets,
        }
    }

    /// Makes a plan; nothing is written.
    pub(crate) fn plan(&self, request: &Request, monitor: &dyn Monitor) -> Result<Report> {
        let sources = self.sources()?;
        let disks: Vec<&dyn BlockSource> = sources.iter().map(|source| &**source as _).collect();
        match planning::raw(&disks, self.facts.as_ref(), request, monitor) {
            Ok(report) => Ok(report),
            // A refusal or a wish to stop is an answer; anything else may be what a kernel can do and our readers cannot.
            Err(error)
                if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Cancelled | ErrorKind::Usage) =>
            {
                Err(error)
            }
            Err(error) => {
                monitor.note(format!(
                    "mounting the guest, since its files cannot be read otherwise: {}",
                    error.chain()
                ));
                let action = Action::Plan(Box::new(request.clone()));
                let said = match &self.place {
                    Where::Direct => direct::look(self, &action, monitor)?,
                    Where::Appliance(rescue) => self.look_in_appliance(&action, rescue.as_ref(), monitor)?,
                };
                serde_json::from_value(said)
                    .map_err(|error| Error::new(ErrorKind::Malformed, "reading the plan").source(error))
            }
        }
    }

    /// Does `action` to the guest, and commits it.
    pub(crate) fn change(&self, action: &Action, about: &About, monitor: &dyn Monitor) -> Result<Done> {
        let overlays = overlay::create(&self.targets)?;
        let applied = self.change_in(&overlays, action, monitor)?;
        let committed = overlay::commit(overlays, about, monitor)?;
        Ok(Done { changed_bytes: committed.changed_bytes, applied })
    }

    /// Does `action` to the guest as the overlays show it.
    pub(crate) fn change_in(
        &self,
        overlays: &Overlays,
        action: &Action,
        monitor: &dyn Monitor,
    ) -> Result<Value> {
        match &self.place {
            Where::Direct => direct::change(self, overlays, action, monitor),
            Where::Appliance(rescue) => {
                let disks = overlays.paths().iter().zip(&self.sector_sizes);
                let disks = disks.map(|(path, sector_size)| appliance::Disk {
                    path: path.clone(),
                    format: "qcow2",
                    read_only: false,
                    sector_size: *sector_size,
                });
                self.run(action, &disks.collect::<Vec<_>>(), rescue.as_ref(), monitor)
            }
        }
    }

    fn look_in_appliance(
        &self,
        action: &Action,
        rescue: Option<&PathBuf>,
        monitor: &dyn Monitor,
    ) -> Result<Value> {
        let disks =
            self.targets.iter().zip(&self.sector_sizes).map(|(target, sector_size)| appliance::Disk {
                path: target.image.clone(),
                format: match target.format {
                    Format::Raw => "raw",
                    Format::Qcow2 => "qcow2",
                },
                read_only: true,
                sector_size: *sector_size,
            });
        self.run(action, &disks.collect::<Vec<_>>(), rescue, monitor)
    }

    fn run(
        &self,
        action: &Action,
        disks: &[appliance::Disk],
        rescue: Option<&PathBuf>,
        monitor: &dyn Monitor,
    ) -> Result<Value> {
        let environment = Environment::find(rescue.map(PathBuf::as_path), monitor)?;
        let job = job::Job::new(action, disks.len(), &self.keys, self.facts.as_ref());
        let job = serde_json::to_value(&job)
            .map_err(|error| Error::new(ErrorKind::Malformed, "writing the job").source(error))?;
        appliance::run(&environment, &appliance::Job { job: &job, disks, limit: LIMIT }, monitor)
    }

    /// Boot loader files that the rescue environment brings.
    pub(crate) fn payload(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        match &self.place {
            Where::Appliance(rescue) => Environment::payload(rescue.as_deref()),
            Where::Direct => Environment::payload(None),
        }
    }

    fn sources(&self) -> Result<Vec<Box<dyn BlockSource>>> {
        let open = |target: &Target| {
            let options = formats::OpenOptions { allow_backing: false, format: Some(target.format) };
            Ok(formats::open(&target.image, &options)?.source)
        };
        self.targets.iter().map(open).collect()
    }
}
