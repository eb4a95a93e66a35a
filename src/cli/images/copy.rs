// SPDX-License-Identifier: Apache-2.0
//! `unmoor images copy` and `unmoor images rekey`: images into another store, of another place or key.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use unmoor_images::formats::Compression;
use unmoor_images::store::{
    CopyReport, ImageName, ImageRef, InitOptions, Location, Since, Store, WriterOptions,
};
use unmoor_images::{Error, ErrorKind, Monitor, Result};

use super::finish;
use super::keys::new_secret;
use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use crate::output::size::show_size;
use crate::output::table::plain;

const EXAMPLES: &str = "\
Examples:
  unmoor images copy dir:/srv/images dir:/mnt/second
  unmoor images copy dir:/srv/images dir:/mnt/second web01 web02@20261124T215000Z";

/// Copy images to another store
///
/// The images keep their names and times. What the other store has is not read again, and images that are there are left out, so that a
/// copy that was interrupted goes on where it was, and one that is repeated copies what is new.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Copy {
    /// The store to read
    #[arg(value_name = "STORE")]
    store: String,
    /// The store to write, which `unmoor images init` has made
    #[arg(value_name = "TARGET")]
    target: String,
    /// Machines, or NAME@TIME; all images where none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    target_options: TargetOptions,
    #[command(flatten)]
    options: StoreOptions,
}

/// What opens the target.
#[derive(Debug, Args)]
struct TargetOptions {
    /// Read the target's passphrase from the first line of this file; otherwise it is opened by what opens STORE
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// The target's key file
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_file")]
    new_key_file: Option<PathBuf>,
}

impl TargetOptions {
    fn given(&self) -> StoreOptions {
        StoreOptions::of(self.new_password_file.clone(), self.new_key_file.clone())
    }

    fn is_given(&self) -> bool {
        self.new_password_file.is_some() || self.new_key_file.is_some()
    }
}

impl Copy {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let (from, to) = (Location::parse(&self.store)?, Location::parse(&self.target)?);
        let store = self.options.open(&from)?;
        let options =
            if self.target_options.is_given() { self.target_options.given() } else { self.options.clone() };
        let target = options.open(&to)?;
        let mut images: Vec<ImageRef> = Vec::new();
        for name in &self.names {
            let name = ImageName::parse(name)?;
            let one = store.find(&name)?;
            images.extend(if name.time.is_some() { vec![one] } else { store.images_of(&name.machine)? });
        }
        if self.names.is_empty() {
            images = store.images()?;
        }
        images.sort();
        images.dedup();
        let report = copy(&store, &images, &target, terminal)?;
        conclude(&report, &to, Vec::new(), terminal)
    }
}

const REKEY: &str = "\
Examples:
  unmoor images rekey --password-file old dir:/srv/images dir:/srv/images.new --new-password-file new
  mv /srv/images /srv/images.old && mv /srv/images.new /srv/images";

/// Give a store a new data key, by copying it
///
/// Whoever once opened the store may have kept its data key, which removing a passphrase does not change. So everything is sealed anew in a
/// store of its own, while captures into the old one go on; when no more images come, run it again for the last ones, put the new store in the
/// place of the old one, and remove that. Nothing of the old store is changed, so that there is no moment at which half of it has another key.
#[derive(Debug, Args)]
#[command(after_help = REKEY)]
pub(super) struct Rekey {
    /// The store
    #[arg(value_name = "STORE")]
    store: String,
    /// Where the new one is made, or goes on
    #[arg(value_name = "NEW")]
    new: String,
    #[command(flatten)]
    target_options: TargetOptions,
    #[command(flatten)]
    options: StoreOptions,
}

impl Rekey {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let (from, to) = (Location::parse(&self.store)?, Location::parse(&self.new)?);
        if !Store::needs_secret(&from)? {
            let because = "it is not encrypted: make an encrypted one by `unmoor images init --encrypt`, and copy the images to it";
            return Err(Error::refused(format!("giving {from} a new key"), because));
        }
        let store = self.options.open(&from)?;
        let given = self.target_options.given();
        let target = if Store::is_at(&to)? {
            given.open(&to)?
        } else {
            Store::init(&to, &InitOptions { secret: Some(new_secret(given.in_files()?)?) })?
        };
        if target.config().id == store.config().id || target.config().encryption.is_none() {
            let because = "it is the same store, or not encrypted";
            return Err(Error::refused(format!("copying {from} to {to}"), because));
        }
        let report = copy(&store, &store.images()?, &target, terminal)?;
        let last = format!(
            "everything of {from} is sealed anew in {to}: put it in the old one's place, and remove that"
        );
        conclude(&report, &to, vec![last], terminal)
    }
}

fn copy(store: &Store, images: &[ImageRef], target: &Store, terminal: &Terminal) -> Result<CopyReport> {
    let options = WriterOptions {
        compression: Compression::Auto,
        since: Since::Latest,
        holder: unmoor_capture::facts::holder(),
    };
    let report = store.copy_images(images, target, &options, terminal)?;
    for (machine, time, because) in &report.failed {
        terminal.warn(format!("{}@{time} was not copied: {}", plain(machine), plain(because)));
    }
    Ok(report)
}

fn conclude(report: &CopyReport, to: &Location, more: Vec<String>, terminal: &Terminal) -> Result<()> {
    let mut lines: Vec<String> =
        report.copied.iter().map(|(machine, time)| format!("{to}/{}@{time}", plain(machine))).collect();
    lines.push(format!(
        "{} images copied, {} were there; {} read, {} stored",
        report.copied.len(),
        report.skipped,
        show_size(report.read_bytes),
        show_size(report.stored_bytes)
    ));
    let document = json!({ "report": report, "warnings": terminal.warnings() });
    if report.failed.is_empty() {
        lines.extend(more);
        return finish(&document, &lines, terminal);
    }
    let because = format!("{} images could not be read, and were left out", report.failed.len());
    let error = Error::new(ErrorKind::Mismatch, "copying images").because(because);
    if terminal.json() {
        terminal.print_refusal(&document, &error)?;
    } else {
        finish(&document, &lines, terminal)?;
    }
    Err(error)
}
