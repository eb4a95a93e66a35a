// SPDX-License-Identifier: Apache-2.0
//! `unmoor inspect`.

mod guests;
mod kernel;
mod machine;
mod show;
mod systems;

pub(crate) use show::{captured, place, regions, table_name};

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use unmoor_capture::disk::{Disk, Kind, OpenOptions};
use unmoor_capture::{InUse, Survey, SurveyOptions, survey, survey_disks};
use unmoor_convert::inspection::Inspection;
use unmoor_convert::os::{self, OsFacts};
use unmoor_images::layout::{self, Hibernated};
use unmoor_images::manifest::Manifest;
use unmoor_images::store::Location;
use unmoor_images::{BlockSource, Error, ErrorKind, Result, State};

use super::store::StoreOptions;
use super::values::FormatName;
use crate::output::{Outcome, Terminal};
use kernel::Kernel;

const EXAMPLES: &str = "\
Examples:
  unmoor inspect /dev/sda
  unmoor inspect --json web01.qcow2
  unmoor inspect dir:/srv/images/web01
      An image of a store
  unmoor inspect /dev/sda /dev/sdb
      Disks of one machine together, where volumes span them
  unmoor inspect --machine --json >new-machine.json
      This machine's inventory, for --profile new-machine.json";

/// Show what is on a disk or in an image
///
/// Partitions, volumes, filesystems, how many bytes they use, operating systems, and the manifest of an image that has one. Nothing is
/// mounted, and nothing is written.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Block devices or disk images: the disks of one machine; or an image of a store, STORE/NAME or STORE/NAME@TIME
    #[arg(required_unless_present = "machine", value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Show what this machine is made of instead: the file that `--profile` takes with --json
    #[arg(long, conflicts_with = "sources")]
    machine: bool,
    /// Take the images for this format instead of detecting it
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatName>,
    /// Let an image open the backing and data files that it names
    #[arg(long)]
    allow_backing: bool,
    /// Say whether this rescue environment's kernel mounts the filesystems, instead of the running one
    #[arg(long, value_name = "DIR", conflicts_with = "machine")]
    rescue: Option<PathBuf>,
    #[command(flatten)]
    store: StoreOptions,
}

/// Looks, and prints.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    terminal.one_document();
    if arguments.machine {
        return machine::run(terminal);
    }
    let options = SurveyOptions {
        open: OpenOptions {
            allow_backing: arguments.allow_backing,
            format: arguments.format.map(Into::into),
            ..OpenOptions::default()
        },
        layout: layout::Options { all: false, hibernated: Hibernated::Keep },
        in_use: InUse::Mention,
    };
    let (survey, manifest) = match arguments.sources.iter().any(|path| Location::is_path(path)) {
        true => arguments.stored(&options, terminal)?,
        false => (survey(&arguments.sources, &options, terminal)?, arguments.manifest()?),
    };
    let sources: Vec<&dyn BlockSource> = survey.disks.iter().map(|disk| disk as _).collect();
    let systems = os::find(&survey.layouts, &sources, terminal);
    let machine =
        survey.machine().or_else(|| manifest.as_ref().and_then(|manifest| manifest.machine.clone()));
    let guests = guests::read(&survey.layouts, &sources, &systems, machine.as_ref(), terminal);
    let kernel = Kernel::of(arguments.rescue.as_deref(), &sources, &survey.layouts)?;
    if terminal.json() {
        let document = document(&survey, &systems, &guests, manifest.as_ref(), &kernel, &terminal.warnings());
        terminal.print(&document.to_string())?;
    } else {
        let lines = show::lines(&survey, manifest.as_ref(), &kernel, terminal.verbose());
        for line in lines.iter().chain(&systems::lines(&systems, &guests, terminal.verbose())) {
            terminal.print(line)?;
        }
    }
    Ok(Outcome::Done)
}

impl Arguments {
    /// The disks of an image in a store.
    fn stored<'a>(
        &self,
        options: &SurveyOptions,
        terminal: &'a Terminal,
    ) -> Result<(Survey<'a>, Option<Manifest>)> {
        let [path] = self.sources.as_slice() else {
            return Err(Error::new(ErrorKind::Usage, "choosing what to look at")
                .because("an image of a store is looked at alone: it has all disks of its machine"));
        };
        let image = self.store.open_image(path, terminal)?;
        let name = format!("{}@{}", image.record.summary.machine, image.image.time);
        let several = image.disks.len() > 1;
        let disks = image.disks.into_iter().enumerate().map(|(index, disk)| {
            let name = if several { format!("{name}.disk{index}") } else { name.clone() };
            Disk::of_image(name.as_ref(), Box::new(disk.source), Vec::new())
        });
        let survey = survey_disks(disks.collect(), options, terminal)?;
        Ok((survey, Some(image.record.manifest)))
    }

    /// The manifest beside the first source, where that is an image with one.
    fn manifest(&self) -> Result<Option<Manifest>> {
        match self.sources.first() {
            Some(path) if path.is_file() => Ok(Manifest::beside(path)?.map(|(manifest, _)| manifest)),
            _ => Ok(None),
        }
    }
}

fn document(
    survey: &Survey<'_>,
    systems: &[OsFacts],
    guests: &[Option<Inspection>],
    manifest: Option<&Manifest>,
    kernel: &Kernel,
    warnings: &[String],
) -> Value {
    let disks: Vec<Value> = survey
        .disks
        .iter()
        .zip(&survey.layouts)
        .enumerate()
        .map(|(number, (disk, layout))| {
            let bytes = |state| layout.extents.bytes(state);
            let (image_format, physical_sector_size) = match disk.kind() {
                Kind::Image(format) => (Some(*format), None),
                Kind::Device { physical_sector_size, .. } => (None, Some(*physical_sector_size)),
            };
            json!({
                "source": disk.path(),
                "image_format": image_format,
                "size": disk.size(),
                "sector_size": layout.table.sector_size,
                "physical_sector_size": physical_sector_size,
                "table": layout.table,
                "regions": layout.regions,
                "mounting": kernel.document(number),
                "data_bytes": bytes(State::Data),
                "zero_bytes": bytes(State::Zero),
                "hole_bytes": bytes(State::Hole),
            })
        })
        .collect();
    json!({
        "disks": disks,
        "systems": systems,
        "guests": guests.iter().flatten().collect::<Vec<_>>(),
        "machine": survey.machine(),
        "manifest": manifest,
        "warnings": warnings,
    })
}
