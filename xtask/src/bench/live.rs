// SPDX-License-Identifier: Apache-2.0
//! What following a disk's writes costs those who write, and how long they wait for a capture.
//!
//! The disk is a loop device with ext4 and a file of 2 GiB, which fio overwrites in blocks of 4 KiB at random, past the page cache.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::loop_device::LoopDevice;
use crate::run::{Failure, Result, While, as_root, output};

const DISK: u64 = 5 << 30;
const FILE_MIB: u64 = 2048;
/// Pairs of a run without and one with tracking.
const PAIRS: usize = 7;
const SECONDS: u64 = 8;
const CAPTURES: usize = 12;

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = output(as_root("umount").args(["-l"]).arg(&self.0));
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures.
pub(super) fn run(unmoor: &Path, folder: &Path) -> Result {
    let file = folder.join("live.disk");
    std::fs::File::create(&file).and_then(|file| file.set_len(DISK)).while_doing("making a disk")?;
    output(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&file))?;
    let device = LoopDevice::attach(&file)?;
    let at = folder.join("live.at");
    std::fs::create_dir_all(&at).while_doing("making a folder")?;
    output(as_root("mount").arg(device.path()).arg(&at))?;
    let _mounted = Mounted(at.clone());
    output_of(fio(&at, &["--rw=write", "--bs=1m", "--end_fsync=1"], None)?)?;
    let store = format!("dir:{}", folder.join("live-store").display());
    output(Command::new(unmoor).args(["images", "init", &store]))?;
    let target = format!("{store}/host");

    println!("\nlive: fio, random writes of 4 KiB, past the page cache");
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        without.push(rate(&at)?);
        let follower = follow(unmoor, device.path(), &target, folder)?;
        with.push(rate(&at)?);
        drop(follower);
    }
    let ratios: Vec<f64> = without.iter().zip(&with).map(|(without, with)| with / without).collect();
    println!(
        "  {:.0} writes a second without, {:.0} with (medians of {PAIRS}); ratio of pairs {:.3} (aim 0.95)",
        median(without),
        median(with),
        median(ratios)
    );

    let load =
        fio(&at, &["--rw=randwrite", "--bs=4k", "--iodepth=8", "--rate=50m", "--time_based"], Some(3600))?;
    let _load = Running(spawn(load)?);
    std::thread::sleep(Duration::from_secs(2));
    let (mut frozen, mut passes, mut last, mut peak) = (Vec::new(), 0, 0, 0);
    for _ in 0..CAPTURES {
        let mut command = as_root("/usr/bin/time");
        command.args(["--format", "RSS %M"]).arg(unmoor).args(["capture", "--live", "--no-hooks", "--json"]);
        let child =
            command.arg(device.path()).arg(&target).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let ended = child.while_doing("starting unmoor")?.wait_with_output().while_doing("capturing")?;
        let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        if !ended.status.success() {
            return Err(Failure::new(format!("unmoor capture --live: {err}")));
        }
        let live = out
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|line| line.get("live").filter(|live| live.is_object()).cloned());
        let number = |name: &str| live.as_ref().and_then(|live| live.get(name)?.as_u64()).unwrap_or(0);
        frozen.push(number("frozen_milliseconds") as f64);
        passes = passes.max(number("passes"));
        last = last.max(number("last_pass_bytes"));
        let rss = err.lines().find_map(|line| line.strip_prefix("RSS ")?.parse::<u64>().ok());
        peak = peak.max(rss.unwrap_or(0));
    }
    let most = frozen.iter().copied().fold(0.0, f64::max);
    println!(
        "  {CAPTURES} captures under 50 MB/s: writers waited {:.0} ms (median, aim 500), {most:.0} ms at most (aim 1000)",
        median(frozen)
    );
    println!(
        "  at most {passes} passes, {:.1} MiB under the freeze; {:.0} MiB of memory (aim 256)",
        last as f64 / (1 << 20) as f64,
        peak as f64 / 1024.0
    );
    Ok(())
}

/// fio's command for the file, for so many seconds or until it is through.
fn fio(at: &Path, arguments: &[&str], seconds: Option<u64>) -> Result<Command> {
    if !crate::run::installed("fio") {
        return Err(Failure::new("fio is not installed (package fio)"));
    }
    let mut command = Command::new("fio");
    command.args(["--name=load", "--ioengine=libaio", "--direct=1", "--output-format=json"]);
    command.arg(format!("--filename={}", at.join("load").display())).arg(format!("--size={FILE_MIB}m"));
    if let Some(seconds) = seconds {
        command.arg(format!("--runtime={seconds}"));
    }
    command.args(arguments);
    Ok(command)
}

fn spawn(mut command: Command) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .while_doing("starting fio")
}

fn output_of(command: Command) -> Result<String> {
    let mut command = command;
    output(&mut command)
}

/// Writes a second.
fn rate(at: &Path) -> Result<f64> {
    let arguments = ["--rw=randwrite", "--bs=4k", "--iodepth=16", "--time_based", "--ramp_time=2"];
    let said = output_of(fio(at, &arguments, Some(SECONDS))?)?;
    let document: Value = serde_json::from_str(&said).while_doing("reading what fio says")?;
    let rate = document.pointer("/jobs/0/write/iops").and_then(Value::as_f64);
    rate.ok_or_else(|| Failure::new("fio names no rate"))
}

/// An `unmoor follow` that has its first image and waits.
fn follow(unmoor: &Path, device: &Path, target: &str, folder: &Path) -> Result<Running> {
    let socket = folder.join("follow.sock");
    let mut command = as_root("env");
    command.arg(unmoor).arg("follow").arg(device).args([target, "--every", "1h", "--no-hooks", "--control"]);
    command.arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().while_doing("starting unmoor follow")?);
    let began = Instant::now();
    loop {
        let mut ask = as_root("env");
        ask.arg(unmoor).args(["follow", "--status", "--json", "--control"]).arg(&socket);
        let status = output(&mut ask).ok().and_then(|said| serde_json::from_str::<Value>(&said).ok());
        if status.is_some_and(|status| status.get("images").and_then(Value::as_u64) == Some(1)) {
            return Ok(running);
        }
        if began.elapsed() > Duration::from_secs(300) {
            return Err(Failure::new("unmoor follow makes no image"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}
