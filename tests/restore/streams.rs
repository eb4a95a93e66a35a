// SPDX-License-Identifier: Apache-2.0
//! Raw disks through a pipe.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::disks::{Scene, partitions};
use crate::past;
use crate::support::{Loop, MIB, Run, can_loop, run, signatures, text, tool, unmoor};

/// `restore MORE - TARGET` with these bytes on standard input.
fn restore(bytes: &[u8], target: &Path, more: &[&str]) -> Run {
    let mut command = unmoor();
    command.args(["restore", "--yes"]).args(more).arg("-").arg(target);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // What is refused closes the pipe.
        scope.spawn(move || pipe.write_all(bytes).is_ok());
        child.wait_with_output().unwrap().into()
    })
}

#[test]
fn a_disk_that_comes_through_a_pipe_is_the_same_on_a_target_of_its_size() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let gpt = scene.gpt("gpt.raw", &[("ext4", 16), ("swap", 8)], 0);
    let mbr = scene.mbr("mbr.raw", &[("ext4", 16), ("swap", 8)], 0);
    for (disk, size) in [(&gpt, None), (&mbr, Some(mbr.size().to_string()))] {
        let bytes = fs::read(&disk.path).unwrap();
        let more: Vec<&str> = size.iter().flat_map(|size| ["--size", size]).collect();
        let target = scene.path("target.raw");
        past::full(&target, disk.size());
        let device = Loop::new(&target, &[]);
        restore(&bytes, device.path(), &more).expect(0).says(&["read back and exact"]);
        drop(device);
        assert!(fs::read(&target).unwrap() == bytes);
        let file = scene.path("file.qcow2");
        restore(&bytes, &file, &[&more[..], &["--force"]].concat()).expect(0);
        let compared = ["compare", "-f", "qcow2", "-F", "raw", text(&file), text(&disk.path)];
        tool("qemu-utils", "qemu-img", &compared).expect(0);
    }
    // From our own capture, as the manual shows it.
    let target = scene.path("piped.raw");
    let script = "\"$0\" capture \"$1\" - | \"$0\" restore --yes - \"$2\"";
    let words = [env!("CARGO_BIN_EXE_unmoor"), text(&gpt.path), text(&target)];
    let piped: Run = Command::new("sh").args(["-c", script]).args(words).output().unwrap().into();
    piped.expect(0);
    assert_eq!(partitions(&target, 512), partitions(&gpt.path, 512));
}

#[test]
fn a_larger_or_smaller_target_of_a_stream_gets_a_gpt_that_fits() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16)], 24);
    let bytes = fs::read(&source.path).unwrap();
    for size in [64 * MIB, 20 * MIB] {
        let target = scene.path("target.raw");
        past::disk(&target, size, &[]);
        let device = Loop::new(&target, &[]);
        restore(&bytes, device.path(), &[]).expect(0).says(&["backup GPT goes to the end"]);
        drop(device);
        let verdict = tool("gdisk", "sgdisk", &["--verify", text(&target)]).expect(0).stdout;
        assert!(verdict.contains("No problems found"), "{verdict}");
        assert_eq!(partitions(&target, 512), partitions(&source.path, 512));
        assert!(!signatures(&target).contains("member"));
        let (start, len) = source.part("ext4");
        let range = start as usize..(start + len) as usize;
        assert!(fs::read(&target).unwrap()[range.clone()] == bytes[range]);
    }
    let small = scene.sparse("small.raw", 16 * MIB);
    let device = Loop::new(&small, &[]);
    restore(&bytes, device.path(), &[]).expect(3).says(&["too small", "bytes"]);
    drop(device);
    let mbr = scene.mbr("mbr.raw", &[("ext4", 16), ("swap", 8)], 4);
    let device = Loop::new(&small, &[]);
    let size = mbr.size().to_string();
    restore(&fs::read(&mbr.path).unwrap(), device.path(), &["--size", &size])
        .expect(3)
        .says(&["bytes before that"]);
}

#[test]
fn a_stream_that_is_cut_goes_on_or_is_no_disk_leaves_nothing() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("noise", 8)], 0);
    let bytes = fs::read(&source.path).unwrap();
    let target = scene.path("target.raw");
    let longer = [&bytes[..], &[0; 4096]].concat();
    for (stream, words) in [(&bytes[..5 << 20], "before the disk did"), (&longer[..], "--size")] {
        past::disk(&target, source.size(), &[]);
        let device = Loop::new(&target, &[]);
        restore(stream, device.path(), &[]).expect(1).says(&[words, "left without a partition table"]);
        drop(device);
        assert_eq!(signatures(&target), "");
        let file = scene.path("file.raw");
        restore(stream, &file, &[]).expect(1).says(&[words]);
        assert!(!file.exists() && !scene.path("file.raw.partial").exists());
    }
    let file = scene.path("file.raw");
    let image = source.captured("image.qcow2");
    restore(&fs::read(image).unwrap(), &file, &[]).expect(1).says(&["qcow2"]);
    let mbr = scene.mbr("mbr.raw", &[("noise", 4), ("noise", 1)], 0);
    restore(&fs::read(mbr.path).unwrap(), &file, &[]).expect(2).says(&["--size"]);
    restore(b"", &file, &["--size", "1M"]).expect(1).says(&["empty"]);
    assert!(!file.exists());
    run(&["restore", "--yes", "--disk", "sda=/dev/null", "-"]).expect(2);
    // Standard input carries the disk, so nobody can answer on it.
    let device = Loop::new(&target, &[]);
    let mut command = unmoor();
    command.args(["restore", "-"]).arg(device.path()).stdin(fs::File::open(&source.path).unwrap());
    Run::from(command.output().unwrap()).expect(3).says(&["--yes"]);
}
