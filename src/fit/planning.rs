// SPDX-License-Identifier: Apache-2.0
//! From a guest's files to a plan. Nothing is written, whatever the files are read through.

use std::time::Instant;

use unmoor_convert::devices::Devices;
use unmoor_convert::files::{self, Files};
use unmoor_convert::plan::Draft;
use unmoor_convert::request::Request;
use unmoor_convert::{firmware, identity, inspect, lint, os, rules};
use unmoor_images::layout::{self, DiskLayout, Hibernated};
use unmoor_images::manifest::MachineFacts;
use unmoor_images::{BlockSource, Error, Monitor, Result, ResultExt};

use super::{Report, guest};

/// A guest that can be read.
pub(super) struct Readable<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) devices: &'a Devices,
    pub(super) disks: &'a [&'a dyn BlockSource],
    pub(super) layouts: &'a [DiskLayout],
    pub(super) facts: Option<&'a MachineFacts>,
}

/// Inspects the guest and plans what the request asks for. What forbids the plan is among its findings.
pub(crate) fn plan_of(guest: &Readable<'_>, request: &Request) -> Result<Report> {
    let Readable { files, devices, disks, layouts, facts } = guest;
    let start = Instant::now();
    let inspection = inspect::inspect(*files, devices, *facts).doing(|| "inspecting the guest")?;
    let mut draft = Draft::new(*files);
    rules::plan(&mut draft, &inspection, devices, request).doing(|| "planning the edits")?;
    let clone = identity::decide(&mut draft, &inspection, devices, disks, layouts, request)
        .doing(|| "planning other identities")?;
    firmware::plan(&mut draft, &inspection, devices, disks, layouts, request, &clone.names)
        .doing(|| "planning the firmware")?;
    identity::plan(&mut draft, &inspection, &clone).doing(|| "planning other identities")?;
    unmoor_inject_drivers::inject(&mut draft, &inspection, request).doing(|| "planning the drivers")?;
    lint::lint(&mut draft, &inspection, &devices.with_new(&clone.names), request)
        .doing(|| "checking the plan")?;
    let mut plan = draft.finish();
    let replaced = plan.disk.iter().map(|edit| super::guest::replaced(edit, disks));
    plan.disk_was = replaced.collect::<Result<_>>()?;
    let text = plan.show(*files)?;
    Ok(Report { inspection: Some(inspection), plan, text, seconds: start.elapsed().as_secs_f64() })
}

/// Plans by reading the disks with our own readers.
///
/// # Errors
///
/// Where they cannot read the root filesystem, or one that fstab mounts where boot or configuration files lie.
pub(super) fn raw(
    disks: &[&dyn BlockSource],
    facts: Option<&MachineFacts>,
    request: &Request,
    monitor: &dyn Monitor,
) -> Result<Report> {
    let options = layout::Options { all: false, hibernated: Hibernated::Keep };
    let layouts = layout::analyze(disks, &options, monitor)?;
    let devices = Devices::of(&layouts, disks, facts);
    let found = os::find(&layouts, disks, monitor);
    if found.is_empty() {
        // Only a kernel can say that there is none: what our readers do not open may hold it.
        return Err(Error::unsupported("reading the guest", "no Linux was found without mounting"));
    }
    let system = guest::the_system(found, monitor)?;
    files::raw::look(&layouts, disks, &devices, &system, |files| {
        if let Some(note) =
            files.notes().iter().find(|note| guest::MOUNTS.iter().any(|point| note.starts_with(point)))
        {
            return Err(Error::unsupported("reading the guest", note.clone()));
        }
        plan_of(&Readable { files, devices: &devices, disks, layouts: &layouts, facts }, request)
    })
}
