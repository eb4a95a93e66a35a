// SPDX-License-Identifier: Apache-2.0
//! Restores that end halfway: nothing half-done looks done.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::disks::{Scene, partition};
use crate::support::{
    Loop, MIB, Mounted, can_loop, flip, noise, read_range, run, signatures, text, tool, unmoor,
};

/// No table, no signature, no backup: nobody takes it for anything.
#[track_caller]
fn assert_empty(disk: &Path) {
    assert_eq!(signatures(disk), "");
    assert_ne!(tool("fdisk", "sfdisk", &["--dump", text(disk)]).code, Some(0));
    let gdisk = tool("gdisk", "sgdisk", &["--print", text(disk)]);
    assert!(gdisk.stdout.contains("Creating new GPT entries"), "{gdisk:?}");
    let size = fs::metadata(disk).unwrap().len();
    for start in [0, size - MIB] {
        assert!(
            read_range(disk, start, MIB).iter().all(|byte| *byte == 0),
            "a MiB at {start:#x} is not clear"
        );
    }
}

#[test]
fn a_damaged_image_leaves_no_table_on_any_of_the_disks() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let first = scene.gpt("first.raw", &[("noise", 8)], 0);
    let second = scene.gpt("second.raw", &[("ext4", 16)], 0);
    let image = scene.path("image.raw");
    run(&["capture", text(&first.path), text(&second.path), text(&image)]).expect(0);
    let damaged = scene.path("image.disk1.raw");
    let (one, two) = (scene.sparse("one.raw", first.size()), scene.sparse("two.raw", second.size()));
    for disk in [&one, &two] {
        partition(disk, "label: gpt\nstart=2048, size=4096\n");
    }
    let (a, b) = (Loop::new(&one, &[]), Loop::new(&two, &[]));
    let pairs = [format!("--disk=first.raw={}", text(a.path())), format!("--disk=1={}", text(b.path()))];
    let arguments = ["restore", "--yes", &pairs[0], &pairs[1], text(&image)];

    flip(&damaged, second.part("ext4").0 + 1024 + 8);
    let said = run(&arguments).expect(1).says(&["hash differs", "left without a partition table"]);
    assert!(!said.stderr.contains("refused"));
    assert_empty(&one);
    assert_empty(&two);

    flip(&damaged, second.part("ext4").0 + 1024 + 8);
    run(&arguments).expect(0);
    run(&["verify", text(&image), text(a.path())]).expect(0);
    run(&["verify", text(&damaged), text(b.path())]).expect(0);
    // Restoring one of two is possible, and said.
    run(&["restore", "--yes", &pairs[1], text(&image)])
        .expect(0)
        .says(&["first.raw", "will not be restored"]);
    let twice = format!("--disk=1={}", text(a.path()));
    run(&["restore", "--yes", &pairs[0], &twice, text(&image)]).expect(2);
    // The same disk under another name.
    let node = scene.path("node");
    std::os::unix::fs::symlink(a.path(), &node).unwrap();
    let twice = format!("--disk=1={}", text(&node));
    run(&["restore", "--yes", &pairs[0], &twice, text(&image)]).expect(3).says(&["two disks"]);
    let twin = Loop::new(&one, &[]);
    let twice = format!("--disk=1={}", text(twin.path()));
    run(&["restore", "--yes", &pairs[0], &twice, text(&image)]).expect(3).says(&["two disks"]);
    run(&["verify", text(&image), text(a.path())]).expect(0);

    // A damaged compressed cluster fails as it is read; a file as target does not come to be.
    let packed = first.captured("packed.qcow2");
    let len = fs::metadata(&packed).unwrap().len();
    flip(&packed, len / 2);
    let target = scene.path("target.raw");
    run(&["restore", text(&packed), text(&target)]).expect(1);
    assert!(!target.exists() && !scene.path("target.raw.partial").exists());
}

#[test]
fn a_full_filesystem_is_foreseen_or_leaves_nothing() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let image = scene.gpt("source.raw", &[("noise", 24)], 0).captured("image.qcow2");
    let small = Mounted::new(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"]);
    let empty = || assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
    let raw = small.path().join("target.raw");
    run(&["restore", text(&image), text(&raw)]).expect(3).says(&["bytes that are free", "bytes of room"]);
    empty();
    let qcow2 = small.path().join("target.qcow2");
    run(&["restore", "--compress", "none", text(&image), text(&qcow2)]).expect(3);
    empty();
    // It might compress. It does not.
    run(&["restore", text(&image), text(&qcow2)])
        .expect(1)
        .says(&["unless compression", "No space left on device"]);
    empty();

    // Foreseen as enough, and then taken by somebody else: blocks of 1 KiB cost a page each on tmpfs.
    let scattered = scene.sparse("scattered.raw", 32 * MIB);
    let file = File::options().write(true).open(&scattered).unwrap();
    (0..4000u64).for_each(|index| file.write_all_at(&noise(512, index), index * 8192).unwrap());
    let medium = Mounted::new(&["-t", "tmpfs", "-o", "size=12m", "tmpfs"]);
    fs::write(medium.path().join("others"), vec![1; 6 << 20]).unwrap();
    let raw = medium.path().join("target.raw");
    let outcome = run(&["restore", text(&scattered), text(&raw)]);
    assert!(matches!(outcome.code, Some(1 | 3)), "{outcome:?}");
    assert_eq!(fs::read_dir(medium.path()).unwrap().count(), 1);
}

#[test]
fn a_device_that_fails_halfway_has_no_table() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("noise", 24)], 0);
    let image = source.captured("image.qcow2");
    // A thin disk whose pool is full: writing to it fails from some point on.
    let pool = Mounted::new(&["-t", "tmpfs", "-o", "size=12m", "tmpfs"]);
    let thin = pool.path().join("thin");
    File::create(&thin).unwrap().set_len(source.size()).unwrap();
    partition(&thin, "label: gpt\nstart=2048, size=4096\n");
    let device = Loop::new(&thin, &[]);
    run(&["restore", "--yes", text(&image), text(device.path())])
        .expect(1)
        .says(&["writing", "left without a partition table"]);
    assert_empty(&thin);
}

fn start(arguments: &[&str]) -> Child {
    unmoor().args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    tool("procps", "kill", &[name, &child.id().to_string()]);
}

#[test]
fn an_interrupted_restore_leaves_no_file_and_what_a_killed_one_leaves_is_replaced() {
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("noise", 96)], 0);
    let image = source.captured("image.raw");
    let (target, partial) = (scene.path("target.raw"), scene.path("target.raw.partial"));
    let arguments = ["restore", "--threads", "1", text(&image), text(&target)];
    let interrupt = |name: &str| {
        let child = start(&arguments);
        let began = Instant::now();
        while !partial.exists() && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(&child, name);
        child.wait_with_output().unwrap()
    };
    let said = interrupt("-INT");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("stopped on request"), "{said:?}");
    assert!(!target.exists() && !partial.exists());

    assert_eq!(interrupt("-KILL").status.code(), None);
    assert!(!target.exists() && partial.exists());
    run(&arguments).expect(0);
    assert!(target.exists() && !partial.exists());
    run(&["verify", text(&image), text(&target)]).expect(0);
    // Several at once: one does it, the others see that it is at it, whenever they come.
    let again = scene.path("again.raw");
    let arguments = ["restore", "--force", "--threads", "1", text(&image), text(&again)];
    let runs: Vec<Child> = (0..4).map(|_| start(&arguments)).collect();
    let codes: Vec<_> =
        runs.into_iter().map(|run| run.wait_with_output().unwrap().status.code().unwrap()).collect();
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 3].contains(code)), "{codes:?}");
    run(&["verify", text(&image), text(&again)]).expect(0);
}

#[test]
fn a_restore_that_is_killed_at_any_moment_leaves_the_old_disk_or_none_or_the_new_one() {
    if !can_loop() {
        return;
    }
    const TIMES: u64 = 32;
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16), ("noise", 32)], 0);
    let new = fs::read(&source.path).unwrap();
    let target = scene.sparse("target.raw", source.size());
    let device = Loop::new(&target, &[]);
    partition(&target, "label: gpt\nstart=2048, size=4096\n");
    let (head, tail) = (read_range(&target, 0, MIB), read_range(&target, source.size() - MIB, MIB));
    let file = File::options().write(true).open(&target).unwrap();
    let mut ends = [0; 4];
    for time in 0..TIMES {
        // What the last run left must not pass for this one's.
        let body = (MIB..source.size() - MIB).step_by(64 << 10);
        body.for_each(|at| file.write_all_at(&[0xA5; 4096], at).unwrap());
        file.write_all_at(&head, 0).unwrap();
        file.write_all_at(&tail, source.size() - MIB).unwrap();
        let mut command = unmoor();
        command.args(["restore", "--yes", "--threads", "2", "-"]).arg(device.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // It comes no further than the pipe lets it; the last times, all has come, and the clock decides.
        let early = TIMES * 3 / 4;
        let given = if time < early { time * source.size() / early + time * 7919 } else { source.size() };
        pipe.write_all(&new[..given as usize]).unwrap();
        if time < early {
            std::thread::sleep(Duration::from_millis(time % 5));
        } else {
            drop(pipe);
            std::thread::sleep(Duration::from_millis((time - early).pow(2) * 8));
        }
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        if time > 2 && time < early {
            assert!(!finished);
            assert_empty(&target);
        }
        let left = fs::read(&target).unwrap();
        let end = (source.size() - MIB) as usize;
        let body = |left: &[u8]| {
            let used = |at: &usize| new[*at..*at + 4096].iter().any(|byte| *byte != 0);
            let mut blocks = (MIB as usize..end).step_by(64 << 10).filter(used);
            blocks.all(|at| left[at..at + 4096] == new[at..at + 4096])
        };
        if finished {
            assert!(left[..MIB as usize] == new[..MIB as usize] && left[end..] == new[end..] && body(&left));
            ends[3] += 1;
        } else if left[..MIB as usize] == head[..] {
            // Not begun, or only the old backup is gone: the old disk as it was.
            assert!(!body(&left));
            ends[0] += 1;
        } else if left[..4096].iter().all(|byte| *byte == 0) && left[end..].iter().all(|byte| *byte == 0) {
            assert_empty(&target);
            ends[1] += 1;
        } else {
            // The end is committed: then everything else is there, though the start may not be.
            assert!(left[end..] == new[end..] && body(&left), "killed after part {time}");
            let start = &left[..MIB as usize];
            assert!(start == &new[..MIB as usize] || start[..4096].iter().all(|byte| *byte == 0));
            ends[2] += 1;
        }
    }
    println!("killed {TIMES} times: {ends:?} (old, none, backup or all, finished)");
    assert!(ends[1] >= TIMES / 2, "too few were killed in the middle: {ends:?}");
    run(&["restore", "--yes", text(&source.path), text(device.path())]).expect(0);
    assert!(fs::read(&target).unwrap() == new);
}
