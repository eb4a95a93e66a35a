// SPDX-License-Identifier: Apache-2.0
//! `restore --profile`: the guest is fitted in a layer over the image, and what is restored is the disk as the layer shows it.
//!
//! So a guest that cannot be fitted is refused before the target is touched, the image stays as it is, and tables that the
//! fitting changed are moved and grown as any other's.

use serde_json::{Value, json};
use unmoor_images::manifest::Manifest;
use unmoor_images::overlay::{self, Overlays, Target as Below};
use unmoor_images::partition::rewrite::gpt_ends;
use unmoor_images::{BlockSource, Error, ErrorKind, Result, ResultExt};
use unmoor_restore::image::Image;
use unmoor_restore::plan::Target;

use super::Arguments;
use crate::fit::{Action, Fitter, Report, Served, Where};
use crate::output::Terminal;
use crate::output::table::plain_line;

/// The layers, with the folder that they lie in.
struct Fitted {
    _overlays: Overlays,
    _folder: tempfile::TempDir,
}

/// Bytes behind an image's end that planning may use where the target has them: an EFI system partition takes 512 MiB at most.
const ROOM: u64 = 1 << 30;

/// A guest that is, or would be, fitted on its way.
pub(super) struct Fitting {
    pub(super) report: Report,
    /// The report for programs.
    pub(super) document: Value,
    /// Held until the end: it is what is restored.
    _layers: Option<Fitted>,
}

/// Fits the images' guest, if that is asked for. `stored` is the manifest of an image that lies in a store.
pub(super) fn fit(
    arguments: &Arguments,
    pairs: &mut [(Image, Target)],
    stored: Option<&Manifest>,
    terminal: &Terminal,
) -> Result<Option<Fitting>> {
    let Some(profile) = &arguments.fit.profile else { return Ok(None) };
    if pairs.iter().any(|(image, _)| image.stream.is_some()) {
        return Err(Error::new(ErrorKind::Usage, "fitting the guest")
            .because("a stream cannot be looked into before it is written: capture to a file first"));
    }
    let disks: Option<Vec<_>> = pairs.iter().map(|(image, _)| image.shared.clone()).collect();
    // Until the guest is fitted; what is restored reads the store itself.
    let served = disks.filter(|_| stored.is_some()).map(Served::start).transpose()?;
    let below: Vec<Below> = match &served {
        Some(served) => served.targets().to_vec(),
        None => pairs.iter().map(|(image, _)| file(image)).collect(),
    };
    let manifest = match stored {
        Some(manifest) => Some(manifest.clone()),
        None => arguments.machine(&below)?,
    };
    if let Some(manifest) = &manifest {
        check_whole(manifest, pairs)?;
    }
    let place = if arguments.direct { Where::Direct } else { Where::Appliance(arguments.rescue.clone()) };
    let mut fitter = Fitter::new(below.clone(), manifest.as_ref(), arguments.fit.keys()?, place);
    fitter.resize(pairs.iter().map(|(image, target)| size(image, target, arguments)).collect());
    let request = arguments.fit.request(fitter.payload()?)?;
    let report = fitter.plan(&request, terminal)?;
    fitter.settle(&report.plan)?;
    if !terminal.json() {
        report.text.lines().try_for_each(|line| terminal.print(&plain_line(line)))?;
    }
    let document = report.document(arguments.dry_run, terminal);
    if let Some(refusal) = report.refusal() {
        if terminal.json() {
            terminal.print_refusal(&json!({ "event": "refused", "fitting": document }), &refusal)?;
        }
        return Err(refusal);
    }
    if arguments.dry_run {
        return Ok(Some(Fitting { report, document, _layers: None }));
    }
    let folder =
        tempfile::Builder::new().prefix("unmoor-").tempdir().doing(|| "making a temporary folder")?;
    let overlays = overlay::create_apart(&below, &fitter.disk_sizes()?, folder.path())?;
    let changed = fitter.change_in(&overlays, &Action::Apply(Box::new(report.plan.clone())), terminal);
    served.iter().for_each(|served| served.report(terminal));
    changed?;
    let changed = overlay::changes(&overlays, terminal)?;
    for ((image, _), disk) in pairs.iter_mut().zip(changed) {
        image.fit(disk, &format!("fitted to {profile}"), terminal)?;
    }
    let layers = Fitted { _overlays: overlays, _folder: folder };
    Ok(Some(Fitting { report, document, _layers: Some(layers) }))
}

fn file(image: &Image) -> Below {
    Below::file(image.path.clone(), image.format, image.source.sector_size())
}

/// The size of the disk to plan for, where it is not the image's: some of a larger target's room, or a smaller target if all partitions
/// lie within it. What else is to happen to the table, the restore plans when the guest is fitted.
fn size(image: &Image, target: &Target, arguments: &Arguments) -> Option<u64> {
    let own = image.source.size();
    let new = match target {
        Target::Device { size, .. } => *size,
        Target::File { .. } => arguments.size?,
    };
    if new > own {
        return Some(new.min(own.next_multiple_of(1 << 20).saturating_add(ROOM)));
    }
    let (_, table) = gpt_ends(image.source.sector_size());
    let mut partitions = image.table.partitions.iter();
    let fits = partitions
        .all(|partition| partition.start.saturating_add(partition.len).saturating_add(table) <= new);
    (new < own && fits).then_some(new)
}

/// A guest of several disks is fitted as a whole: its root, its boot loader and its volume groups may be on any of them.
fn check_whole(manifest: &Manifest, pairs: &[(Image, Target)]) -> Result<()> {
    let is = |image: &Image, name: &str| {
        image.path.ends_with(name) || image.record.as_ref().is_some_and(|record| record.image == name)
    };
    let there = |name: &str| pairs.iter().any(|(image, _)| is(image, name));
    let missing: Vec<String> = manifest
        .disks
        .iter()
        .enumerate()
        .filter(|(_, disk)| !there(&disk.image))
        .map(|(number, disk)| format!("--disk {number}=TARGET for {}", disk.source))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let because = format!(
        "the machine has {} disks, and its guest is fitted on all of them together: add {}, or leave --profile out",
        manifest.disks.len(),
        missing.join(" and ")
    );
    Err(Error::refused("fitting the guest", because))
}

impl Arguments {
    /// The manifest that says what the machine is.
    fn machine(&self, images: &[Below]) -> Result<Option<Manifest>> {
        let first = images.first().map(|first| Manifest::beside(&first.image));
        Ok(first.transpose()?.flatten().map(|(manifest, _)| manifest))
    }
}
