// SPDX-License-Identifier: Apache-2.0
//! Capturing this host's disks while they are in use, and what is left when that goes wrong: nothing frozen, nothing followed, nothing that looks
//! done.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{noise, run, unmoor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An ext4 on a loop device, mounted, with some content.
struct Host {
    folder: tempfile::TempDir,
    device: String,
    at: PathBuf,
}

impl Host {
    /// None, and a line that says why, where this process may not.
    fn new(megabytes_of_noise: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (file, at) = (folder.path().join("disk"), folder.path().join("at"));
        File::create(&file).unwrap().set_len(512 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let made = tool("mkfs.ext4", &["-q", "-F", text(&file)])
            .and_then(|_| tool("losetup", &["--find", "--show", text(&file)]));
        let device = made.map_err(|because| println!("skipped: {because}")).ok()?;
        let host = Self { folder, device, at };
        tool("mount", &[&host.device, text(&host.at)])
            .map_err(|because| println!("skipped: {because}"))
            .ok()?;
        let mut noises = File::create(host.at.join("noise")).unwrap();
        for seed in 0..megabytes_of_noise {
            // Sixteen letters: what a compressor has work with.
            let letters: Vec<u8> = noise(1 << 20, seed as u64).iter().map(|byte| b'a' + byte % 16).collect();
            noises.write_all(&letters).unwrap();
        }
        noises.sync_all().unwrap();
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l", text(&self.at)]);
        let _ = tool("losetup", &["-d", &self.device]);
    }
}

/// Writes a little all the time, and tells how long the latest write has taken so far.
struct Pulse {
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Pulse {
    fn start(at: &Path) -> Self {
        let (stop, beats) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = std::thread::spawn({
            let (stop, beats, at) = (Arc::clone(&stop), Arc::clone(&beats), at.join("pulse"));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    fs::write(&at, beats.fetch_add(1, Ordering::SeqCst).to_string()).unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Self { stop, beats, writer: Some(writer) }
    }

    /// Waits until writes stand still for longer than a sync takes (true), or `child` has ended (false).
    fn stands_still(&self, child: &mut Child) -> bool {
        let (mut known, mut since) = (self.beats.load(Ordering::SeqCst), Instant::now());
        while child.try_wait().unwrap().is_none() {
            let now = self.beats.load(Ordering::SeqCst);
            if now != known {
                (known, since) = (now, Instant::now());
            } else if since.elapsed() > Duration::from_millis(1500) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Waits until writes go on.
    fn goes_on(&self) {
        let (known, began) = (self.beats.load(Ordering::SeqCst), Instant::now());
        while self.beats.load(Ordering::SeqCst) < known + 2 {
            assert!(began.elapsed() < Duration::from_secs(60), "the filesystem stays frozen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.writer.take().unwrap().join();
    }
}

/// A capture that freezes for long: all is compressed at the highest level under the freeze.
fn slow_capture(host: &Host, image: &Path, limit: &str) -> Child {
    let arguments = ["--consistency", "converge", "--compress", "best", "--threads", "1", "--no-hooks"];
    let mut command = unmoor();
    command.args(["capture", "--live", "--max-freeze-hard", limit]).args(arguments);
    command
        .arg(&host.device)
        .arg(image)
        .stdout(Stdio::null())
        .stderr(File::create(host.path("said")).unwrap());
    command.spawn().unwrap()
}

/// Names of trace instances that unmoor has made.
fn instances(of: u32) -> usize {
    let folder = ["/sys/kernel/tracing/instances", "/sys/kernel/debug/tracing/instances"];
    let entries = folder.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let own = format!("unmoor-{of}-");
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count()
}

#[test]
fn a_killed_capture_leaves_nothing_frozen_and_nothing_that_looks_done() {
    let Some(host) = Host::new(250) else { return };
    let pulse = Pulse::start(&host.at);
    let image = host.path("image.qcow2");
    let mut child = slow_capture(&host, &image, "600");
    assert!(pulse.stands_still(&mut child), "{}", fs::read_to_string(host.path("said")).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    pulse.goes_on();
    assert!(!image.exists() && !host.path("image.unmoor.json").exists());
    assert_eq!(instances(child.id()), 0);
}

#[test]
fn a_stopped_capture_is_thawed_after_its_limit_and_fails() {
    let Some(host) = Host::new(250) else { return };
    let pulse = Pulse::start(&host.at);
    let image = host.path("image.qcow2");
    // Long enough for what comes to be allowed, short enough to wait for.
    let mut child = slow_capture(&host, &image, "40");
    if !pulse.stands_still(&mut child) {
        // A machine so slow that copying would take longer than the limit refuses, and does not freeze.
        let said = fs::read_to_string(host.path("said")).unwrap();
        assert!(said.contains("--max-freeze-hard"), "{said}");
        println!("skipped: this machine is too slow for the limit");
        return;
    }
    let process = Pid::from_raw(child.id() as i32);
    kill(process, Signal::SIGSTOP).unwrap();
    pulse.goes_on();
    kill(process, Signal::SIGCONT).unwrap();
    assert!(!child.wait().unwrap().success());
    let said = fs::read_to_string(host.path("said")).unwrap();
    assert!(said.contains("thawed after --max-freeze-hard"), "{said}");
    assert!(!image.exists() && !host.path("image.unmoor.json").exists());
}

#[test]
fn hooks_that_hang_and_targets_that_are_full_leave_the_host_as_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let Some(host) = Host::new(20) else { return };
    let pulse = Pulse::start(&host.at);
    let hooks = host.path("hooks");
    fs::create_dir(&hooks).unwrap();
    let hook = hooks.join("10-database");
    fs::write(&hook, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let image = host.path("image.qcow2");
    let refused = run(&["capture", "--live", "--hooks", text(&hooks), &host.device, text(&image)]);
    assert!(refused.expect(3).stderr.contains("10-database"));
    pulse.goes_on();

    let small = host.path("small");
    fs::create_dir(&small).unwrap();
    if let Err(because) = tool("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", text(&small)]) {
        println!("skipped: {because}");
        return;
    }
    let failed = run(&["capture", "--live", "--no-hooks", &host.device, text(&small.join("image.qcow2"))]);
    let left = fs::read_dir(&small).unwrap().count();
    tool("umount", &[text(&small)]).unwrap();
    assert!(failed.expect(1).stderr.contains("No space left"));
    assert_eq!(left, 0, "what was begun is removed");
    pulse.goes_on();
}

#[test]
fn two_captures_at_a_time_do_not_disturb_each_other() {
    let Some(host) = Host::new(20) else { return };
    let _pulse = Pulse::start(&host.at);
    let images = [host.path("a.raw"), host.path("b.qcow2")];
    let children: Vec<Child> = images
        .iter()
        .map(|image| {
            let mut command = unmoor();
            command.args(["capture", "--live", "--no-hooks", "--json", &host.device, text(image)]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut done = 0;
    for (child, image) in children.into_iter().zip(&images) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Both may want to freeze at the same moment: one then says so, and what to do.
        if output.status.success() {
            done += 1;
            run(&["verify", text(image)]).expect(0);
        } else {
            assert!(said.contains("somebody else has frozen it"), "{said}");
        }
    }
    assert!(done >= 1);
}

#[test]
fn an_image_is_kept_young_until_it_is_told_to_stop() {
    let Some(host) = Host::new(20) else { return };
    let _pulse = Pulse::start(&host.at);
    let store = format!("dir:{}", text(&host.path("store")));
    run(&["images", "init", &store]).expect(0);
    let (socket, metrics) = (host.path("follow.sock"), host.path("figures.prom"));
    let target = format!("{store}/web01");
    let mut command = unmoor();
    command.args(["follow", &host.device, &target, "--every", "1h", "--no-hooks", "--keep-last", "2"]);
    command.args(["--control", text(&socket), "--metrics", text(&metrics)]);
    let mut child =
        command.stdout(Stdio::null()).stderr(File::create(host.path("said")).unwrap()).spawn().unwrap();
    let ask = |question: &str| run(&["follow", question, "--control", text(&socket), "--json"]);
    let began = Instant::now();
    let status = loop {
        let status = ask("--status");
        if status.code == Some(0) {
            break serde_json::from_str::<Value>(&status.stdout).unwrap();
        }
        assert!(
            began.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(),
            "{}",
            status.stderr
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status["machine"], "web01");
    let mut images = Vec::new();
    for _ in 0..3 {
        // Images are named by the second.
        std::thread::sleep(Duration::from_millis(1100));
        let answer: Value = serde_json::from_str(&ask("--now").expect(0).stdout).unwrap();
        images.push(answer["image"].as_str().unwrap().to_owned());
    }
    images.dedup();
    assert_eq!(images.len(), 3);
    let second = run(&["follow", &host.device, &target, "--control", text(&socket)]);
    assert!(second.expect(3).stderr.contains("another unmoor follows"));
    let began = Instant::now();
    while !fs::read_to_string(&metrics)
        .is_ok_and(|text| text.contains("unmoor_follow_images_total{machine=\"web01\"} 4"))
    {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", fs::read_to_string(&metrics));
        std::thread::sleep(Duration::from_millis(50));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", fs::read_to_string(host.path("said")).unwrap());
    assert!(!socket.exists());
    let list = run(&["images", "list", &target, "--json"]);
    assert_eq!(list.expect(0).stdout.matches("\"time\"").count(), 2, "two are kept");
    run(&["verify", images.last().unwrap()]).expect(0);
    run(&["follow", "--now", "--control", text(&socket)]).expect(3);
}
