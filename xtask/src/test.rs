// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: what CI runs, from formatting to booted guests.

use crate::binary::{cargo, static_release, workspace};
use crate::lab::cells::{self, Choice};
use crate::lab::fit::Tools;
use crate::lab::rescue_boot;
use crate::packages::{self, Need};
use crate::run::{Failure, Result, run as run_command};
use crate::step::{Runner, Steps, Tally, run_tests};
use std::process::{Command, ExitCode, Stdio};

/// Runs everything, however much fails, and sums it up.
pub(crate) fn run(all: bool, no_lab: bool) -> Result<ExitCode> {
    let mut steps = Steps::default();
    let needs: &[Need] =
        if no_lab { &[Need::Build, Need::Tests] } else { &[Need::Build, Need::Tests, Need::Lab] };
    packages::require(needs)?;
    if all {
        packages::require(&[Need::Browser])?;
    }
    steps.check("formatting", || run_command(in_workspace().args(["fmt", "--all", "--check"])));
    steps.check("lints", || {
        let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
        run_command(in_workspace().args(arguments))
    });
    steps.tests("tests", tests);
    steps.check("documentation", docs);
    if !no_lab {
        match static_release() {
            Ok(unmoor) => {
                steps.check("lab: the rescue environment boots", || rescue_boot::check(&unmoor));
                let choice = if all { Choice::All } else { Choice::OfTheDay };
                cells::run(&mut steps, &Tools { unmoor, rescue: None, quick: false }, &choice)?;
            }
            Err(error) => steps.check("static build", || Err(error)),
        }
    }
    Ok(steps.finish())
}

/// The documentation of the crates, warnings being errors.
pub(crate) fn docs() -> Result {
    let mut command = in_workspace();
    command.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    run_command(command.env("RUSTDOCFLAGS", "--deny warnings"))
}

/// The crates' own tests: by nextest where it is installed, which runs the tests of all crates side by side, and by
/// `cargo test` for what nextest leaves out, the examples in documentation.
fn tests() -> Result<Tally> {
    let nextest =
        in_workspace().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !nextest.is_ok_and(|status| status.success()) {
        return run_tests(
            Runner::Cargo,
            in_workspace().args(["test", "--workspace", "--locked", "--no-fail-fast"]),
        );
    }
    let arguments = ["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--no-tests", "pass"];
    let mut tally =
        run_tests(Runner::Nextest, in_workspace().args(arguments).args(["--status-level", "slow"]))?;
    tally += run_tests(
        Runner::Cargo,
        in_workspace().args(["test", "--workspace", "--locked", "--doc", "--no-fail-fast"]),
    )?;
    if tally == Tally::default() {
        return Err(Failure::new("the test runner's output names no test"));
    }
    Ok(tally)
}

fn in_workspace() -> Command {
    let mut command = cargo();
    command.current_dir(workspace());
    command
}
