// SPDX-License-Identifier: Apache-2.0
//! What CI and the README call: demo, test, bench, lab, fuzz, docs.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program talks to the person who started it"
)]

mod bench;
mod binary;
mod browser;
mod demo;
mod fuzz;
mod lab;
mod packages;
mod run;
mod s3_server;
mod step;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// unmoor's tasks: each installs the Debian packages that it lacks, saying which.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all checks and tests; the last line is "N passed, N failed"
    Test {
        /// Run all cells of the lab, not only the day's
        #[arg(long)]
        all: bool,
        /// Leave out what boots guests
        #[arg(long)]
        no_lab: bool,
    },
    /// Capture a real Debian disk, restore it to another disk, boot that and show the proof
    Demo {
        /// Two machines that start from the network: one is captured, the other, bare and unlike, becomes it
        #[arg(long)]
        network: bool,
    },
    /// Build the static binary and say where it is
    Build,
    /// Measure unmoor beside other tools, in one run
    Bench {
        /// What to measure; all where none is named
        parts: Vec<bench::Part>,
        /// How often each is run; medians are shown
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Guests: build, boot, list, test
    #[command(subcommand)]
    Lab(lab::commands::Command),
    /// Damaged input for every parser: smoke, run, seeds
    #[command(subcommand)]
    Fuzz(fuzz::Command),
    /// Build the documentation and fail on whatever is wrong in it
    Docs,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test { all, no_lab } => test::run(all, no_lab),
        Task::Demo { network } => demo::run(network),
        Task::Build => binary::static_release().map(|path| {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }),
        Task::Bench { parts, rounds } => bench::run(&parts, rounds).map(|()| ExitCode::SUCCESS),
        Task::Lab(command) => lab::commands::run(command),
        Task::Fuzz(command) => fuzz::run(command),
        Task::Docs => test::docs().map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
