// SPDX-License-Identifier: Apache-2.0
//! `unmoor images key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use unmoor_images::store::{Location, Secret};
use unmoor_images::{Error, ErrorKind, Result};

use super::finish;
use crate::cli::store::{StoreOptions, ask};
use crate::output::Terminal;
use crate::output::table::{Align, Table};

const EXAMPLES: &str = "\
Examples:
  unmoor images key list dir:/srv/images
  unmoor images key add dir:/srv/images --new-key-file /root/store.key
  unmoor images key remove dir:/srv/images 0123456789abcdef";

/// The keys of an encrypted store: any one of them opens it
///
/// Removing a key stops those who have that key. Who has opened the store with it before may have kept what it opens.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Key {
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

impl Key {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        self.command.run(terminal)
    }
}

/// The secret that was given, or one that is asked for twice.
pub(super) fn new_secret(given: Option<Secret>) -> Result<Secret> {
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

impl KeyCommand {
    fn run(&self, terminal: &Terminal) -> Result<()> {
        match self {
            Self::List { store, options } => {
                let opened = options.open(&Location::parse(store)?)?;
                let keys = opened.keys()?;
                if opened.config().encryption.is_none() {
                    let said = ["the store is not encrypted: it needs no key".to_owned()];
                    return finish(&json!({ "keys": keys }), &said, terminal);
                }
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
                if opened.config().encryption.is_none() {
                    let because =
                        "the store is not encrypted; `unmoor images copy` fills an encrypted one from it";
                    return Err(Error::refused("adding a key", because));
                }
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
