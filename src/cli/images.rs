// SPDX-License-Identifier: Apache-2.0
//! `unmoor images`: stores and what is in them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use unmoor_images::store::{ImageRef, InitOptions, Location, Secret, Store, Summary};
use unmoor_images::{Error, ErrorKind, Monitor, Result};

use super::store::{StoreOptions, ask};
use crate::output::size::show_size;
use crate::output::table::{Align, Table, plain};
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor images init dir:/srv/images
  unmoor capture /dev/sda dir:/srv/images/web01
  unmoor images list dir:/srv/images
  unmoor images show dir:/srv/images/web01";

/// Make an image store, and look into it
///
/// A store holds images of many machines: what they have in common once, compressed, each image complete by itself. It lies in
/// a directory, dir:PATH. An image in it is STORE/NAME@TIME; without @TIME it is the
/// latest of that machine.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(Init),
    List(List),
    Show(Show),
    Key(Key),
}

const INIT: &str = "\
Examples:
  unmoor images init dir:/srv/images
  unmoor images init dir:/srv/images --encrypt --password-file /root/words";

/// Make a store
#[derive(Debug, Args)]
#[command(after_help = INIT)]
struct Init {
    /// dir:PATH, where nothing is yet
    #[arg(value_name = "STORE")]
    store: String,
    /// Encrypt all that will be stored. Without the passphrase or key file nobody can read it again
    #[arg(long)]
    encrypt: bool,
    #[command(flatten)]
    options: StoreOptions,
}

const LIST: &str = "\
Examples:
  unmoor images list dir:/srv/images
  unmoor images list dir:/srv/images/web01";

/// List the machines of a store, or the images of one machine
#[derive(Debug, Args)]
#[command(after_help = LIST)]
struct List {
    /// A store, or STORE/NAME
    #[arg(value_name = "STORE")]
    store: String,
    #[command(flatten)]
    options: StoreOptions,
}

const SHOW: &str = "\
Examples:
  unmoor images show dir:/srv/images/web01
  unmoor images show --json dir:/srv/images/web01@20261124T215000Z";

/// Show what an image is
#[derive(Debug, Args)]
#[command(after_help = SHOW)]
struct Show {
    /// STORE/NAME or STORE/NAME@TIME
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    options: StoreOptions,
}

const KEY: &str = "\
Examples:
  unmoor images key list dir:/srv/images
  unmoor images key add dir:/srv/images --new-key-file /root/store.key
  unmoor images key remove dir:/srv/images 0123456789abcdef";

/// The keys of an encrypted store: any one of them opens it
///
/// Removing a key stops those who have that key. Who has opened the store with it before may have kept what it opens.
#[derive(Debug, Args)]
#[command(after_help = KEY)]
struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// List them
    List {
        /// A store
        #[arg(value_name = "STORE")]
        store: String,
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Add one
    Add {
        /// A store
        #[arg(value_name = "STORE")]
        store: String,
        /// Read the new passphrase from the first line of this file; otherwise from a terminal
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
        /// The new key is this file's content
        #[arg(long, value_name = "FILE", conflicts_with = "new_password_file")]
        new_key_file: Option<PathBuf>,
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Remove one
    Remove {
        /// A store
        #[arg(value_name = "STORE")]
        store: String,
        /// The key's name, as the list shows it
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        options: StoreOptions,
    },
}

/// Does what is asked.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    terminal.one_document();
    match &arguments.command {
        Command::Init(init) => init.run(terminal)?,
        Command::List(list) => list.run(terminal)?,
        Command::Show(show) => show.run(terminal)?,
        Command::Key(key) => key.command.run(terminal)?,
    }
    Ok(Outcome::Done)
}

/// One document, or lines.
fn finish(document: &Value, lines: &[String], terminal: &Terminal) -> Result<()> {
    if terminal.json() {
        return terminal.print(&document.to_string());
    }
    lines.iter().try_for_each(|line| terminal.print(line))
}

fn new_secret(given: Option<Secret>) -> Result<Secret> {
    if let Some(secret) = given {
        return Ok(secret);
    }
    let usage = |because| Error::new(ErrorKind::Usage, "choosing a passphrase").because(because);
    let none = || usage("give it in a file or in UNMOOR_PASSWORD, or run this on a terminal");
    let first = ask("New passphrase: ")?.ok_or_else(none)?;
    let second = ask("The same again: ")?.ok_or_else(none)?;
    match (&first, &second) {
        (Secret::Passphrase(first), Secret::Passphrase(second)) if first != second => {
            Err(usage("the two are not the same"))
        }
        _ => Ok(first),
    }
}

impl Init {
    fn run(&self, terminal: &Terminal) -> Result<()> {
        let location = Location::parse(&self.store)?;
        let given = self.options.given()?;
        let secret = if self.encrypt { Some(new_secret(given)?) } else { None };
        let store = Store::init(&location, &InitOptions { secret })?;
        let how = if self.encrypt { "encrypted" } else { "not encrypted" };
        let line = format!("{location}: an empty store, {how}");
        finish(&json!({ "store": location.to_string(), "config": store.config() }), &[line], terminal)
    }
}

impl List {
    fn run(&self, terminal: &Terminal) -> Result<()> {
        // A machine's name looks like the last part of a store's path: what is a store, is meant as one.
        let whole = Location::parse(&self.store)?;
        if Store::is_at(&whole)? {
            return self.machines(&self.options.open(&whole)?, terminal);
        }
        let (location, name) = Location::parse_image(&self.store)?;
        let store = self.options.open(&location)?;
        let images = store.images_of(&name.machine)?;
        if images.is_empty() {
            store.find(&name)?;
        }
        self.images(&store, &images, terminal)
    }

    fn machines(&self, store: &Store, terminal: &Terminal) -> Result<()> {
        let mut machines: BTreeMap<String, Vec<ImageRef>> = BTreeMap::new();
        for image in store.images()? {
            machines.entry(image.folder.clone()).or_default().push(image);
        }
        let latest: Vec<ImageRef> = machines.values().filter_map(|images| images.last().cloned()).collect();
        let mut documents = Vec::new();
        let mut table = Table::new(&[
            ("MACHINE", Align::Left),
            ("IMAGES", Align::Right),
            ("FIRST", Align::Left),
            ("LATEST", Align::Left),
            ("DISKS", Align::Right),
            ("DATA", Align::Right),
            ("LAST ADDED", Align::Right),
        ]);
        for (images, summary) in machines.values().zip(store.summaries(&latest)) {
            let (Some(first), Some(last)) = (images.first(), images.last()) else { continue };
            let summary = kept(summary, last, terminal);
            documents.push(json!({
                "machine": summary.as_ref().map_or(&last.folder, |summary| &summary.machine),
                "images": images.len(), "first": first.time, "latest": last.time, "summary": summary,
            }));
            let size = |bytes: fn(&Summary) -> u64| summary.as_ref().map(|summary| show_size(bytes(summary)));
            table.row(vec![
                summary.as_ref().map_or(&last.folder, |summary| &summary.machine).clone(),
                images.len().to_string(),
                first.time.clone(),
                last.time.clone(),
                size(|summary| summary.size_bytes).unwrap_or_default(),
                size(|summary| summary.data_bytes).unwrap_or_default(),
                size(|summary| summary.added.stored_bytes).unwrap_or_default(),
            ]);
        }
        let lines =
            if documents.is_empty() { vec!["there are no images yet".to_owned()] } else { table.lines() };
        finish(&json!({ "machines": documents, "warnings": terminal.warnings() }), &lines, terminal)
    }

    fn images(&self, store: &Store, images: &[ImageRef], terminal: &Terminal) -> Result<()> {
        let mut documents = Vec::new();
        let mut table = Table::new(&[
            ("TIME", Align::Left),
            ("DISKS", Align::Right),
            ("DATA", Align::Right),
            ("READ", Align::Right),
            ("NEW", Align::Right),
            ("ADDED", Align::Right),
        ]);
        for (image, summary) in images.iter().zip(store.summaries(images)) {
            let summary = kept(summary, image, terminal);
            documents.push(json!({ "time": image.time, "summary": summary }));
            let size = |bytes: fn(&Summary) -> u64| {
                summary.as_ref().map(|summary| show_size(bytes(summary))).unwrap_or_default()
            };
            table.row(vec![
                image.time.clone(),
                size(|summary| summary.size_bytes),
                size(|summary| summary.data_bytes),
                size(|summary| summary.added.read_bytes),
                size(|summary| summary.added.new_bytes),
                size(|summary| summary.added.stored_bytes),
            ]);
        }
        finish(&json!({ "images": documents, "warnings": terminal.warnings() }), &table.lines(), terminal)
    }
}

/// An image that cannot be read is listed by its time, with a warning.
fn kept(summary: Result<Summary>, image: &ImageRef, terminal: &Terminal) -> Option<Summary> {
    summary.map_err(|error| terminal.warn(format!("{}: {}", image.time, error.chain()))).ok()
}

impl Show {
    fn run(&self, terminal: &Terminal) -> Result<()> {
        let (location, name) = Location::parse_image(&self.image)?;
        let store = self.options.open(&location)?;
        let image = store.find(&name)?;
        let record = store.record(&image)?;
        let summary = &record.summary;
        let mut lines = vec![
            format!("{location}/{}@{}", plain(&summary.machine), image.time),
            format!("captured {} by {}", plain(&summary.created), plain(&record.manifest.tool)),
        ];
        for (index, disk) in record.manifest.disks.iter().enumerate() {
            lines.push(format!(
                "  disk {index}: {}, {} of data on {}",
                plain(&disk.source),
                show_size(disk.data_bytes),
                show_size(disk.size)
            ));
        }
        let (added, packs) =
            (&summary.added, record.packs.iter().map(|list| list.packs.len()).sum::<usize>());
        lines.push(format!(
            "  read {}, {} of it new to the store, {} stored; its chunks lie in {packs} packs",
            show_size(added.read_bytes),
            show_size(added.new_bytes),
            show_size(added.stored_bytes)
        ));
        lines.extend(
            record.manifest.warnings.iter().map(|warning| format!("  at the capture: {}", plain(warning))),
        );
        let document = json!({ "image": image.time, "record": record, "warnings": terminal.warnings() });
        finish(&document, &lines, terminal)
    }
}

impl KeyCommand {
    fn run(&self, terminal: &Terminal) -> Result<()> {
        match self {
            Self::List { store, options } => {
                let keys = options.open(&Location::parse(store)?)?.keys()?;
                let mut table =
                    Table::new(&[("KEY", Align::Left), ("KIND", Align::Left), ("ADDED", Align::Left)]);
                let mut documents = Vec::new();
                for key in keys {
                    let kind =
                        serde_json::to_value(key.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
                    documents.push(json!({ "id": key.id, "kind": kind, "created": key.created }));
                    table.row(vec![key.id, kind.unwrap_or_default().replace('_', " "), key.created]);
                }
                finish(&json!({ "keys": documents }), &table.lines(), terminal)
            }
            Self::Add { store, new_password_file, new_key_file, options } => {
                let opened = options.open(&Location::parse(store)?)?;
                let given = StoreOptions::of(new_password_file.clone(), new_key_file.clone()).in_files()?;
                let id = opened.add_key(&new_secret(given)?)?;
                finish(&json!({ "key": id }), &[format!("key {id} added")], terminal)
            }
            Self::Remove { store, key, options } => {
                options.open(&Location::parse(store)?)?.remove_key(key)?;
                finish(&json!({ "removed": key }), &[format!("key {key} removed")], terminal)
            }
        }
    }
}
