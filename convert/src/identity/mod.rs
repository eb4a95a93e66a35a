// SPDX-License-Identifier: Apache-2.0
//! A clone's disks: other UUIDs for filesystems, containers, arrays, groups and tables, and every reference to them.
//!
//! ```text
//!   layouts --objects--> what has a UUID, and the new one --kept--> what keeps its own, with a finding each
//!                                   |
//!                                   +--> Names --references--> files, links, EFI programs, new EFI system partitions
//!                                   |          --initramfs---> files of every bootable kernel's initramfs
//!                                   +--> IdentityEdit --carry_out--> bytes, when all files are written and unmounted
//! ```
//!
//! Labels and names stay: people know things by them.

pub mod carry_out;
mod initramfs;
mod kept;
mod names;
mod objects;
mod references;
mod seed;
#[cfg(test)]
mod tests;

use unmoor_images::layout::DiskLayout;
use unmoor_images::{BlockSource, Result, ResultExt};

pub use names::Names;

use crate::devices::Devices;
use crate::inspection::Inspection;
use crate::plan::{Draft, Identified, IdentityEdit, Reason, Severity};
use crate::request::{Identity, Request};
use objects::Collector;

/// The rule's name in edits and findings.
const RULE: &str = "identity";

/// What gets another identity: decided before the firmware is planned, which may name things by it.
#[derive(Debug, Default)]
pub struct Clone {
    /// Old and new.
    pub names: Names,
    edits: Vec<Identified>,
}

/// Decides what on the disks gets another identity; nothing for a machine that moves.
///
/// # Errors
///
/// Where the guest's files cannot be read. What cannot get another identity is no error: it keeps its own, and a finding says why.
pub fn decide(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    devices: &Devices,
    disks: &[&dyn BlockSource],
    layouts: &[DiskLayout],
    request: &Request,
) -> Result<Clone> {
    if request.identity == Identity::Move {
        return Ok(Clone::default());
    }
    let is_mounted = |uuid: &str| {
        let by_fstab = inspection.fstab.iter().filter_map(|line| devices.devices.get(line.device?));
        let is_root = inspection.root.iter().any(|layer| {
            matches!(layer, crate::inspection::Layer::Filesystem { uuid: Some(root), .. } if root == uuid)
        });
        is_root || by_fstab.clone().any(|device| device.uuid.as_deref() == Some(uuid))
    };
    let collector = Collector { disks, layouts, seed: &request.seed, is_mounted: &is_mounted };
    let mut objects = collector.all();
    kept::judge(draft, inspection, devices, disks, &mut objects)
        .doing(|| "looking for what must keep its UUID")?;
    for object in &objects {
        if let Some((why, remedy)) = &object.kept {
            let text = format!("{} keeps its identity: {why}", object.of.what());
            draft.finding(Severity::Warning, RULE, text, remedy.clone());
        }
    }
    let edits: Vec<Identified> =
        objects.into_iter().filter(|object| object.kept.is_none()).map(|object| object.of).collect();
    let names = Names::new(edits.iter().flat_map(Identified::names));
    Ok(Clone { names, edits })
}

/// Plans the changes, and those of every reference in the guest as the draft shows it: after all other rules for files, before what
/// goes into an initramfs is collected.
///
/// # Errors
///
/// Where the guest's files cannot be read or changed.
pub fn plan(draft: &mut Draft<'_>, inspection: &Inspection, clone: &Clone) -> Result<()> {
    if clone.edits.is_empty() {
        return Ok(());
    }
    references::plan(draft, inspection, &clone.names).doing(|| "planning references to new UUIDs")?;
    initramfs::plan(draft, inspection, &clone.names)
        .doing(|| "planning an initramfs' references to new UUIDs")?;
    for of in &clone.edits {
        // The new table has identities of its own.
        if let Identified::Table { disk, old, .. } = of
            && old.len() == 8
            && becomes_gpt(draft, *disk)
        {
            continue;
        }
        let why = "a clone beside its original has identities of its own".to_owned();
        draft.identity(IdentityEdit { reasons: vec![Reason { rule: RULE.to_owned(), why }], of: of.clone() });
    }
    Ok(())
}

fn becomes_gpt(draft: &Draft<'_>, disk: usize) -> bool {
    let edits = draft.disk_edits().iter().filter(|edit| edit.disk == disk);
    edits.flat_map(|edit| &edit.writes).any(|(_, content)| content.bytes().starts_with(b"EFI PART"))
}
