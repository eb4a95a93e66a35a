// SPDX-License-Identifier: Apache-2.0
//! Named steps with their durations, and the sum of what passed and failed in them.

use crate::run::{Failure, Result, While, shown};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// How many checks passed and failed.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

/// The steps of one command so far.
#[derive(Default)]
pub(crate) struct Steps {
    tally: Tally,
    failures: Vec<String>,
}

impl Steps {
    /// Runs a step that is one check.
    pub(crate) fn check(&mut self, name: &str, step: impl FnOnce() -> Result) {
        self.tests(name, || step().map(|()| Tally { passed: 1, failed: 0 }));
    }

    /// Runs a step that is many checks. A step that fails outright counts as one failed check.
    pub(crate) fn tests(&mut self, name: &str, step: impl FnOnce() -> Result<Tally>) {
        println!("==> {name}");
        let start = Instant::now();
        let outcome = step();
        self.record(name, start.elapsed().as_secs_f64(), outcome);
    }

    /// Adds the outcome of a step that ran elsewhere, on another thread.
    pub(crate) fn record(&mut self, name: &str, seconds: f64, outcome: Result<Tally>) {
        let (tally, error) = match outcome {
            Ok(tally) => (tally, None),
            Err(error) => (Tally { passed: 0, failed: 1 }, Some(error)),
        };
        let word = if tally.failed == 0 { "ok" } else { "FAILED" };
        println!("<== {name}: {word}, {seconds:.1} s");
        if let Some(error) = error {
            println!("    {error}");
            self.failures.push(format!("{name}: {error}"));
        } else if tally.failed > 0 {
            self.failures.push(format!("{name}: {} failed", tally.failed));
        }
        self.tally += tally;
    }

    /// Lists the failures; the last line is the sum, alone.
    pub(crate) fn finish(self) -> ExitCode {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", self.tally.passed, self.tally.failed);
        if self.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// A test runner, whose summary is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    /// `cargo test`: a line for each crate.
    Cargo,
    /// `cargo nextest`: one line. What it shows of a failed test ends with a summary in the other runner's words, which
    /// counts the same failure once more.
    Nextest,
}

/// Runs a test runner, showing its output as it comes, and reads the sums that it prints.
pub(crate) fn run_tests(runner: Runner, command: &mut Command) -> Result<Tally> {
    let name = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .while_doing(format_args!("starting {name}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let tally = std::thread::scope(|scope| {
        let errors = scope
            .spawn(|| stderr.map(|stream| forward(runner, stream, std::io::stderr())).unwrap_or_default());
        let mut tally = stdout.map(|stream| forward(runner, stream, std::io::stdout())).unwrap_or_default();
        tally += errors.join().unwrap_or_default();
        tally
    });
    let status = child.wait().while_doing(format_args!("waiting for {name}"))?;
    if !status.success() && tally.failed == 0 {
        return Err(Failure::new(format!("`{name}` failed: {status}")));
    }
    Ok(tally)
}

fn forward(runner: Runner, stream: impl Read, mut to: impl Write) -> Tally {
    let mut tally = Tally::default();
    for line in BufReader::new(stream).split(b'\n').map_while(std::io::Result::ok) {
        let line = String::from_utf8_lossy(&line);
        match runner.sums(&line) {
            None => {}
            Some(sums) if runner == Runner::Nextest => tally = sums,
            Some(sums) => tally += sums,
        }
        // The user closing the terminal is no reason to stop the tests.
        let _ = writeln!(to, "{line}");
    }
    tally
}

impl Runner {
    /// The numbers before "passed" and "failed", if this is a line of the runner's summary.
    fn sums(self, line: &str) -> Option<Tally> {
        let start = match self {
            Self::Cargo => "test result:",
            Self::Nextest => "Summary [",
        };
        let line = line.trim_start();
        if !line.starts_with(start) {
            return None;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number_before = |what: &str| {
            words
                .windows(2)
                .filter_map(|pair| match pair {
                    [number, word] if word.trim_end_matches([',', ';', '.']) == what => {
                        number.parse::<u64>().ok()
                    }
                    _ => None,
                })
                .sum::<u64>()
        };
        let failed = number_before("failed").saturating_add(number_before("timed"));
        Some(Tally { passed: number_before("passed"), failed })
    }
}

#[cfg(test)]
mod tests {
    use super::{Runner, Tally, forward};

    fn read(runner: Runner, output: &str) -> Tally {
        forward(runner, output.as_bytes(), std::io::sink())
    }

    #[test]
    fn the_summary_of_nextest_is_counted_and_that_of_a_failed_test_inside_is_not() {
        let output = "        FAIL [   0.011s] xtask step::tests::x\n  stdout ───\n    running 1 test\n\
            \n    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 5 filtered out\n\
            \n     Summary [  12.345s] 10 tests run: 7 passed (1 slow), 2 failed, 1 timed out, 0 skipped\n";
        assert_eq!(read(Runner::Nextest, output), Tally { passed: 7, failed: 3 });
        let cases = [
            ("     Summary [  12.345s] 57 tests run: 57 passed, 1 skipped", 57, 0),
            ("     Summary [   0.005s] 2/3 tests run: 1 passed, 1 failed, 0 skipped", 1, 1),
            ("a test said: 9 passed, 9 failed", 0, 0),
        ];
        for (line, passed, failed) in cases {
            assert_eq!(read(Runner::Nextest, line), Tally { passed, failed }, "{line}");
        }
    }

    #[test]
    fn the_summaries_of_all_crates_are_added_up() {
        let output = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            a test said: 9 passed, 9 failed\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(read(Runner::Cargo, output), Tally { passed: 8, failed: 2 });
    }
}
