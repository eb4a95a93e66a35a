// SPDX-License-Identifier: Apache-2.0
//! The tree of commands. To add one: a file here with its arguments and `run`, a variant of [`Command`], a line in `main`.

pub(crate) mod agent;
pub(crate) mod capture;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod dev;
pub(crate) mod fitting;
pub(crate) mod follow;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod jobs;
pub(crate) mod live;
pub(crate) mod machines;
pub(crate) mod nbd;
pub(crate) mod remote;
pub(crate) mod rescue;
pub(crate) mod restore;
pub(crate) mod serve;
pub(crate) mod store;
pub(crate) mod values;
pub(crate) mod verify;

use clap::{Args, Parser, Subcommand};

/// unmoor frees a machine from its hardware
///
/// It captures the disks of a machine as disk images that hold the used blocks only, and puts them back exactly: onto
/// the same machine, a virtual one, or a different one.
#[derive(Debug, Parser)]
#[command(name = "unmoor", version, max_term_width = 80, after_long_help = STATUS, propagate_version = true)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const STATUS: &str = "\
Exit status:
  0  done
  1  failed
  2  the command line makes no sense
  3  refused; nothing was written
  4  done, with warnings (with --strict only)";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Print JSON: one document, or one line per event for what takes long
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Exit with 4 if there were warnings
    #[arg(long, global = true)]
    pub(crate) strict: bool,
}

/// What can be done. The words for each stand with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Inspect(inspect::Arguments),
    Capture(capture::Arguments),
    Follow(follow::Arguments),
    Restore(restore::Arguments),
    Convert(convert::Arguments),
    Verify(verify::Arguments),
    Images(images::Arguments),
    Nbd(nbd::Arguments),
    Rescue(rescue::Arguments),
    Serve(serve::Arguments),
    Machines(machines::Arguments),
    Jobs(jobs::Arguments),
    Agent(agent::Arguments),
    Completions(completions::Arguments),
    #[command(hide = true)]
    Dev(dev::Arguments),
}
