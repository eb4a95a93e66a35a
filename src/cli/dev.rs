// SPDX-License-Identifier: Apache-2.0
//! `unmoor dev`: what those who work on unmoor look at, and what is generated from this program.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Subcommand, ValueEnum};
use unmoor_capture::disk::OpenOptions;
use unmoor_capture::{InUse, SurveyOptions, survey};
use unmoor_images::layout::{self, Hibernated};
use unmoor_images::manifest::{self, Manifest};
use unmoor_images::{Error, ErrorKind, ExtentMap, Result, ResultExt};
use unmoor_pxe_boot::api::{Job, Machine};

use super::CommandLine;
use crate::output::{Outcome, Terminal};

/// What the foot of a man page names.
const SOURCE: &str = concat!("unmoor ", env!("CARGO_PKG_VERSION"));

/// For those who work on unmoor
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show facts of an image or disk
    Show {
        /// Which
        #[arg(value_enum)]
        what: What,
        /// Image or block device
        path: PathBuf,
    },
    /// Write man pages and JSON schemas into a source tree
    Docs {
        /// Its root
        root: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Every extent, as our readers find it
    Extents,
    /// Every extent, as the manifest's map file has it
    Map,
    /// The table and the regions
    Layout,
    /// The manifest
    Manifest,
}

/// Shows or writes.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    match &arguments.command {
        Command::Show { what: What::Manifest, path } => {
            let (manifest, _) = manifest_of(path)?;
            terminal.print(&format!("{manifest:#?}"))?;
        }
        Command::Show { what: What::Map, path } => {
            let (manifest, disk) = manifest_of(path)?;
            let record = manifest.disks.get(disk).ok_or_else(|| no_manifest(path))?;
            show_extents(&record.read_map(path.parent().unwrap_or(Path::new("")))?.0, terminal)?;
        }
        Command::Show { what, path } => {
            let options = SurveyOptions {
                open: OpenOptions::default(),
                layout: layout::Options { all: false, hibernated: Hibernated::Keep },
                in_use: InUse::Mention,
            };
            let survey = survey(std::slice::from_ref(path), &options, terminal)?;
            for layout in &survey.layouts {
                if *what == What::Layout {
                    terminal.print(&format!("{:#?}\n{:#?}", layout.table, layout.regions))?;
                } else {
                    show_extents(&layout.extents, terminal)?;
                }
            }
        }
        Command::Docs { root } => {
            man_pages(&root.join("man"))?;
            schemas(&root.join("docs/schema"))?;
        }
    }
    Ok(Outcome::Done)
}

fn manifest_of(path: &Path) -> Result<(Manifest, usize)> {
    Manifest::beside(path)?.ok_or_else(|| no_manifest(path))
}

fn no_manifest(path: &Path) -> Error {
    Error::refused("looking for a manifest", "there is none").path(manifest::path_for(path))
}

fn show_extents(extents: &ExtentMap, terminal: &Terminal) -> Result<()> {
    for extent in extents.iter() {
        terminal.print(&format!("{:#014x} {:>14} {:?}", extent.offset, extent.len, extent.state))?;
    }
    Ok(())
}

/// One page for `unmoor` and one for each command, and for each command of a command, in section 8: for administrators.
fn man_pages(folder: &Path) -> Result<()> {
    let mut command = CommandLine::command();
    command.build();
    let mut pages = vec![("unmoor".to_owned(), command)];
    let mut done = 0;
    while let Some((name, command)) = pages.get(done) {
        let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
        let subs: Vec<_> = subs.map(|sub| (format!("{name}-{}", sub.get_name()), sub.clone())).collect();
        pages.extend(subs);
        done += 1;
    }
    for (name, command) in pages {
        let mut page = Vec::new();
        let man = clap_mangen::Man::new(command).section("8").manual("unmoor").source(SOURCE).date("");
        man.render(&mut page).doing(|| format!("writing the man page of {name}"))?;
        write(&folder.join(format!("{name}.8")), &page)?;
    }
    Ok(())
}

fn schemas(folder: &Path) -> Result<()> {
    let all = [
        ("manifest", schemars::schema_for!(Manifest)),
        ("machine", schemars::schema_for!(Machine)),
        ("job", schemars::schema_for!(Job)),
    ];
    for (name, schema) in all {
        let mut json = serde_json::to_vec_pretty(&schema)
            .map_err(|error| Error::new(ErrorKind::Malformed, "writing a schema").source(error))?;
        json.push(b'\n');
        write(&folder.join(format!("{name}.schema.json")), &json)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::File::create(path))
        .and_then(|mut file| file.write_all(bytes))
        .doing(|| format!("writing {}", path.display()))
}
