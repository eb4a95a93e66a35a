// SPDX-License-Identifier: Apache-2.0
//! `unmoor capture`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;
use unmoor_capture::disk::{OnReadError, OpenOptions};
use unmoor_capture::{InUse, Outputs, Report, Request, Stored, SurveyOptions, Target, survey};
use unmoor_images::manifest::Consistency;
use unmoor_images::store::{ImageName, Receiver, Since};
use unmoor_images::{BlockSource, Error, ErrorKind, Result, State, layout};

use super::live::LiveOptions;
use super::store::StoreOptions;
use super::values::{Effort, HibernatedChoice, ImageOptions};
use crate::output::size::show_size;
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor capture /dev/sda web01.qcow2
      The disk's used blocks, compressed, and what is needed to put them back

  unmoor capture /dev/sda /dev/sdb db01.qcow2
      Two disks of one machine: db01.qcow2, db01.disk1.qcow2, db01.unmoor.json

  unmoor capture /dev/sda dir:/srv/images/web01
      Into an image store: what the store has already is not stored again

  unmoor capture --live /dev/sda s3://backup/hosts/web01
      This running host, as it is at one instant; writers wait for less than a second

  unmoor capture /dev/sda - | ssh backup 'cat > web01.raw'
      A raw stream";

/// Capture the disks of a machine as disk images
///
/// The used blocks are found by reading the disk's own tables and filesystems; what is not understood is kept whole.
/// Beside the image NAME.qcow2 lie NAME.unmoor.json, which says what the image is, and NAME.qcow2.map with
/// its hashes. They are written last: an image without them is not complete.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Block devices or disk images: the disks of one machine
    #[arg(required = true, num_args = 1.., value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// FILE.qcow2, .raw, .vmdk or .vhdx; a machine of an image store, dir:PATH/NAME; or - for a stream on standard output,
    /// raw or --format vmdk
    #[arg(required = true, value_name = "TARGET")]
    target: PathBuf,
    /// Keep every byte, used or not
    #[arg(long)]
    all: bool,
    /// What to do with a system that is suspended to disk; it is refused otherwise
    #[arg(long, value_enum, value_name = "WHAT")]
    hibernated: Option<HibernatedChoice>,
    /// Capture a source that is in use as it is read: crash-consistent at best, and spread over the time of the capture
    #[arg(long, conflicts_with = "live")]
    unsafe_live: bool,
    #[command(flatten)]
    live: LiveOptions,
    /// What to do with sectors that cannot be read
    #[arg(long, value_enum, value_name = "WHAT", default_value = "fail")]
    on_read_error: ReadErrors,
    /// Let a source image open the backing and data files that it names
    #[arg(long)]
    allow_backing: bool,
    /// Replace an existing image
    #[arg(long)]
    force: bool,
    /// Worker threads; 0 chooses by the number of processors
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Show what would be captured, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Look first at what this image of the store has, NAME or NAME@TIME; at the machine's latest otherwise. All of the disk is
    /// read in any case
    #[arg(long, value_name = "IMAGE", help_heading = "Store options")]
    since: Option<String>,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    image: ImageOptions,
}

/// `--on-read-error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReadErrors {
    /// Stop, naming the place
    Fail,
    /// Take them as zeros, and list them in the manifest
    Zero,
}

/// Captures, or shows what would be captured.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    let request = arguments.request()?;
    if matches!(request.target, Target::Stream(_)) {
        terminal.stdout_is_data();
    }
    if arguments.dry_run {
        return dry_run(&request, terminal);
    }
    run_request(&request, terminal)
}

/// Captures, and prints what was made.
pub(crate) fn run_request(request: &Request, terminal: &Terminal) -> Result<Outcome> {
    let report = unmoor_capture::capture(request, terminal)?;
    print(&report, terminal)?;
    Ok(Outcome::Done)
}

impl Arguments {
    fn request(&self) -> Result<Request> {
        let target = Target::parse(&self.target, self.image.format.map(Into::into))?;
        let compresses = match &target {
            Target::Stream(format) | Target::Files { format, .. } => format.compresses(),
            Target::Store { .. } | Target::Server { .. } => true,
        };
        if !compresses && !matches!(self.image.compress, Effort::None | Effort::Default) {
            return Err(Error::new(ErrorKind::Usage, "choosing a compression")
                .because("raw and VHDX images are not compressed: use FILE.qcow2"));
        }
        let store: Option<Arc<dyn Receiver>> = match &target {
            Target::Store { location, machine } => Some(Arc::new(self.store.open_for(location, machine)?)),
            _ => None,
        };
        let since = match &self.since {
            None => Since::Latest,
            Some(_) if store.is_none() => {
                return Err(Error::new(ErrorKind::Usage, "choosing an image to look at first")
                    .because("--since is for image stores: the target is none"));
            }
            Some(name) => Since::Image(ImageName::parse(name)?),
        };
        Ok(Request {
            sources: self.sources.clone(),
            target,
            store,
            since,
            compression: self.image.compression(),
            cluster_size: self.image.cluster_size,
            layout: layout::Options {
                all: self.all,
                hibernated: self.hibernated.map(Into::into).unwrap_or_default(),
            },
            open: OpenOptions {
                allow_backing: self.allow_backing,
                format: None,
                on_read_error: match self.on_read_error {
                    ReadErrors::Fail => OnReadError::Fail,
                    ReadErrors::Zero => OnReadError::Zero,
                },
            },
            unsafe_live: self.unsafe_live || self.live.is_unsafe(),
            live: self.live.options(),
            force: self.force,
            threads: self.threads,
            tool: concat!("unmoor ", env!("CARGO_PKG_VERSION")).to_owned(),
        })
    }
}

fn dry_run(request: &Request, terminal: &Terminal) -> Result<Outcome> {
    let images = match &request.target {
        Target::Stream(_) => vec![PathBuf::from("-")],
        Target::Store { .. } | Target::Server { .. } => {
            vec![PathBuf::from(request.target.to_string()); request.sources.len()]
        }
        Target::Files { path, .. } => {
            let outputs = Outputs::name(path, request.sources.len());
            outputs.check(&request.sources, request.force)?;
            outputs.images
        }
    };
    let in_use = match (&request.live, request.unsafe_live) {
        (Some(_), _) => InUse::Mention,
        (None, true) => InUse::Take,
        (None, false) => InUse::Refuse,
    };
    let options = SurveyOptions { open: request.open, layout: request.layout, in_use };
    let survey = survey(&request.sources, &options, terminal)?;
    let mut documents = Vec::new();
    for ((disk, layout), image) in survey.disks.iter().zip(&survey.layouts).zip(&images) {
        let bytes = |state| layout.extents.bytes(state);
        documents.push(json!({
            "source": disk.path(),
            "image": image,
            "size_bytes": disk.size(),
            "data_bytes": bytes(State::Data),
            "zero_bytes": bytes(State::Zero),
            "hole_bytes": bytes(State::Hole),
        }));
        if !terminal.json() {
            terminal.print(&format!(
                "would capture {} ({}) to {}: {} of data",
                disk.path().display(),
                show_size(disk.size()),
                image.display(),
                show_size(bytes(State::Data)),
            ))?;
        }
    }
    if terminal.json() {
        let live = survey.consistency == Consistency::Live;
        let document =
            json!({ "dry_run": true, "live": live, "disks": documents, "warnings": terminal.warnings() });
        terminal.print_result(&document)?;
    }
    Ok(Outcome::Done)
}

/// What a capture, an import or an export has made.
pub(crate) fn print(report: &Report, terminal: &Terminal) -> Result<()> {
    if terminal.json() {
        let disks: Vec<_> = report
            .disks
            .iter()
            .map(|disk| {
                json!({
                    "source": disk.source,
                    "image": disk.image,
                    "size_bytes": disk.size_bytes,
                    "data_bytes": disk.data_bytes,
                    "stored_bytes": disk.stored_bytes,
                    "root": disk.root,
                })
            })
            .collect();
        let document = json!({ "disks": disks, "manifest": report.manifest, "stored": report.stored.as_ref().map(stored), "live": report.live, "warnings": terminal.warnings() });
        return terminal.print_result(&document);
    }
    if let Some(live) = &report.live {
        terminal.print(&super::live::line(live))?;
    }
    if let Some(stored) = &report.stored {
        return terminal.print(&stored_line(report, stored));
    }
    for disk in report.disks.iter().filter(|disk| disk.image != Path::new("-")) {
        terminal.print(&format!(
            "{}: {} of data on {} ({}), stored in {}",
            disk.image.display(),
            show_size(disk.data_bytes),
            disk.source.display(),
            show_size(disk.size_bytes),
            show_size(disk.stored_bytes),
        ))?;
    }
    if let Some(manifest) = &report.manifest {
        terminal.print(&format!("{}: complete", manifest.display()))?;
    }
    Ok(())
}

/// What the store has got: read, new, stored, and how many times as much data that is as was stored for it.
fn stored_line(report: &Report, stored: &Stored) -> String {
    let (added, data) = (&stored.added, report.disks.iter().map(|disk| disk.data_bytes).sum::<u64>());
    let since = stored.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    // Of nothing there is none.
    let ratio = match added.stored_bytes {
        0 => String::new(),
        stored => format!(", ratio {:.1}", data as f64 / stored as f64),
    };
    format!(
        "{}: complete; {} of data, {} read, {} new{since}, {} stored{ratio}",
        stored.image,
        show_size(data),
        show_size(added.read_bytes),
        show_size(added.new_bytes),
        show_size(added.stored_bytes),
    )
}

fn stored(stored: &Stored) -> serde_json::Value {
    json!({ "image": stored.image, "since": stored.since, "added": stored.added })
}
