// SPDX-License-Identifier: Apache-2.0
//! Captures through the server beside captures into the same kind of store without it, and eight agents at once.
//!
//! Agents and server share this machine's processors, as the copy loop alone has them without a server.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::measure::{Figures, warm};
use super::{aim, line};
use crate::binary::{cargo, workspace};
use crate::run::{Failure, Result, While, output, run as run_command};

const AGENTS: u64 = 8;

/// A server that ends with this.
struct Served {
    child: Child,
    url: String,
    ca: PathBuf,
}

impl Served {
    fn start(program: &Path, folder: &Path, name: &str) -> Result<Self> {
        let ca = folder.join(format!("{name}.pem"));
        let mut child = Command::new(program)
            .arg("serve")
            .arg(folder.join(name))
            .arg(&ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .while_doing("starting the server")?;
        let mut url = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut url).while_doing("reading the server's address")?;
        }
        Ok(Self { child, url: url.trim().to_owned(), ca })
    }

    fn agent(&self, program: &Path, number: u64, disk: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("agent").arg(&self.url).arg(&self.ca).arg(number.to_string()).arg(disk);
        command
    }

    /// Most memory that it has held, in MiB.
    fn peak(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|peak| peak.trim().parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It ends when its standard input does.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What `store_speed` prints: seconds, and bytes that were new.
fn figures(text: &str) -> Result<(f64, f64)> {
    let mut words = text.split_whitespace().map(str::parse::<f64>);
    match (words.next(), words.next()) {
        (Some(Ok(seconds)), Some(Ok(bytes))) => Ok((seconds, bytes)),
        _ => Err(Failure::new(format!("store_speed says {text:?}"))),
    }
}

pub(super) fn run(disk: &Path, folder: &Path, rounds: usize) -> Result {
    let arguments = ["build", "--release", "--package", "unmoor-pxe-boot", "--example", "store_speed"];
    run_command(cargo().args(arguments).current_dir(workspace()))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let program = target.join("release/examples/store_speed");
    println!("\ncaptures through the server, page cache warm; medians of {rounds}");
    let (mut local, mut remote) = (Figures::default(), Figures::default());
    let mut peak = 0.0f64;
    for _ in 0..rounds.max(1) {
        for (name, figures_of) in [("local", &mut local), ("remote", &mut remote)] {
            warm(disk)?;
            let store = folder.join(name);
            let said = if name == "local" {
                output(Command::new(&program).arg("local").arg(&store).arg("1").arg(disk))?
            } else {
                let served = Served::start(&program, folder, name)?;
                let said = output(&mut served.agent(&program, 1, disk))?;
                peak = peak.max(served.peak());
                said
            };
            figures_of.push(figures(&said)?.0);
            std::fs::remove_dir_all(&store).while_doing("removing a store")?;
        }
    }
    line("without a server", &local, None);
    line("through the server", &remote, Some(&local));
    aim("speed against without", local.seconds() / remote.seconds(), Some(0.85), None);
    println!("  the server's peak memory: {peak:.0} MiB");
    many(&program, disk, folder)
}

/// Agents at once, each with a disk of its own: what they have in common would be the first one's work.
fn many(program: &Path, disk: &Path, folder: &Path) -> Result {
    println!("\n{AGENTS} agents at once, each with 1 GiB of its own");
    let disks: Vec<PathBuf> = (0..AGENTS).map(|number| folder.join(format!("part{number}.raw"))).collect();
    for (number, part) in disks.iter().enumerate() {
        own(disk, part, number as u64)?;
        warm(part)?;
    }
    let served = Served::start(program, folder, "many")?;
    let mut agents = Vec::new();
    for (number, part) in disks.iter().enumerate() {
        let agent = served.agent(program, number as u64, part).stdout(Stdio::piped()).spawn();
        agents.push(agent.while_doing("starting an agent")?);
    }
    let mut rates = Vec::new();
    for agent in agents {
        let done = agent.wait_with_output().while_doing("waiting for an agent")?;
        let (seconds, bytes) = figures(&String::from_utf8_lossy(&done.stdout))?;
        rates.push(bytes / seconds / (1 << 20) as f64);
    }
    for (number, rate) in rates.iter().enumerate() {
        println!("  agent {number}: {rate:.0} MiB/s");
    }
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rates.iter().copied().fold(0.0, f64::max);
    aim("the slowest against the fastest", least / most, Some(0.8), None);
    aim("the server's peak memory in MiB", served.peak(), None, Some(200.0));
    drop(served);
    for path in disks {
        std::fs::remove_file(path).while_doing("removing a disk")?;
    }
    std::fs::remove_dir_all(folder.join("many")).while_doing("removing a store")
}

/// 1 GiB of what is on `disk`, with each leaf made different by its beginning.
fn own(disk: &Path, to: &Path, number: u64) -> Result {
    use std::os::unix::fs::FileExt;
    const LEAF: usize = 256 << 10;
    let from = std::fs::File::open(disk).while_doing("opening the disk")?;
    let file = std::fs::File::create(to).while_doing("creating a disk")?;
    let mut leaf = vec![0; LEAF];
    let (mut at, mut written) = (0, 0);
    while written < (1 << 30) / LEAF as u64 {
        from.read_exact_at(&mut leaf, at).while_doing("reading the disk")?;
        at += LEAF as u64;
        if leaf.iter().any(|byte| *byte != 0) {
            leaf[..8].copy_from_slice(&(number + 1).to_le_bytes());
            file.write_all_at(&leaf, written * LEAF as u64).while_doing("writing a disk")?;
            written += 1;
        }
    }
    Ok(())
}
