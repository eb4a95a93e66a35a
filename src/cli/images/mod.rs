// SPDX-License-Identifier: Apache-2.0
//! `unmoor images`: stores and what is in them. One file a command.

mod copy;
mod diff;
mod export;
mod hurt;
mod import;
mod init;
mod keys;
mod list;
mod mount;
mod prune;
mod remove;
mod show;
mod verify;

use clap::{Args, Subcommand};
use serde_json::Value;
use unmoor_images::Result;
use unmoor_images::store::{ImageRef, Location, Store};

use super::store::StoreOptions;
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
    Init(init::Init),
    List(list::List),
    Show(show::Show),
    Export(export::Export),
    Import(import::Import),
    Diff(diff::Diff),
    Mount(mount::Mount),
    Verify(verify::Verify),
    Remove(remove::Remove),
    Prune(prune::Prune),
    Copy(copy::Copy),
    Rekey(copy::Rekey),
    Key(keys::Key),
}

/// Does what is asked.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    match &arguments.command {
        // These take long, and report as they go.
        Command::Export(export) => return export.run(terminal),
        Command::Import(import) => return import.run(terminal),
        Command::Mount(mount) => return mount.run(terminal),
        _ => terminal.one_document(),
    }
    match &arguments.command {
        Command::Export(_) | Command::Import(_) | Command::Mount(_) => {}
        Command::Diff(diff) => diff.run(terminal)?,
        Command::Init(init) => init.run(terminal)?,
        Command::List(list) => list.run(terminal)?,
        Command::Show(show) => show.run(terminal)?,
        Command::Verify(verify) => verify.run(terminal)?,
        Command::Remove(remove) => remove.run(terminal)?,
        Command::Prune(prune) => prune.run(terminal)?,
        Command::Copy(copy) => copy.run(terminal)?,
        Command::Rekey(rekey) => rekey.run(terminal)?,
        Command::Key(key) => key.run(terminal)?,
    }
    Ok(Outcome::Done)
}

/// A store that is open, and the images in it that `text` names: none where it names all of the store.
fn chosen(text: &str, options: &StoreOptions) -> Result<(Store, Option<Vec<ImageRef>>)> {
    // A machine's name looks like the last part of a store's path: what is a store, is meant as one.
    let whole = Location::parse(text);
    if let Ok(whole) = &whole
        && Store::is_at(whole)?
    {
        return Ok((options.open(whole)?, None));
    }
    let (location, name) = match (Location::parse_image(text), whole) {
        (Ok((location, name)), Ok(whole)) => {
            if name.time.is_none() && !Store::is_at(&location)? {
                // What is neither is most likely a store that is not there.
                options.open(&whole)?;
            }
            (location, name)
        }
        (named, whole) => named.or_else(|error| whole.and(Err(error)))?,
    };
    let store = options.open(&location)?;
    let one = store.find(&name)?;
    let images = if name.time.is_some() { vec![one] } else { store.images_of(&name.machine)? };
    Ok((store, Some(images)))
}

/// One document, or lines.
fn finish(document: &Value, lines: &[String], terminal: &Terminal) -> Result<()> {
    if terminal.json() {
        return terminal.print(&document.to_string());
    }
    lines.iter().try_for_each(|line| terminal.print(line))
}
