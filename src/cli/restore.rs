// SPDX-License-Identifier: Apache-2.0
//! `unmoor restore`.

mod boot_entry;
mod fitted;
mod show;
mod stored;
mod target;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use unmoor_images::manifest::{DiskRecord, Manifest};
use unmoor_images::store::Location;
use unmoor_images::{Error, ErrorKind, Monitor, Result};
use unmoor_restore::execute::{Outcome as Restored, execute};
use unmoor_restore::image::{Image, OpenOptions};
use unmoor_restore::plan::{Grow, Options, Plan, Target};
use unmoor_restore::{duplicates, room, stream};

use super::fitting::FitOptions;
use super::store::StoreOptions;
use super::values::ImageOptions;
use crate::output::size::{parse_size, show_size};
use crate::output::table::{plain, plain_line};
use crate::output::{Outcome, Terminal};
use crate::records;

const EXAMPLES: &str = "\
Examples:
  unmoor restore web01.qcow2 /dev/sdb
      Shows what is on /dev/sdb and what will be written, and asks

  unmoor restore --yes --no-grow web01.qcow2 web01-copy.raw
      To a file, of the image's own size

  unmoor restore db01.qcow2 --disk sda=/dev/sdb --disk sdb=/dev/sdc
      A machine of two disks

  unmoor restore web01.qcow2 /dev/sdb --profile physical --firmware uefi
      Onto another machine's disk, with the guest fitted to it

  unmoor restore dir:/srv/images/web01 /dev/sdb
      The latest image of a machine from an image store

  unmoor restore s3://bucket/images/web01 /dev/sdb --resume
      The same from a bucket, going on with a restore that was interrupted

  ssh web01 unmoor capture /dev/sda - | unmoor restore --yes - /dev/sdb
      A raw disk that comes through a pipe";

const STREAMS: &str = "\
Streams:
  With - as IMAGE a raw disk is read from standard input. It is written at its own
  addresses, and nothing in it is looked into: no partition moves or grows, no
  filesystem grows, all of it is written, and volume groups and arrays that are
  on this host already are not noticed. A GPT is made to fit a larger or smaller target.
  Its size is what its GPT states; give --size where it has none. A stream that
  ends early or goes on leaves the target without a partition table. That it
  arrived unchanged is not checked, that it is on the disk is.";

/// Put images back onto disks
///
/// What is written is planned and shown first. The target's partition table is written last, after everything else is
/// on the disk and has been read back: a restore that fails leaves nothing that looks bootable. A larger target's room
/// goes to the last partition.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{STREAMS}"))]
pub(crate) struct Arguments {
    /// The image: a file, STORE/NAME or STORE/NAME@TIME, or - for a raw disk on standard input; with --disk, any image of the
    /// machine, or its manifest
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// A block device, or FILE.raw, .qcow2, .vmdk or .vhdx, which is created
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
    /// Size of a target that is a file, the image's by default; with - as IMAGE, the size of its disk
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Bytes in a logical sector of the disk that a target file is for; the image's by default
    #[arg(long, value_name = "BYTES", value_parser = parse_sector_size)]
    sector_size: Option<u32>,
    /// Discard or zero what no filesystem uses
    #[arg(long)]
    wipe: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Do not read back what was written
    #[arg(long)]
    no_verify: bool,
    /// Go on with a restore to this target that was interrupted: read what the target holds, and write only what is not right yet
    #[arg(long)]
    resume: bool,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Allow a target that is removable or on USB
    #[arg(long)]
    removable: bool,
    /// Allow a disk identifier, volume group or array that is on another disk of this host
    #[arg(long)]
    allow_duplicates: bool,
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
    fit: FitOptions,
    /// Mount the guest's filesystems with this host's kernel, as root, instead of in the appliance
    #[arg(long, requires = "profile", help_heading = "Fitting options")]
    direct: bool,
    /// The rescue environment to run as the appliance
    #[arg(
        long,
        value_name = "DIR",
        requires = "profile",
        conflicts_with = "direct",
        help_heading = "Fitting options"
    )]
    rescue: Option<PathBuf>,
    /// Make an entry for the guest in this machine's UEFI firmware
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        requires = "profile",
        help_heading = "Fitting options"
    )]
    boot_entry: boot_entry::When,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    output: ImageOptions,
}

/// Plans, shows, asks, writes.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    let (opened, stored) = match Location::is_path(&arguments.image) {
        true => stored::open(arguments, terminal).map(|(pairs, manifest)| (pairs, Some(manifest)))?,
        false => (arguments.open_files(terminal)?, None),
    };
    run_opened(arguments, opened, stored.as_ref(), terminal)
}

/// The same for images that are open. `stored` is the manifest of one that lies in a store.
pub(crate) fn run_opened(
    arguments: &Arguments,
    opened: Vec<(Image, Target)>,
    stored: Option<&Manifest>,
    terminal: &Terminal,
) -> Result<Outcome> {
    let options = arguments.options();
    let mut pairs = Vec::new();
    for (image, target) in opened {
        image.warnings.iter().for_each(|warning| terminal.warn(warning.clone()));
        pairs.push((image, target));
    }
    let fitting = fitted::fit(arguments, &mut pairs, stored, terminal)?;
    let plan = Plan::new(pairs, &options)?;
    let (boot_entry, note) = match &fitting {
        Some(fitting) => boot_entry::plan(arguments.boot_entry, &plan, &fitting.report)?,
        None => (None, None),
    };
    let fitting = fitting.as_ref().map(|fitting| &fitting.document);
    let shown_entry = boot_entry.as_ref().map(boot_entry::Wanted::document);
    for disk in &plan.disks {
        disk.warnings.iter().for_each(|warning| terminal.warn(warning.clone()));
    }
    duplicates::check(&plan, arguments.allow_duplicates, terminal)?;
    room::check(&plan, &options, terminal)?;
    let documents = plan.documents();
    if !terminal.json() {
        let mut lines = documents.iter().flat_map(show::lines);
        lines.try_for_each(|line| terminal.print(&plain(&line)))?;
        let entry = boot_entry.as_ref().map(boot_entry::Wanted::line);
        entry.into_iter().chain(note).try_for_each(|line| terminal.print(&plain(&line)))?;
    }
    if arguments.dry_run {
        if terminal.json() {
            let document = json!({
                "dry_run": true, "plan": documents, "fitting": fitting, "boot_entry": shown_entry,
                "warnings": terminal.warnings(),
            });
            terminal.print_result(&document)?;
        }
        return Ok(Outcome::Done);
    }
    let devices = plan.disks.iter().any(|disk| matches!(disk.target, Target::Device { .. }));
    if devices && !arguments.yes && !terminal.confirm("All that is on the targets will be lost.") {
        return Err(Error::refused("restoring", "it was not confirmed: answer yes, or give --yes"));
    }
    let outcomes = execute(&plan, &options, terminal)?;
    let number = boot_entry.as_ref().and_then(|entry| entry.write(&plan, terminal));
    let shown = json!({
        "plan": documents, "fitting": fitting, "boot_entry": shown_entry,
        "boot_entry_number": number.map(|number| format!("{number:04X}")),
    });
    report(&plan, outcomes, &shown, terminal)?;
    if let Some(number) = number.filter(|_| !terminal.json()) {
        terminal.print(&format!("this machine's firmware starts it by Boot{number:04X}"))?;
    }
    Ok(Outcome::Done)
}

/// Writes the records that `verify` reads, and says how it went.
fn report(plan: &Plan, outcomes: Vec<Restored>, shown: &Value, terminal: &Terminal) -> Result<()> {
    let mut documents = Vec::new();
    for (disk, mut outcome) in plan.disks.iter().zip(outcomes) {
        let mut record = records::place(&disk.image, &disk.target);
        // The disk is restored whether or not this can be written, such as beside an image on a read-only share.
        if let Some(path) = &record
            && let Err(error) = write_record(&mut outcome, path)
        {
            terminal.warn(format!("verify will not know what was changed: {}", error.chain()));
            record = None;
        }
        let verified = if outcome.verified { "read back and exact" } else { "not read back" };
        let (read, written) = (outcome.read_bytes, outcome.written_bytes);
        documents.push(json!({
            "image": disk.image.path,
            "target": disk.target.path(),
            "read_bytes": read,
            "written_bytes": written,
            "kept_bytes": outcome.kept_bytes,
            "verified": outcome.verified,
            "grown": outcome.grown,
            "record": record,
        }));
        if !terminal.json() {
            let grown = outcome.grown.as_ref().map(|what| format!(", {what} grown")).unwrap_or_default();
            let kept = match outcome.kept_bytes {
                0 => String::new(),
                kept => format!(", {} was there", show_size(kept)),
            };
            let written = show_size(written);
            terminal.print(&format!("{}: {written} written{kept}, {verified}{grown}", disk.target))?;
            if let (Some(record), Target::Device { .. }) = (&record, &disk.target) {
                terminal
                    .print(&plain_line(&format!("what was changed, for verify: {}", record.display())))?;
            }
        }
    }
    if terminal.json() {
        let mut result = shown.clone();
        if let Some(result) = result.as_object_mut() {
            result.insert("disks".into(), Value::Array(documents));
            result.insert("warnings".into(), json!(terminal.warnings()));
        }
        terminal.print_result(&result)?;
    }
    Ok(())
}

fn write_record(outcome: &mut Restored, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| Error::io("making", error).path(folder))?;
    }
    outcome.record.write(path, &outcome.extents, &outcome.leaves)
}

impl Arguments {
    /// A block device that these arguments allow to be written to.
    pub(crate) fn find_target(&self, path: &Path, terminal: &Terminal) -> Result<Target> {
        target::find(path, self, terminal)
    }

    fn options(&self) -> Options {
        Options {
            grow: match self.grow.as_deref() {
                _ if self.no_grow => Grow::No,
                None | Some("") => Grow::Last,
                Some(volume) => Grow::LogicalVolume(volume.to_owned()),
            },
            size: self.size,
            sector_size: self.sector_size,
            wipe: self.wipe,
            verify: !self.no_verify,
            resume: self.resume,
            threads: self.threads,
            compression: self.output.compression(),
            cluster_size: self.output.cluster_size,
        }
    }

    /// What a device has is not to be chosen.
    fn check_device(&self, target: &Target, stream: bool) -> Result<()> {
        let usage = |because| Err(Error::new(ErrorKind::Usage, "choosing a size").because(because));
        let device = matches!(target, Target::Device { .. });
        if device && self.sector_size.is_some() {
            return usage("the target is a device: it has the sectors that it has");
        }
        if device && self.size.is_some() && !stream {
            return usage("the target is a device: it has the size that it has");
        }
        Ok(())
    }

    fn open(&self, image: &Path, target: &Target, terminal: &Terminal) -> Result<Image> {
        self.check_device(target, image == Path::new("-"))?;
        if image == Path::new("-") {
            if self.resume {
                return Err(Error::new(ErrorKind::Usage, "resuming")
                    .because("what came through a pipe is gone: only an image can be gone on with"));
            }
            if std::io::stdin().is_terminal() {
                return Err(Error::new(ErrorKind::Usage, "choosing a size")
                    .because("standard input is a terminal: pipe a raw disk into it"));
            }
            // Past the buffer of the standard library, which would cut reads into 8 KiB.
            let input = std::io::stdin().as_fd().try_clone_to_owned();
            let input = File::from(input.map_err(|error| Error::io("opening standard input", error))?);
            return stream::open(Box::new(input), self.size);
        }
        let open = OpenOptions {
            allow_backing: self.allow_backing,
            format: None,
            ignore_manifest: self.ignore_manifest,
        };
        Image::open(image, &open, terminal)
    }

    /// Image files and the targets that they go to.
    fn open_files(&self, terminal: &Terminal) -> Result<Vec<(Image, Target)>> {
        let mut pairs = Vec::new();
        for (image, path) in self.pairs(terminal)? {
            let target = target::find(&path, self, terminal)?;
            pairs.push((self.open(&image, &target, terminal)?, target));
        }
        Ok(pairs)
    }

    /// Image files and the names of their targets.
    fn pairs(&self, terminal: &Terminal) -> Result<Vec<(PathBuf, PathBuf)>> {
        let usage = |because: String| Error::new(ErrorKind::Usage, "choosing targets").because(because);
        if self.image == Path::new("-") {
            let target = self.target.clone();
            let target = target.ok_or_else(|| usage("a stream is one disk: name its TARGET".to_owned()))?;
            return Ok(vec![(self.image.clone(), target)]);
        }
        let folder = self.image.parent().unwrap_or(Path::new(""));
        let manifest = if self.image.to_string_lossy().ends_with(".unmoor.json") {
            Some(Manifest::read(&self.image)?)
        } else {
            Manifest::beside(&self.image)?.map(|(manifest, _)| manifest)
        };
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
                Some(manifest) if manifest.disks.len() > 1 => {
                    let count = manifest.disks.len();
                    terminal.warn(format!(
                        "the machine has {count} disks: only this one will be restored (see --disk)"
                    ));
                    self.image.clone()
                }
                _ => self.image.clone(),
            };
            return Ok(vec![(image, target.clone())]);
        }
        let Some(manifest) = manifest else {
            return Err(usage("--disk needs a manifest beside the image".to_owned()));
        };
        let disks = self.chosen(&manifest, terminal)?.into_iter();
        disks.map(|(disk, target)| Ok((folder.join(file_name(&disk.image)?), target.clone()))).collect()
    }

    /// The disks that `--disk` names, and where they go.
    fn chosen<'a>(
        &'a self,
        manifest: &'a Manifest,
        terminal: &Terminal,
    ) -> Result<Vec<(&'a DiskRecord, &'a PathBuf)>> {
        let usage = |because: String| Error::new(ErrorKind::Usage, "choosing targets").because(because);
        let mut pairs: Vec<(&DiskRecord, &PathBuf)> = Vec::new();
        for (old, target) in &self.disks {
            let found = manifest
                .disks
                .iter()
                .enumerate()
                .find(|(index, disk)| disk.is_called(old) || index.to_string() == *old);
            let Some((_, disk)) = found else {
                let known: Vec<&str> = manifest.disks.iter().map(|disk| disk.source.as_str()).collect();
                return Err(usage(format!("the machine has no disk {old}; it has {}", known.join(", "))));
            };
            if pairs.iter().any(|(known, to)| known.image == disk.image || *to == target) {
                return Err(usage(format!("{old}={} repeats a disk", target.display())));
            }
            pairs.push((disk, target));
        }
        let left: Vec<&str> = manifest
            .disks
            .iter()
            .filter(|disk| !pairs.iter().any(|(known, _)| known.image == disk.image))
            .map(|disk| disk.source.as_str())
            .collect();
        if !left.is_empty() {
            terminal.warn(format!("{} of the machine will not be restored", left.join(", ")));
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

fn parse_sector_size(text: &str) -> std::result::Result<u32, String> {
    match text.parse() {
        Ok(size @ (512 | 4096)) => Ok(size),
        _ => Err("sectors have 512 or 4096 bytes".to_owned()),
    }
}

fn parse_pair(text: &str) -> std::result::Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((old, target)) if !old.is_empty() && !target.is_empty() => Ok((old.to_owned(), target.into())),
        _ => Err("write OLD=TARGET, such as sda=/dev/sdb".to_owned()),
    }
}
