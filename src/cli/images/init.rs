// SPDX-License-Identifier: Apache-2.0
//! `unmoor images init`.

use clap::Args;
use serde_json::json;
use unmoor_images::Result;
use unmoor_images::store::{InitOptions, Location, Store};

use super::finish;
use super::keys::new_secret;
use crate::cli::store::StoreOptions;
use crate::output::Terminal;

const EXAMPLES: &str = "\
Examples:
  unmoor images init dir:/srv/images
  unmoor images init dir:/srv/images --encrypt --password-file /root/words";

/// Make a store
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Init {
    /// dir:PATH, where nothing is yet
    #[arg(value_name = "STORE")]
    store: String,
    /// Encrypt all that will be stored. Without the passphrase or key file nobody can read it again
    #[arg(long)]
    encrypt: bool,
    #[command(flatten)]
    options: StoreOptions,
}

impl Init {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<()> {
        let location = Location::parse(&self.store)?;
        let given = self.options.given()?;
        let secret = if self.encrypt { Some(new_secret(given)?) } else { None };
        let store = Store::init(&location, &InitOptions { secret })?;
        let how = if self.encrypt { "encrypted" } else { "not encrypted" };
        let line = format!("{location}: an empty store, {how}");
        finish(&json!({ "store": location.to_string(), "config": store.config() }), &[line], terminal)
    }
}
