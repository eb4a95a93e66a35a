// SPDX-License-Identifier: Apache-2.0
//! Targets that are larger or smaller than the disk was, or have other sectors.

use std::fs;

use crate::disks::{Disk, Scene, partitions};
use crate::past;
use crate::support::{
    Loop, MIB, Mounted, can_loop, checked, files, flip, kernel_has, read_range, run, signatures, text, tool,
};

/// Restores onto a larger disk with a past; answers what was said.
fn restore_larger(scene: &Scene, source: &Disk, larger: u64) -> (std::path::PathBuf, String) {
    let image = source.captured("image.qcow2");
    let target = scene.path("target.raw");
    past::disk(&target, source.size() + larger, &[(source.size() / 2, source.size() / 4)]);
    let device = Loop::new(&target, &[]);
    let said = run(&["restore", "--yes", text(&image), text(device.path())]).expect(0);
    run(&["verify", text(&image), text(device.path())]).expect(0).says(&["exact", "changed by the restore"]);
    (target, said.stdout + &said.stderr)
}

/// Partition `index` is the grown `kind`, and the last one the swap of the source.
fn check_larger(source: &Disk, target: &std::path::Path, kind: &'static str, index: usize, grown: bool) {
    let places = partitions(target, 512);
    let swap = *places.last().unwrap();
    let place = places[index];
    let old = source.part(kind);
    assert_eq!(place.0, old.0);
    assert!(place.1 > old.1 + 60 * MIB && place.0 + place.1 <= swap.0, "{places:?}");
    assert_eq!(swap.1, source.part("swap").1);
    let size = fs::metadata(target).unwrap().len();
    assert!(swap.0 + swap.1 > size - 3 * MIB, "{places:?}");

    let (before, after) = (Loop::part(&source.path, source.part("swap")), Loop::part(target, swap));
    assert_eq!(checked(before.path(), "swap"), checked(after.path(), "swap"));
    drop((before, after));
    let before = files(Loop::part(&source.path, old).path(), kind);
    let after = Loop::part(target, place);
    let said = checked(after.path(), kind);
    assert_eq!(files(after.path(), kind), before, "{said}");
    let mounted = Mounted::new(&["-t", kind, "-o", "ro", text(after.path())]);
    let state = tool("coreutils", "stat", &["-f", "-c", "%S %b", text(mounted.path())]).expect(0).stdout;
    let numbers: Vec<u64> = state.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let bytes = numbers[0] * numbers[1];
    // A filesystem that was not grown is of its old size; logs and tables take their part of either.
    assert_eq!(bytes > old.1, grown, "{bytes} bytes in {place:?}");
}

#[test]
fn a_larger_disk_gets_the_swap_at_its_end_and_a_last_filesystem_that_fills_it() {
    if !can_loop() {
        return;
    }
    // The kernel takes no btrfs to a size under 256 MiB.
    for (kind, mib, larger) in [("xfs", 64, 96), ("btrfs", 128, 160), ("ext4", 40, 96)] {
        let scene = Scene::new();
        let source = scene.gpt("source.raw", &[("ext4-1k", 12), (kind, mib), ("swap", 8)], 0);
        let (target, said) = restore_larger(&scene, &source, larger * MIB);
        let capable = kind != "ext4" || can_resize_ext4();
        let grown = kernel_has(kind) && capable;
        assert!(said.contains(if grown { "of partition 2 grown" } else { "is not grown here" }), "{said}");
        check_larger(&source, &target, kind, 1, grown);
        // The backup GPT is where sgdisk wants it, and the protective MBR covers the disk.
        let verdict = tool("gdisk", "sgdisk", &["--verify", text(&target)]).expect(0);
        assert!(verdict.stdout.contains("No problems found"), "{}", verdict.stdout);
        let device = Loop::new(&target, &[]);
        let found = signatures(device.path());
        assert!(found.contains("gpt") && !found.contains("member"), "{found}");

        // The record of the restore tells its own changes from damage, also where both meet.
        flip(&target, source.part(kind).0 + 0x10040);
        let names = fs::read_dir(scene.path("")).unwrap().map(|entry| entry.unwrap().path());
        let mut records = names.filter(|path| text(path).ends_with(".unmoor-record.json"));
        let (image, record) = (scene.path("image.qcow2"), records.next().unwrap());
        let said = run(&["verify", "--record", text(&record), text(&image), text(device.path())]);
        if kind == "btrfs" {
            said.expect(1).says(&["damaged", "grown filesystem, which the restore wrote"]);
        }
    }
}

fn can_resize_ext4() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap() >> 24 & 1 == 1
}

#[test]
fn logical_partitions_move_and_grow_with_their_container() {
    if !can_loop() || !kernel_has("xfs") {
        return;
    }
    let scene = Scene::new();
    let source = scene.mbr("source.raw", &[("ext4", 16), ("xfs", 64), ("swap", 8)], 0);
    let (target, said) = restore_larger(&scene, &source, 96 * MIB);
    assert!(said.contains("xfs of partition 5 grown"), "{said}");
    check_larger(&source, &target, "xfs", 2, true);
    // sfdisk checks the chain of extended boot records against its container.
    let verdict = tool("fdisk", "sfdisk", &["--verify", text(&target)]).expect(0);
    assert!(verdict.stdout.contains("No errors detected"), "{}{}", verdict.stdout, verdict.stderr);
}

#[test]
fn a_filesystem_may_grow_to_the_last_byte_of_the_disk() {
    if !can_loop() || !kernel_has("xfs") {
        return;
    }
    let scene = Scene::new();
    let source = scene.mbr("source.raw", &[("xfs", 64)], 0);
    // The last MiB is then the filesystem's, not the table's, and must not be written over after it grew.
    let (target, said) = restore_larger(&scene, &source, 64 * MIB);
    assert!(said.contains("xfs of partition 1 grown"), "{said}");
    let place = partitions(&target, 512)[0];
    assert_eq!(place.0 + place.1, fs::metadata(&target).unwrap().len());
    let part = Loop::part(&target, place);
    checked(part.path(), "xfs");
    assert_eq!(files(part.path(), "xfs"), files(Loop::part(&source.path, source.part("xfs")).path(), "xfs"));
}

#[test]
fn no_grow_leaves_the_partitions_as_they_are() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16)], 0);
    let image = source.captured("image.qcow2");
    let target = scene.path("target.raw");
    run(&["restore", "--no-grow", "--size", "100M", text(&image), text(&target)]).expect(0);
    assert_eq!(partitions(&target, 512), [source.part("ext4")]);
    let verdict = tool("gdisk", "sgdisk", &["--verify", text(&target)]).expect(0).stdout;
    assert!(verdict.contains("No problems found"), "{verdict}");
    run(&["verify", text(&image), text(&target)]).expect(0);
}

#[test]
fn a_smaller_disk_is_taken_if_everything_fits_and_refused_with_the_bytes_if_not() {
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 32)], 64);
    let image = source.captured("image.qcow2");
    let fits = scene.path("fits.raw");
    run(&["restore", "--size", "40M", text(&image), text(&fits)]).expect(0);
    assert_eq!(partitions(&fits, 512), partitions(&source.path, 512));
    let verdict = tool("gdisk", "sgdisk", &["--verify", text(&fits)]).expect(0).stdout;
    assert!(verdict.contains("No problems found"), "{verdict}");
    run(&["verify", text(&image), text(&fits)]).expect(0);
    // What lies in no partition is lost with the end of the disk, which is said if it is more than zeros.
    let arguments = ["restore", "--force", "--size", "40M", text(&source.path), text(&fits)];
    let lost = "behind the last partition; the target ends before it";
    assert!(!run(&arguments).expect(0).stderr.contains(lost));
    flip(&source.path, 60 * MIB);
    run(&arguments).expect(0).says(&[lost]);

    // 33 MiB hold the partition, and 34 sectors are needed behind it.
    let small = scene.path("small.raw");
    let lacking = 33 * 512;
    run(&["restore", "--size", "33M", text(&image), text(&small)]).expect(3).says(&[
        "too small",
        &lacking.to_string(),
        &(33 * MIB + lacking).to_string(),
    ]);
    assert!(!small.exists());

    // A filesystem on the whole disk is not cut, though its last blocks are free.
    let whole = scene.sparse("whole.raw", 48 * MIB);
    tool("e2fsprogs", "mke2fs", &["-q", "-F", "-t", "ext4", "-N", "64", text(&whole)]).expect(0);
    let image = scene.path("whole.qcow2");
    run(&["capture", text(&whole), text(&image)]).expect(0);
    run(&["restore", "--size", "47M", text(&image), text(&small)])
        .expect(3)
        .says(&["ext4", "1048576 bytes before"]);
}

#[test]
fn what_would_not_mount_on_4096_byte_sectors_is_refused_and_the_rest_restored() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let backing = scene.sparse("target.raw", 160 * MIB);
    let device = Loop::new(&backing, &["--sector-size", "4096"]);
    for (kind, mib, words) in [("ext4-1k", 16, "1024"), ("xfs", 64, "512")] {
        let source = scene.gpt("source.raw", &[(kind, mib)], 0);
        let image = source.captured(&format!("{kind}.qcow2"));
        run(&["restore", "--yes", text(&image), text(device.path())]).expect(3).says(&[
            "partition 1",
            words,
            "would not mount",
        ]);
        assert!(read_range(&backing, 0, MIB).iter().all(|byte| *byte == 0), "{kind} was refused too late");
    }
    let source = scene.gpt("source.raw", &[("ext4", 16), ("swap", 8)], 0);
    let image = source.captured("good.qcow2");
    run(&["restore", "--yes", "--no-grow", text(&image), text(device.path())]).expect(0);
    assert_eq!(partitions(device.path(), 4096), partitions(&source.path, 512));
    run(&["verify", text(&image), text(device.path())]).expect(0);
    let place = source.part("ext4");
    let before = files(Loop::part(&source.path, place).path(), "ext4");
    let size =
        ["--sector-size", "4096", "--offset", &place.0.to_string(), "--sizelimit", &place.1.to_string()];
    let part = Loop::new(&backing, &size);
    checked(part.path(), "ext4");
    assert_eq!(files(part.path(), "ext4"), before);
    drop((part, device));
    // Back to 512-byte sectors from an image of the 4Kn disk, as a file.
    let image = scene.path("4kn.qcow2");
    let device = Loop::new(&backing, &["--sector-size", "4096"]);
    run(&["capture", text(device.path()), text(&image)]).expect(0);
    let back = scene.path("back.raw");
    run(&["restore", "--sector-size", "512", text(&image), text(&back)]).expect(0);
    assert_eq!(partitions(&back, 512), partitions(&source.path, 512));
}

#[test]
fn the_plan_is_shown_to_people_and_programs_and_touches_nothing() {
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16), ("swap", 8)], 0);
    let image = source.captured("image.qcow2");
    let target = scene.path("target.raw");
    let arguments = ["restore", "--dry-run", "--size", "64M", text(&image), text(&target)];
    run(&arguments).expect(0).says(&[
        "64.0 MiB in 512-byte sectors",
        "writes a new partition table at 0 B (0x0), its backup at 64.0 MiB",
        "moves 8.0 MiB from 17.0 MiB (0x1100000) to 55.0 MiB (0x3700000)",
    ]);
    let shown = run(&[&["--json"][..], &arguments].concat()).expect(0).result();
    let plan = &shown["plan"][0];
    assert_eq!(plan["size_bytes"], 64 * MIB);
    assert_eq!(plan["target"]["kind"], "file");
    assert_eq!(plan["partitions"].as_array().unwrap().len(), 2);
    assert_eq!(plan["moves"][0]["to"], 55 * MIB);
    let writes: Vec<&str> =
        plan["writes"].as_array().unwrap().iter().map(|write| write["what"].as_str().unwrap()).collect();
    assert!(writes.contains(&"GPT header") && writes.contains(&"backup GPT header"), "{writes:?}");
    assert!(!target.exists() && !scene.path("target.raw.partial").exists());
}
