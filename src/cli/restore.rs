// SPDX-License-Identifier: Apache-2.0
//! `unmoor restore`.

mod target;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use unmoor_images::manifest::Manifest;
use unmoor_images::{Error, ErrorKind, Monitor, Result};
use unmoor_restore::execute::execute;
use unmoor_restore::image::{Image, OpenOptions};
use unmoor_restore::plan::{Grow, Options, Plan, Target};
use unmoor_restore::record::RestoreRecord;

use super::values::ImageOptions;
use crate::output::size::{parse_size, show_size};
use crate::output::table::plain;
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor restore web01.qcow2 /dev/sdb
      Shows what is on /dev/sdb and what will be written, and asks

  unmoor restore --yes --no-grow web01.qcow2 web01-copy.raw
      To a file, of the image's own size

  unmoor restore db01.qcow2 --disk sda=/dev/sdb --disk sdb=/dev/sdc
      A machine of two disks";

/// Put images back onto disks
///
/// What is written is planned and shown first. The target's partition table is written last, after everything else is
/// on the disk and has been read back: a restore that fails leaves nothing that looks bootable. A larger target's room
/// goes to the last partition.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The image; with --disk, any image of the machine, or its manifest
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// A block device, or FILE.raw or FILE.qcow2, which is created
    #[arg(value_name = "TARGET", required_unless_present = "disks", conflicts_with = "disks")]
    target: Option<PathBuf>,
    /// Where a disk goes, by its name, its place (0, 1, ...) or its image's name
    #[arg(long = "disk", value_name = "OLD=TARGET", value_parser = parse_pair)]
    disks: Vec<(String, PathBuf)>,
    /// Give a larger target's room to this logical volume, instead of the last partition
    #[arg(
        long,
        value_name = "LV",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        conflicts_with = "no_grow"
    )]
    grow: Option<String>,
    /// Leave a larger target's room unused
    #[arg(long)]
    no_grow: bool,
    /// Size of a target that is a file; the image's by default
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Discard or zero what no filesystem uses
    #[arg(long)]
    wipe: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Do not read back what was written
    #[arg(long)]
    no_verify: bool,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Allow a target that is removable or on USB
    #[arg(long)]
    removable: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Restore the image as it is now, though its manifest is missing or does not match
    #[arg(long)]
    ignore_manifest: bool,
    /// Let the image open the backing and data files that it names
    #[arg(long)]
    allow_backing: bool,
    /// Worker threads; 0 chooses by the number of processors
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    #[command(flatten)]
    output: ImageOptions,
}

/// Plans, shows, asks, writes.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    let options = arguments.options();
    let mut pairs = Vec::new();
    for (image, path) in arguments.pairs()? {
        let target = target::find(&path, arguments, terminal)?;
        let open = OpenOptions {
            allow_backing: arguments.allow_backing,
            format: None,
            ignore_manifest: arguments.ignore_manifest,
        };
        let image = Image::open(&image, &open, terminal)?;
        image.warnings.iter().for_each(|warning| terminal.warn(warning.clone()));
        pairs.push((image, target));
    }
    let plan = Plan::new(pairs, &options)?;
    for disk in &plan.disks {
        disk.warnings.iter().for_each(|warning| terminal.warn(warning.clone()));
    }
    let lines = plan.lines();
    if !terminal.json() {
        lines.iter().try_for_each(|line| terminal.print(&plain(line)))?;
    }
    if arguments.dry_run {
        if terminal.json() {
            let document = json!({ "dry_run": true, "plan": lines, "warnings": terminal.warnings() });
            terminal.print_result(&document)?;
        }
        return Ok(Outcome::Done);
    }
    let devices = plan.disks.iter().any(|disk| matches!(disk.target, Target::Device { .. }));
    if devices && !arguments.yes && !terminal.confirm("All that is on the targets will be lost.") {
        return Err(Error::refused("restoring", "it was not confirmed: answer yes, or give --yes"));
    }
    let mut outcomes = execute(&plan, &options, terminal)?;
    let mut documents = Vec::new();
    for (disk, outcome) in plan.disks.iter().zip(&mut outcomes) {
        let record = RestoreRecord::path_for(&disk.image.path, &disk.target);
        // The disk is restored whether or not this can be written, such as beside an image on a read-only share.
        if let Err(error) = outcome.record.write(&record, &outcome.extents, &outcome.leaves) {
            terminal.warn(format!("verify will not know what was changed: {}", error.chain()));
        }
        let verified = if outcome.verified { "read back and exact" } else { "not read back" };
        let (read, written) = (outcome.read_bytes, outcome.written_bytes);
        documents.push(json!({
            "image": disk.image.path,
            "target": disk.target.path(),
            "read_bytes": read,
            "written_bytes": written,
            "verified": outcome.verified,
            "grown": outcome.grown,
            "record": record,
        }));
        if !terminal.json() {
            let grown = outcome.grown.as_ref().map(|what| format!(", {what} grown")).unwrap_or_default();
            terminal.print(&format!("{}: {} written, {verified}{grown}", disk.target, show_size(written)))?;
        }
    }
    if terminal.json() {
        let disks = Value::Array(documents);
        terminal.print_result(&json!({ "disks": disks, "plan": lines, "warnings": terminal.warnings() }))?;
    }
    Ok(Outcome::Done)
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            grow: match self.grow.as_deref() {
                _ if self.no_grow => Grow::No,
                None | Some("") => Grow::Last,
                Some(volume) => Grow::LogicalVolume(volume.to_owned()),
            },
            size: self.size,
            sector_size: None,
            wipe: self.wipe,
            verify: !self.no_verify,
            threads: self.threads,
            compression: self.output.compression(),
            cluster_size: self.output.cluster_size,
        }
    }

    /// Images and the targets that they go to.
    fn pairs(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let folder = self.image.parent().unwrap_or(Path::new(""));
        let manifest = if self.image.to_string_lossy().ends_with(".unmoor.json") {
            Some(Manifest::read(&self.image)?)
        } else {
            Manifest::beside(&self.image)?.map(|(manifest, _)| manifest)
        };
        let usage = |because: String| Error::new(ErrorKind::Usage, "choosing targets").because(because);
        if let Some(target) = &self.target {
            let image = match &manifest {
                Some(manifest) if self.image.to_string_lossy().ends_with(".unmoor.json") => {
                    match manifest.disks.as_slice() {
                        [only] => folder.join(file_name(&only.image)?),
                        disks => {
                            return Err(usage(format!("the machine has {} disks: use --disk", disks.len())));
                        }
                    }
                }
                _ => self.image.clone(),
            };
            return Ok(vec![(image, target.clone())]);
        }
        let Some(manifest) = manifest else {
            return Err(usage("--disk needs a manifest beside the image".to_owned()));
        };
        let mut pairs: Vec<(PathBuf, PathBuf)> = Vec::new();
        for (old, target) in &self.disks {
            let found = manifest.disks.iter().enumerate().find(|(index, disk)| {
                let names = [disk.source.as_str(), disk.image.as_str()];
                let short = Path::new(&disk.source).file_name().is_some_and(|name| name == old.as_str());
                short || names.contains(&old.as_str()) || index.to_string() == *old
            });
            let Some((_, disk)) = found else {
                let known: Vec<&str> = manifest.disks.iter().map(|disk| disk.source.as_str()).collect();
                return Err(usage(format!("the machine has no disk {old}; it has {}", known.join(", "))));
            };
            let image = folder.join(file_name(&disk.image)?);
            if pairs.iter().any(|(known, to)| *known == image || to == target) {
                return Err(usage(format!("{old}={} repeats a disk", target.display())));
            }
            pairs.push((image, target.clone()));
        }
        Ok(pairs)
    }
}

/// A name from a manifest that must not lead out of its folder.
fn file_name(name: &str) -> Result<&str> {
    match Path::new(name).file_name() {
        Some(plain) if plain == name => Ok(name),
        _ => Err(Error::malformed("reading the manifest", format!("{name:?} is not a file name"))),
    }
}

fn parse_pair(text: &str) -> std::result::Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((old, target)) if !old.is_empty() && !target.is_empty() => Ok((old.to_owned(), target.into())),
        _ => Err("write OLD=TARGET, such as sda=/dev/sdb".to_owned()),
    }
}
