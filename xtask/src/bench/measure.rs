// SPDX-License-Identifier: Apache-2.0
//! Whole commands, timed from outside; medians.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use crate::run::{Failure, Result, While};

/// A shell command with the file that it makes.
pub(super) struct Command {
    pub(super) name: &'static str,
    text: String,
    output: PathBuf,
    kept: bool,
}

impl Command {
    /// `OUT` in `text` stands for `output`.
    pub(super) fn new(name: &'static str, text: impl Into<String>, output: PathBuf) -> Self {
        Self { name, text: text.into().replace("OUT", &output.display().to_string()), output, kept: true }
    }

    /// The same, with its output removed at the end: twelve gigabytes of each would not find room side by side.
    pub(super) fn dropped(self) -> Self {
        Self { kept: false, ..self }
    }

    /// The same, with its output on stable storage at the end.
    pub(super) fn flushed(&self) -> Self {
        let text = format!("{{ {}; }} && sync {}", self.text, self.output.display());
        Self { name: self.name, text, output: self.output.clone(), kept: self.kept }
    }

    fn run(&self, figures: &mut Figures) -> Result {
        // What an earlier round wrote must not be written back during this one.
        if self.output.exists() {
            fs::remove_file(&self.output).while_doing(format_args!("removing {}", self.output.display()))?;
        }
        // SAFETY: sync takes nothing and cannot fail.
        unsafe { libc::sync() };
        let start = Instant::now();
        let mut child = std::process::Command::new("bash")
            .args(["-o", "pipefail", "-c", &self.text])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .while_doing(format_args!("starting {}", self.text))?;
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            let _ = stderr.read_to_string(&mut said);
        }
        let mut status = 0;
        // SAFETY: an all-zero rusage is valid, and the kernel fills it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the child is ours and not waited for elsewhere; both pointers are to live locals.
        let waited = unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) };
        figures.all.push(start.elapsed().as_secs_f64());
        if waited < 0 || status != 0 {
            return Err(Failure::new(format!("`{}` failed: {}", self.text, said.trim())));
        }
        figures.peak_kib = figures.peak_kib.max(usage.ru_maxrss.unsigned_abs());
        figures.bytes = fs::metadata(&self.output).map_or(0, |metadata| metadata.len());
        if !self.kept {
            fs::remove_file(&self.output).while_doing(format_args!("removing {}", self.output.display()))?;
        }
        Ok(())
    }
}

/// What rounds of one command took.
#[derive(Default)]
pub(super) struct Figures {
    all: Vec<f64>,
    peak_kib: u64,
    /// Length of the output in bytes.
    pub(super) bytes: u64,
}

impl Figures {
    /// Takes a round that the program itself has timed.
    pub(super) fn push(&mut self, seconds: f64) {
        self.all.push(seconds);
    }

    /// Takes the rounds of another measurement of the same.
    pub(super) fn add(&mut self, other: Self) {
        self.all.extend(other.all);
        self.peak_kib = self.peak_kib.max(other.peak_kib);
        self.bytes = other.bytes;
    }

    /// The median.
    pub(super) fn seconds(&self) -> f64 {
        let mut all = self.all.clone();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The fastest and the slowest round.
    pub(super) fn spread(&self) -> String {
        let least = self.all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.all.iter().copied().fold(0.0, f64::max);
        format!("{least:.2} to {most:.2}")
    }

    /// The largest resident set of a process of it, in MiB.
    pub(super) fn peak_mib(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }
}

/// Runs all commands in turn, `rounds` times, with `before` before each.
pub(super) fn interleaved(
    commands: &[Command],
    rounds: usize,
    before: impl Fn() -> Result,
) -> Result<Vec<Figures>> {
    let mut figures: Vec<Figures> = commands.iter().map(|_| Figures::default()).collect();
    for _ in 0..rounds.max(1) {
        for (command, figures) in commands.iter().zip(&mut figures) {
            before()?;
            command.run(figures)?;
        }
    }
    Ok(figures)
}

/// Reads a file into the page cache.
pub(super) fn warm(path: &Path) -> Result {
    let mut file = File::open(path).while_doing(format_args!("opening {}", path.display()))?;
    let mut buffer = vec![0; 4 << 20];
    while file.read(&mut buffer).while_doing(format_args!("reading {}", path.display()))? > 0 {}
    Ok(())
}

/// The restored disk has the same files: a measurement of a wrong result is worth nothing.
pub(super) fn same_used_bytes(source: &Path, restored: &Path) -> Result {
    let check = |path: &Path| -> Result<String> {
        let output = std::process::Command::new("e2fsck").args(["-fn"]).arg(path).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(format!("{} {text}", output.status).replace(&path.display().to_string(), "DISK"))
    };
    let (before, after) = (check(source)?, check(restored)?);
    if before == after { Ok(()) } else { Err(Failure::new(format!("e2fsck differs:\n{before}\n{after}"))) }
}
