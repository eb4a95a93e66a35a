// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask fuzz`: damaged input for every parser, by the crate in `fuzz/`.

use crate::binary::{cargo, workspace};
use crate::packages::{self, Need};
use crate::run::{Result, run as run_command};
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Each target on its seeds and a fixed number of damaged ones (a part of `cargo xtask test`)
    Smoke,
    /// Damage the seeds of a target, or of all, for longer; what fails is kept in fuzz/failures/
    Run {
        /// Name of the target (a folder of fuzz/seeds/), or "all"
        target: String,
        /// How many damaged inputs
        #[arg(default_value_t = 100_000)]
        rounds: u64,
        /// Number of the first; the same number makes the same damage
        #[arg(default_value_t = 1)]
        first: u64,
    },
    /// Make the seeds again, with the real tools (needs root: some are mounted)
    Seeds {
        /// Only those whose name contains this
        #[arg(default_value = "")]
        only: String,
    },
}

pub(crate) fn run(command: Command) -> Result<ExitCode> {
    let mut cargo = cargo();
    cargo.current_dir(workspace());
    let words = match command {
        Command::Smoke => {
            cargo.args(["test", "--locked", "--package", "unmoor-fuzz"]);
            return run_command(&mut cargo).map(|()| ExitCode::SUCCESS);
        }
        Command::Run { target, rounds, first } => {
            vec!["run".to_owned(), target, rounds.to_string(), first.to_string()]
        }
        Command::Seeds { only } => {
            packages::require(&[Need::Tests])?;
            vec!["seeds".to_owned(), only]
        }
    };
    cargo.args(["run", "--quiet", "--locked", "--package", "unmoor-fuzz", "--"]).args(words);
    run_command(&mut cargo).map(|()| ExitCode::SUCCESS)
}
