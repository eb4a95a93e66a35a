// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: a real machine's disk goes into an image and onto another disk, and boots there.

mod network;

use crate::binary::static_release;
use crate::lab::guests;
use crate::lab::qemu::Writes;
use crate::lab::{Scratch, boot};
use crate::packages::{self, Need};
use crate::run::{Result, While, run as run_command, shown};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Runs the demonstration and prints its table.
pub(crate) fn run(over_network: bool) -> Result<ExitCode> {
    if over_network {
        return network::run();
    }
    packages::require(&[Need::Build, Need::Lab])?;
    println!("building unmoor, release and static");
    let unmoor = static_release()?;
    let guest = guests::guest("bookworm")?;
    println!("taking the guest {}: {} (built once: some minutes)", guest.name, guest.about);
    let built = guest.build()?;

    let scratch = Scratch::new("demo")?;
    let image = scratch.path().join("web01.qcow2");
    let restored = scratch.path().join("restored.raw");
    let size = format!("{}G", (guest.size >> 30) + 2);

    let mut rows = vec![Row::new("source disk", None, &built.disk)?];
    let step = |arguments: &[&str], paths: &[&Path]| -> Result<f64> {
        let mut command = Command::new(&unmoor);
        command.args(arguments).args(paths);
        println!("\n$ {}", shown(&command));
        let start = Instant::now();
        run_command(&mut command)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let seconds = step(&["capture"], &[&built.disk, &image])?;
    rows.push(Row::new("captured image", Some(seconds), &image)?);
    let seconds = step(&["restore", "--yes", "--size", &size], &[&image, &restored])?;
    rows.push(Row::new("restored disk, 2 GiB bigger", Some(seconds), &restored)?);
    let verified = step(&["verify"], &[&image, &restored])?;

    println!("\nbooting the restored disk in QEMU (about a minute)");
    let proof = boot::boot(&guest.machine(&restored, Writes::Dropped))?;
    proof.check(guest)?;

    println!("\n{:<30} {:>10} {:>12} {:>12}", "", "time", "size", "on disk");
    for row in rows {
        println!("{row}");
    }
    println!("{:<30} {verified:>8.1} s", "verified, every hash");
    println!("{:<30} {:>8.1} s", "booted and powered off", proof.seconds);
    println!("\nproof of boot, said by the restored machine itself:");
    println!("  {} runs {} ({}, systemd: {})", proof.hostname, proof.kernel, proof.firmware, proof.state);
    println!("  root {}, {} swap, network {}", proof.root, proof.swaps, proof.networks().join(", "));
    for mount in proof.mounts() {
        println!("  {} on {}", mount.fstype, mount.target);
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of the table about a file.
struct Row {
    what: &'static str,
    seconds: Option<f64>,
    length: u64,
    allocated: u64,
}

impl Row {
    fn new(what: &'static str, seconds: Option<f64>, path: &Path) -> Result<Self> {
        let metadata = path.metadata().while_doing(format_args!("reading {}", path.display()))?;
        Ok(Self { what, seconds, length: metadata.len(), allocated: metadata.blocks() * 512 })
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = self.seconds.map_or_else(String::new, |seconds| format!("{seconds:.1} s"));
        let [length, allocated] = [self.length, self.allocated]
            .map(|bytes| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)));
        write!(f, "{:<30} {time:>10} {length:>12} {allocated:>12}", self.what)
    }
}
