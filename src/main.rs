// SPDX-License-Identifier: Apache-2.0
//! The command line: parses, calls one crate, prints. This file is the table of contents.

mod agent;
mod appliance;
mod cache;
mod cli;
mod fit;
mod follow;
mod output;
mod records;
mod serve;

use std::process::ExitCode;

use clap::Parser;
use cli::{Command, CommandLine};
use output::Terminal;

fn main() -> ExitCode {
    // In the rescue environment this program is all there is: PID 1, and what the kernel calls modprobe.
    if unmoor_initramfs::init::is_init() {
        cli::rescue::be_init();
    }
    if unmoor_initramfs::init::is_modprobe() {
        return ExitCode::from(unmoor_initramfs::init::modprobe(std::env::args()));
    }
    let line = CommandLine::parse();
    let terminal = Terminal::new(&line.common);
    let outcome = match &line.command {
        Command::Inspect(arguments) => cli::inspect::run(arguments, &terminal),
        Command::Capture(arguments) => cli::capture::run(arguments, &terminal),
        Command::Follow(arguments) => cli::follow::run(arguments, &terminal),
        Command::Restore(arguments) => cli::restore::run(arguments, &terminal),
        Command::Convert(arguments) => cli::convert::run(arguments, &terminal),
        Command::Verify(arguments) => cli::verify::run(arguments, &terminal),
        Command::Images(arguments) => cli::images::run(arguments, &terminal),
        Command::Nbd(arguments) => cli::nbd::run(arguments, &terminal),
        Command::Rescue(arguments) => cli::rescue::run(arguments, &terminal),
        Command::Machines(arguments) => cli::machines::run(arguments, &terminal),
        Command::Jobs(arguments) => cli::jobs::run(arguments, &terminal),
        Command::Agent(arguments) => cli::agent::run(arguments, &terminal),
        Command::Serve(arguments) => cli::serve::run(arguments, &terminal),
        Command::Completions(arguments) => cli::completions::run(arguments, &terminal),
        Command::Dev(arguments) => cli::dev::run(arguments, &terminal),
    };
    terminal.exit_code(outcome)
}
