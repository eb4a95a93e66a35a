// SPDX-License-Identifier: Apache-2.0
//! `unmoor convert`.

mod definitions;
mod keys;
mod stored;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use unmoor_convert::plan::Plan;
use unmoor_images::formats;
use unmoor_images::manifest::Manifest;
use unmoor_images::overlay::{self, About, Target};
use unmoor_images::{Error, ErrorKind, Monitor, Result, ResultExt};

pub(crate) use keys::KeyOptions;

use super::fitting::FitOptions;
use super::store::StoreOptions;
use crate::fit::{Action, Done, Fitter, Report, Where};
use crate::output::size::show_size;
use crate::output::{Outcome, Terminal};
use stored::{Made, Stored};

const EXAMPLES: &str = "\
Examples:
  unmoor convert --profile kvm web01.qcow2
      Fits the guest to a virtual machine with virtio, and writes its definition

  unmoor convert --profile kvm --dry-run web01.qcow2
      Shows what would be changed, and changes nothing

  unmoor convert --profile new-server.json --firmware uefi web01.qcow2
      To the machine of which unmoor inspect --machine made that file

  unmoor convert --profile kvm dir:/srv/images/web01
      Stores the fitted guest as another image of the machine, and leaves the first as it is

  unmoor convert --undo web01.qcow2
      Gives the guest's files back what they were";

const SAFETY: &str = "\
What is changed:
  The guest's files are changed through a layer over the image. It is copied into the
  image when all is done and flushed; a run that is interrupted before that has changed
  nothing, and one that is interrupted after it is carried on by the next command that
  opens the image. A copy of each changed file is kept in the guest, in
  /var/lib/unmoor/undo. Nothing of the guest is executed.

  An image of a store never changes: what was fitted is stored as another image of that
  time, NAME@TIME-2, which shares with the first one all that is the same.

  The guest's filesystems are mounted by a small machine in QEMU, the appliance, or, with
  --direct, by this host's kernel.";

/// Fit the guest in an image to other hardware
///
/// Drivers for the new machine's disks and adapters are added to the guest's initramfs, and its configuration is made
/// to name disks and adapters so that they are found there. What is to be changed is planned and checked first: a guest that
/// would not boot is refused, and nothing is written.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{SAFETY}"))]
pub(crate) struct Arguments {
    /// The images of one machine's disks, in their order; or an image of a store, STORE/NAME or STORE/NAME@TIME
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    fit: FitOptions,
    /// Show what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Carry out the plan in this file, which --plan wrote, instead of making one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plan", "profile"])]
    apply_plan: Option<PathBuf>,
    /// Give the guest's files back what they were before it was last fitted
    #[arg(long, conflicts_with_all = ["plan", "profile", "apply_plan"])]
    undo: bool,
    /// Replace definitions that are there; with --undo, bring back files too that were changed since, or whose disk was
    /// changed with them
    #[arg(long)]
    force: bool,
    /// Mount the guest's filesystems with this host's kernel, as root, instead of in the appliance
    #[arg(long)]
    direct: bool,
    /// The rescue environment to run as the appliance, as unmoor rescue build made it
    #[arg(long, value_name = "DIR", conflicts_with = "direct")]
    rescue: Option<PathBuf>,
    /// Write no definitions of the virtual machine beside the image. Beside an image of a store none are written
    #[arg(long)]
    no_definitions: bool,
    #[command(flatten)]
    store: StoreOptions,
}

/// Plans, shows, and does.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    terminal.one_document();
    let stored = Stored::open(arguments, terminal)?;
    let (targets, manifest) = match &stored {
        Some(stored) => (stored.targets(), Some(stored.manifest.clone())),
        None => arguments.files(terminal)?,
    };
    let keys = arguments.fit.keys()?;
    let place = if arguments.direct { Where::Direct } else { Where::Appliance(arguments.rescue.clone()) };
    let machine = targets.clone();
    let fitter = Fitter::new(targets, manifest.as_ref(), keys, place);
    let change = |action: &Action, what: &str| -> Result<(Done, Option<Made>)> {
        let about = arguments.about(what);
        match &stored {
            Some(stored) => {
                stored.change(&fitter, action, &about, terminal).map(|(done, made)| (done, Some(made)))
            }
            None => fitter.change(action, &about, terminal).map(|done| (done, None)),
        }
    };
    if arguments.undo {
        let (undone, made) = change(&Action::Undo { force: arguments.force }, "undone")?;
        let document = json!({
            "undone": undone, "stored": made.as_ref().map(Made::document), "warnings": terminal.warnings(),
        });
        return finish(&document, &said("the guest is as it was", made.as_ref()), terminal);
    }
    let report = match &arguments.apply_plan {
        Some(file) => {
            let json = std::fs::read(file).doing(|| format!("reading the plan {}", file.display()))?;
            let plan = Plan::load(&json).doing(|| format!("reading the plan {}", file.display()))?;
            Report::of_plan(plan)
        }
        None => {
            let request = arguments.fit.request(fitter.payload()?)?;
            fitter.plan(&request, terminal)?
        }
    };
    if !terminal.json() {
        report.text.lines().try_for_each(|line| terminal.print(&crate::output::table::plain_line(line)))?;
    }
    let definitions = if arguments.no_definitions || stored.is_some() {
        Vec::new()
    } else {
        definitions::of(&report.plan, &machine, manifest.as_ref())?
    };
    let mut refusal = report.refusal().or_else(|| arguments.plan.as_deref().and_then(definitions::taken));
    match definitions::obstacle(&definitions, arguments.force) {
        Some(obstacle) if arguments.dry_run => terminal.warn(obstacle.chain()),
        obstacle => refusal = refusal.or(obstacle),
    }
    if let Some(refusal) = refusal {
        if terminal.json() {
            terminal.print_refusal(&report.document(arguments.dry_run, terminal), &refusal)?;
        }
        return Err(refusal);
    }
    if let Some(file) = &arguments.plan {
        let json = report.plan.to_json()?;
        std::fs::File::create_new(file)
            .and_then(|mut out| out.write_all(json.as_bytes()))
            .doing(|| format!("writing the plan {}", file.display()))?;
    }
    if arguments.dry_run {
        return finish(&report.document(true, terminal), "nothing was changed", terminal);
    }
    let what = format!("fitted to {}", arguments.fit.profile.as_deref().unwrap_or("a saved plan"));
    let action = Action::Apply(Box::new(report.plan.clone()));
    let (done, made) = change(&action, &what)?;
    // The guest is fitted, whatever becomes of the files beside it.
    let (written, failed): (Vec<_>, Vec<_>) =
        definitions.iter().map(definitions::File::write).partition(std::result::Result::is_ok);
    for error in failed.into_iter().filter_map(Result::err) {
        terminal.warn(format!(
            "the guest is fitted, but a definition of its machine is missing: {}",
            error.chain()
        ));
    }
    let definitions: Vec<PathBuf> = written.into_iter().filter_map(Result::ok).collect();
    let mut document = report.document(false, terminal);
    if let Some(document) = document.as_object_mut() {
        document.insert("done".into(), json!(done));
        document.insert("stored".into(), json!(made.as_ref().map(Made::document)));
        document.insert("definitions".into(), json!(definitions));
    }
    let changed = format!("fitted: {} changed", show_size(done.changed_bytes.iter().sum()));
    let mut said = said(&changed, made.as_ref());
    for path in &definitions {
        said.push_str(&format!("\n{}", path.display()));
    }
    finish(&document, &said, terminal)
}

/// With the image that was made, on a line of its own.
fn said(what: &str, made: Option<&Made>) -> String {
    made.map_or_else(|| what.to_owned(), |made| format!("{what}\n{}", made.line()))
}

fn finish(document: &serde_json::Value, said: &str, terminal: &Terminal) -> Result<Outcome> {
    if terminal.json() {
        terminal.print(&document.to_string())?;
    } else {
        terminal.print(said)?;
    }
    Ok(Outcome::Done)
}

impl Arguments {
    /// Image files, and their machine's manifest.
    fn files(&self, terminal: &Terminal) -> Result<(Vec<Target>, Option<Manifest>)> {
        for image in &self.images {
            overlay::finish_interrupted(image, terminal)?;
        }
        let targets = self.targets()?;
        if !self.dry_run {
            targets.iter().try_for_each(|target| formats::check_changed(&target.image, target.format))?;
        }
        Ok((targets, self.manifest()?))
    }

    fn targets(&self) -> Result<Vec<Target>> {
        let target = |image: &PathBuf| {
            if !image.is_file() {
                let because = "it is not an image file: restore --profile fits a disk while it is restored";
                std::fs::metadata(image).map_err(|error| Error::io("opening", error).path(image))?;
                return Err(Error::new(ErrorKind::Usage, "opening").path(image).because(because));
            }
            let record =
                Manifest::beside(image)?.and_then(|(manifest, at)| manifest.disks.into_iter().nth(at));
            let (format, sector_size) = match record {
                Some(record) => (record.image_format, record.sector_size),
                None => (formats::open(image, &formats::OpenOptions::default())?.format, 512),
            };
            Ok(Target::file(image.clone(), format, sector_size))
        };
        self.images.iter().map(target).collect()
    }

    /// The manifest beside the first image. Images of a machine whose other disks are missing here may hide its root.
    fn manifest(&self) -> Result<Option<Manifest>> {
        let first = self.images.first().map(|image| Manifest::beside(image)).transpose()?.flatten();
        let Some((manifest, _)) = first else { return Ok(None) };
        let named =
            |name: &str| self.images.iter().any(|image| image.file_name().is_some_and(|file| file == name));
        let missing: Vec<&str> =
            manifest.disks.iter().map(|disk| &*disk.image).filter(|name| !named(name)).collect();
        if missing.is_empty() {
            return Ok(Some(manifest));
        }
        Err(Error::new(ErrorKind::Usage, "choosing images")
            .because(format!("the machine has other disks too: name {} as well", missing.join(" and "))))
    }

    fn about(&self, what: &str) -> About {
        About {
            time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            tool: concat!("unmoor ", env!("CARGO_PKG_VERSION")).to_owned(),
            what: what.to_owned(),
        }
    }
}
