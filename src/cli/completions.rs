// SPDX-License-Identifier: Apache-2.0
//! `unmoor completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use unmoor_images::Result;

use super::CommandLine;
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Example:
  unmoor completions bash > /etc/bash_completion.d/unmoor";

/// Print a shell's completions
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// For which shell
    shell: Shell,
}

/// Prints the completions.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "unmoor", &mut text);
    terminal.print(String::from_utf8_lossy(&text).trim_end())?;
    Ok(Outcome::Done)
}
