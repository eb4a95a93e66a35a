// SPDX-License-Identifier: Apache-2.0
//! Fitting a guest: one path for the appliance, a root host and a disk that was just restored.
//!
//! ```text
//!   plan    images --raw reading--> files --+                       +--> Report { inspection, plan, text }
//!           disks --activate, mount ro--> files --> inspect, rules, firmware, inject-drivers, lint
//!   change  overlays (appliance), a working copy or a block device (direct) --activate, mount--> apply the plan --> disk edits --> commit
//! ```
//!
//! Planning reads the image itself where our own readers can, which takes no machine and no privilege; where they cannot
//! (LUKS, arrays, a journal to replay), the filesystems are mounted.

mod devices;
mod direct;
mod guest;
mod identities;
pub(crate) mod job;
mod planning;
mod served;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unmoor_convert::inspection::Inspection;
use unmoor_convert::plan::{Plan, Severity};
use unmoor_convert::request::Request;
use unmoor_images::adapt::Resized;
use unmoor_images::manifest::{MachineFacts, Manifest};
use unmoor_images::overlay::{self, About, Overlays, Target};
use unmoor_images::{BlockSource, Error, ErrorKind, Monitor, Result, ResultExt};

use crate::appliance::{self, Environment};
use crate::output::Terminal;
pub(crate) use served::Served;

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
    /// What inspecting and planning took once the guest's files could be read; a rescue environment of before does not say.
    #[serde(default)]
    pub(crate) seconds: f64,
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
        Self { inspection: None, plan, text, seconds: 0.0 }
    }

    /// What forbids the plan.
    pub(crate) fn refusal(&self) -> Option<Error> {
        let errors: Vec<&str> = (self.plan.findings.iter())
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| &*finding.text)
            .collect();
        (!errors.is_empty()).then(|| Error::refused("fitting the guest", errors.join("; ")))
    }

    /// For programs.
    pub(crate) fn document(&self, dry_run: bool, terminal: &Terminal) -> Value {
        json!({
            "dry_run": dry_run,
            "refused": self.plan.is_refused(),
            "inspection": self.inspection,
            "plan": self.plan,
            "planning_seconds": self.seconds,
            "warnings": terminal.warnings(),
        })
    }
}

/// The images of a machine, to be looked at and changed.
pub(crate) struct Fitter {
    targets: Vec<Target>,
    /// Bytes of the disks that the guest is fitted on, where they are not the images'.
    sizes: Vec<Option<u64>>,
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
        Self {
            sizes: vec![None; targets.len()],
            facts: manifest.and_then(|manifest| manifest.machine.clone()),
            keys,
            place,
            targets,
        }
    }

    /// Takes the disks for longer or shorter ones than the images': those that they are restored to.
    pub(crate) fn resize(&mut self, sizes: Vec<Option<u64>>) {
        self.sizes = sizes;
    }

    /// Takes disks that the plan writes nothing to behind the image's end for as long as the image again: what becomes of their
    /// tables is the restore's matter.
    pub(crate) fn settle(&mut self, plan: &Plan) -> Result<()> {
        for (number, target) in self.targets.iter().enumerate() {
            let end = overlay::size(target)?;
            let writes = plan.disk.iter().filter(|edit| edit.disk == number).flat_map(|edit| &edit.writes);
            let reaches = writes
                .map(|(at, content)| at.saturating_add(content.bytes().len() as u64))
                .any(|written| written > end);
            if let Some(size) = self.sizes.get_mut(number).filter(|_| !reaches) {
                *size = size.filter(|size| *size < end);
            }
        }
        Ok(())
    }

    /// Bytes of each disk that the guest is fitted on.
    pub(crate) fn disk_sizes(&self) -> Result<Vec<u64>> {
        let each = self.targets.iter().zip(&self.sizes);
        each.map(|(target, size)| size.map_or_else(|| overlay::size(target), Ok)).collect()
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
            Where::Appliance(rescue) => self.run(action, &layers(overlays, false), rescue.as_ref(), monitor),
        }
    }

    fn look_in_appliance(
        &self,
        action: &Action,
        rescue: Option<&PathBuf>,
        monitor: &dyn Monitor,
    ) -> Result<Value> {
        if self.sizes.iter().any(Option::is_some) {
            // QEMU shows an image as long as it is; a layer over it may be longer.
            let folder = tempfile::tempdir().doing(|| "making a temporary folder")?;
            let overlays = overlay::create_apart(&self.targets, &self.disk_sizes()?, folder.path())?;
            return self.run(action, &layers(&overlays, true), rescue, monitor);
        }
        let disks = self.targets.iter().map(|target| appliance::Disk {
            path: target.image.clone(),
            format: target.format.qemu_name(),
            read_only: true,
            sector_size: target.sector_size,
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

    /// The disks that the guest is fitted on.
    fn sources(&self) -> Result<Vec<Box<dyn BlockSource>>> {
        let open = |(target, size): (&Target, &Option<u64>)| -> Result<Box<dyn BlockSource>> {
            let source = overlay::base(target)?;
            Ok(match size {
                Some(size) => Box::new(Resized::new(source, *size)),
                None => source,
            })
        };
        self.targets.iter().zip(&self.sizes).map(open).collect()
    }
}

/// Overlays as disks of the appliance.
fn layers(overlays: &Overlays, read_only: bool) -> Vec<appliance::Disk> {
    let each = overlays.targets().iter().zip(overlays.paths());
    let disks = each.map(|(target, path)| appliance::Disk {
        path: path.clone(),
        format: "qcow2",
        read_only,
        sector_size: target.sector_size,
    });
    disks.collect()
}
