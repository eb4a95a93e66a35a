// SPDX-License-Identifier: Apache-2.0
//! `unmoor capture` from outside: what it makes, what it refuses, and that nothing half-done looks done.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{Mounted, Run, Scene, hash, noise, run, tool, unmoor};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn events(run: &Run) -> Vec<Value> {
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_captured_filesystem_is_exact_smaller_and_described() {
    let scene = Scene::new();
    let (disk, image) = (scene.ext4("disk.raw", 64), scene.path("web.01.qcow2"));
    let before = hash(&disk);
    let done = run(&["capture", "--json", text(&disk), text(&image)]).expect(0);
    assert_eq!(hash(&disk), before, "the source is as it was");
    assert_eq!(
        scene.names(),
        ["disk.raw", "web.01.qcow2", "web.01.qcow2.map", "web.01.unmoor.json"],
        "and nothing else was made"
    );
    let events = events(&done);
    let result = events.last().unwrap();
    assert_eq!(result["event"], "result");
    assert!(events.iter().any(|event| event["event"] == "started" && event["phase"] == "capturing"));

    tool("qemu-utils", "qemu-img", &["check", "-q", text(&image)]).expect(0);
    let back = scene.path("back.raw");
    tool("qemu-utils", "qemu-img", &["convert", "-O", "raw", text(&image), text(&back)]).expect(0);
    tool("e2fsprogs", "e2fsck", &["-fn", text(&back)]).expect(0);
    let listing =
        |disk: &Path| tool("e2fsprogs", "debugfs", &["-R", "cat /folder/text", text(disk)]).expect(0).stdout;
    assert!(listing(&back) == listing(&disk) && listing(&disk).len() == 500_000);

    let manifest: Value =
        serde_json::from_slice(&fs::read(scene.path("web.01.unmoor.json")).unwrap()).unwrap();
    let record = &manifest["disks"][0];
    assert_eq!((&manifest["consistency"], &manifest["machine"]), (&Value::from("offline"), &Value::Null));
    assert_eq!(record["image"], "web.01.qcow2");
    assert_eq!(record["root"], result["disks"][0]["root"]);
    assert!(record["hole_bytes"].as_u64().unwrap() > 32 << 20, "deleted content is not kept: {record:#}");
    let schema: Value = serde_json::from_slice(
        &fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema/manifest.schema.json")).unwrap(),
    )
    .unwrap();
    for key in manifest.as_object().unwrap().keys() {
        assert!(schema["properties"].get(key).is_some(), "{key} is not in the schema");
    }
    assert!(
        schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .all(|key| { manifest.get(key.as_str().unwrap()).is_some() })
    );
}

#[test]
fn every_way_of_writing_holds_the_same_disk() {
    let scene = Scene::new();
    let disk = scene.ext4("disk.raw", 32);
    let ways: &[(&str, &[&str])] = &[
        ("a.qcow2", &["--compress", "none", "--cluster-size", "4K"]),
        ("b.qcow2", &["--compress", "zlib", "--cluster-size", "2M"]),
        ("c.qcow2", &["--compress", "best", "--threads", "1"]),
        ("d.qcow2", &["--compress", "auto"]),
        ("e.raw", &[]),
        ("f.img", &["--format", "qcow2"]),
        ("g.vmdk", &[]),
        ("h.vmdk", &["--compress", "best"]),
        ("i.vhdx", &[]),
        ("j.vhdx", &["--cluster-size", "2M"]),
    ];
    let mut roots = Vec::new();
    for (name, options) in ways {
        let image = scene.path(name);
        let mut line = vec!["capture", "--json", text(&disk), text(&image)];
        line.extend_from_slice(options);
        let done = run(&line).expect(0);
        roots.push(events(&done).last().unwrap()["disks"][0]["root"].clone());
        run(&["verify", text(&image)]).expect(0);
    }
    assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
    for (one, other) in
        [("a.qcow2", "g.vmdk"), ("a.qcow2", "h.vmdk"), ("a.qcow2", "i.vhdx"), ("a.qcow2", "j.vhdx")]
    {
        let (one, other) = (scene.path(one), scene.path(other));
        tool("qemu-utils", "qemu-img", &["compare", text(&one), text(&other)]).expect(0);
        // Neither is changed in place.
        let refused = run(&["convert", "--profile", "kvm", text(&other)]).expect(3);
        assert!(refused.stderr.contains("qcow2"), "{}", refused.stderr);
    }
    for name in ["k.vhd", "l.vdi"] {
        let refused = run(&["capture", text(&disk), text(&scene.path(name))]).expect(2);
        assert!(refused.stderr.contains("read, not written"), "{}", refused.stderr);
    }
    // A captured image captured again is the same disk.
    let (first, again) = (scene.path("a.qcow2"), scene.path("again.qcow2"));
    run(&["capture", text(&first), text(&again)]).expect(0);
    tool("qemu-utils", "qemu-img", &["compare", text(&first), text(&again)]).expect(0);
}

#[test]
fn all_bytes_are_kept_on_request_and_go_through_a_pipe() {
    let scene = Scene::new();
    let disk = scene.ext4("disk.raw", 32);
    let output = unmoor().args(["capture", "--all", text(&disk), "-"]).output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == fs::read(&disk).unwrap(), "--all to a pipe is a copy");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no manifest"));

    let output = unmoor().args(["capture", "--json", text(&disk), "-"]).output().unwrap();
    let used = scene.path("used.raw");
    fs::write(&used, &output.stdout).unwrap();
    tool("e2fsprogs", "e2fsck", &["-fn", text(&used)]).expect(0);
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"event\":\"result\""));

    let output = unmoor().args(["capture", "--format", "vmdk", text(&disk), "-"]).output().unwrap();
    let stream = scene.path("stream.vmdk");
    fs::write(&stream, &output.stdout).unwrap();
    tool("qemu-utils", "qemu-img", &["compare", text(&used), text(&stream)]).expect(0);

    let mut child =
        unmoor().args(["capture", "--all", text(&disk), "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut head = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut head).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "a reader that goes away is a failure, not a crash");
}

#[test]
fn disks_of_one_machine_share_a_manifest() {
    let scene = Scene::new();
    let (first, second) = (scene.ext4("one.raw", 32), scene.ext4("two.raw", 48));
    let image = scene.path("db.qcow2");
    run(&["capture", text(&first), text(&second), text(&image)]).expect(0);
    for name in ["db.qcow2", "db.qcow2.map", "db.disk1.qcow2", "db.disk1.qcow2.map", "db.unmoor.json"] {
        assert!(scene.path(name).exists(), "{name}");
    }
    let both = run(&["verify", text(&image)]).expect(0).stdout;
    assert!(both.contains("db.qcow2: exact") && both.contains("db.disk1.qcow2: exact"), "{both}");
    let one = run(&["verify", text(&scene.path("db.disk1.qcow2"))]).expect(0).stdout;
    assert!(!one.contains("db.qcow2:"), "{one}");
}

#[test]
fn nothing_is_replaced_without_force_and_a_failure_leaves_the_old_image() {
    let scene = Scene::new();
    let (disk, image) = (scene.ext4("disk.raw", 32), scene.path("a.qcow2"));
    run(&["capture", text(&disk), text(&image)]).expect(0);
    let before = hash(&image);
    run(&["capture", text(&disk), text(&image)]).expect(3).says(&["a.qcow2", "exists", "--force"]);
    assert_eq!(hash(&image), before);
    // The manifest alone is protected too: it may describe an image that was moved.
    fs::rename(&image, scene.path("moved.qcow2")).unwrap();
    run(&["capture", text(&disk), text(&image)]).expect(3);
    fs::rename(scene.path("moved.qcow2"), &image).unwrap();

    run(&["capture", "--force", "/no/such/disk", text(&image)]).expect(1);
    assert_eq!(hash(&image), before);
    run(&["verify", text(&image)]).expect(0);
    run(&["capture", "--force", "--compress", "none", text(&disk), text(&image)]).expect(0);
    assert_ne!(hash(&image), before);
    run(&["verify", text(&image)]).expect(0);
}

#[test]
fn a_dry_run_writes_nothing() {
    let scene = Scene::new();
    let disk = scene.ext4("disk.raw", 32);
    let shown = run(&["capture", "--dry-run", text(&disk), text(&scene.path("a.qcow2"))]).expect(0).stdout;
    assert!(shown.contains("would capture") && shown.contains("of data"), "{shown}");
    assert_eq!(scene.names(), ["disk.raw"]);
}

#[test]
fn a_source_in_use_is_refused_and_taken_only_with_a_warning() {
    let scene = Scene::new();
    let (disk, image) = (scene.ext4("disk.raw", 32), scene.path("a.qcow2"));
    // What QEMU locks while a virtual machine writes to an image (see capture/src/in_use/image_lock.rs).
    let held = File::options().read(true).write(true).open(&disk).unwrap();
    let byte = libc::flock { l_type: libc::F_RDLCK as i16, l_whence: 0, l_start: 101, l_len: 1, l_pid: 0 };
    nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_OFD_SETLK(&byte)).unwrap();
    run(&["capture", text(&disk), text(&image)]).expect(3).says(&["virtual machine", "--unsafe-live"]);
    assert_eq!(scene.names(), ["disk.raw"]);
    let line = ["capture", "--strict", "--unsafe-live", text(&disk), text(&image)];
    run(&line).expect(4).says(&["crash-consistent at best"]);
    let manifest = fs::read_to_string(scene.path("a.unmoor.json")).unwrap();
    assert!(manifest.contains("\"consistency\": \"live\"") && manifest.contains("crash-consistent at best"));
    drop(held);

    let Some(mounted) = Mounted::new(&["-o", "loop,rw", text(&disk)]) else {
        println!("skipped: needs root to mount");
        return;
    };
    let refused = run(&["capture", text(&disk), text(&scene.path("b.qcow2"))]).expect(3);
    refused.says(&["mounted read-write at", text(mounted.path()), "unmount it"]);
    assert!(!scene.path("b.qcow2").exists());
}

/// Starts a capture that takes a while, and waits until it has begun to write.
fn slow_capture(scene: &Scene) -> Child {
    let disk = scene.path("slow.raw");
    if !disk.exists() {
        // Compressible, so that the compressor has to work.
        let words = noise(1 << 16, 3).iter().map(|byte| b'a' + byte % 13).collect::<Vec<u8>>();
        let block: Vec<u8> =
            (0..256usize).flat_map(|n| words[n..].iter().chain(&words[..n]).copied()).collect();
        fs::write(&disk, block.repeat(24)).unwrap();
    }
    let image = scene.path("slow.qcow2");
    let arguments = ["capture", "--threads", "1", "--compress", "best", text(&disk), text(&image)];
    let child = unmoor().args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let partial = scene.path("slow.qcow2.partial");
    while fs::metadata(&partial).map_or(0, |file| file.len()) < 1 << 20 {
        assert!(!scene.path("slow.unmoor.json").exists(), "it was not slow enough to be interrupted");
        sleep(Duration::from_millis(2));
    }
    child
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn an_interrupted_capture_leaves_nothing_and_a_killed_one_nothing_that_looks_complete() {
    let scene = Scene::new();
    for stop in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        let child = slow_capture(&scene);
        signal(&child, stop);
        let outcome: Run = child.wait_with_output().unwrap().into();
        outcome.expect(1).says(&["stopped on request"]);
        assert_eq!(scene.names(), ["slow.raw"], "after {stop}");
    }
    let mut child = slow_capture(&scene);
    // While it runs, nobody else takes its files for left-overs.
    let (disk, image) = (scene.path("slow.raw"), scene.path("slow.qcow2"));
    let line = ["capture", text(&disk), text(&image)];
    run(&line).expect(3).says(&["another unmoor is writing it"]);
    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    assert_eq!(scene.names(), ["slow.qcow2.partial", "slow.raw"]);
    run(&["verify", text(&scene.path("slow.qcow2.partial"))]).expect(3);
    run(&line).expect(0);
    assert_eq!(scene.names(), ["slow.qcow2", "slow.qcow2.map", "slow.raw", "slow.unmoor.json"]);
    run(&["verify", text(&scene.path("slow.qcow2"))]).expect(0);
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing() {
    let Some(small) = Mounted::new(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"]) else {
        println!("skipped: needs root to mount a small filesystem");
        return;
    };
    let scene = Scene::new();
    let disk = scene.ext4("disk.raw", 32);
    for name in ["a.qcow2", "a.raw"] {
        let image = small.path().join(name);
        run(&["capture", text(&disk), text(&image)]).expect(1).says(&["No space left", name]);
        assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0, "{name}");
    }
}
