// SPDX-License-Identifier: Apache-2.0
//! `unmoor restore --profile`: onto disks of other sizes, of machines with several disks, into a machine's firmware. Needs root, loop
//! devices and ext4.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::{Loop, Run, Scene, hash, run, tool, unmoor};
use crate::guest::{Drivers, UUID, disk, image, uefi_disk};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Number, first sector, sectors, type of each partition, as sfdisk reads them.
fn partitions(disk: &Path) -> Vec<(u64, u64, String)> {
    let said = tool("fdisk", "sfdisk", &["--json", text(disk)]).expect(0).stdout;
    let said: Value = serde_json::from_str(&said).unwrap();
    let partitions = said["partitiontable"]["partitions"].as_array().unwrap();
    let of = |partition: &Value| {
        let number = |key: &str| partition[key].as_u64().unwrap();
        (number("start"), number("size"), partition["type"].as_str().unwrap().to_owned())
    };
    partitions.iter().map(of).collect()
}

fn part(scene: &Scene, disk: &Path, (start, sectors): (u64, u64)) -> PathBuf {
    let path = scene.path("part");
    let (from, to) = (format!("if={}", text(disk)), format!("of={}", text(&path)));
    let (skip, count) = (format!("skip={start}"), format!("count={sectors}"));
    tool("coreutils", "dd", &[&from, &to, "bs=512", &skip, &count, "conv=sparse"].map(str::to_owned))
        .expect(0);
    path
}

const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

#[test]
fn a_larger_target_has_the_room_for_an_esp_and_the_guest_the_rest() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    let before = hash(&image);
    let target = scene.path("b.raw");
    let line = |size: &str| {
        [
            "restore",
            "--yes",
            "--direct",
            "--profile",
            "kvm",
            "--firmware",
            "uefi",
            "--size",
            size,
            text(&image),
            text(&target),
        ]
        .map(str::to_owned)
    };
    // Its root reaches to the end of the disk.
    run(&line("96M")).expect(3).says(&["a GPT needs the last", "make the disk larger"]);
    assert!(!target.exists());
    let said = run(&line("2G")).expect(0);
    assert_eq!(hash(&image), before);
    run(&["verify", text(&image), text(&target)]).expect(0);
    let verdict = tool("gdisk", "sgdisk", &["-v", text(&target)]).expect(0).stdout;
    assert!(verdict.contains("No problems found"), "{verdict}");
    let [(root, root_len, _), (esp, esp_len, kind)] = <[_; 2]>::try_from(partitions(&target)).unwrap();
    assert_eq!(kind, ESP);
    assert_eq!((root, esp_len), (2048, 512 << 11));
    assert!(root_len > (1400 << 11) && root + root_len == esp, "{root_len} {esp}");
    let volume = part(&scene, &target, (esp, esp_len));
    tool("dosfstools", "fsck.fat", &["-n", text(&volume)]).expect(0);
    let listed = tool("mtools", "mdir", &["-/", "-b", "-i", text(&volume), "::"]).expect(0).stdout;
    assert!(listed.contains("EFI/BOOT/BOOTX64.EFI") && listed.contains("EFI/debian/grubx64.efi"), "{listed}");
    let place = format!("{}?offset=1048576", text(&target));
    tool("e2fsprogs", "e2fsck", &["-fn", &place]).expect(0);
    let facts = tool("e2fsprogs", "dumpe2fs", &["-h", &place]).expect(0).stdout;
    let blocks = facts.lines().find_map(|line| line.strip_prefix("Block count:")).unwrap();
    let grown = blocks.trim().parse::<u64>().unwrap() > (1300 << 20) / 4096;
    // The kernel resizes an ext4 for those alone who have CAP_SYS_RESOURCE.
    let left = (said.stdout + &said.stderr).contains("is not grown here");
    assert!(grown != left, "grown: {grown}, left: {left}: {facts}");
}

#[test]
fn a_part_of_a_machine_s_disks_is_not_fitted() {
    let scene = Scene::new();
    let other = scene.path("other.raw");
    fs::write(&other, vec![7; 1 << 20]).unwrap();
    let image = scene.path("m.qcow2");
    run(&["capture", text(&disk(&scene, Drivers::Virtio)), text(&other), text(&image)]).expect(0);
    let (one, two) = (scene.path("one.raw"), scene.path("two.raw"));
    let alone = ["restore", "--yes", "--direct", "--profile", "kvm", text(&image), text(&one)];
    run(&alone).expect(3).says(&["2 disks", "--disk 1=TARGET", "leave --profile out"]);
    let named = format!("0={}", text(&one));
    let line = ["restore", "--yes", "--direct", "--profile", "kvm", text(&image), "--disk", &named];
    run(&line).expect(3).says(&["--disk 1=TARGET"]);
    assert!(!one.exists());
    let second = format!("1={}", text(&two));
    let both = [&line[..], &["--disk", &second]].concat();
    run(&both).expect(0);
    let place = format!("{}?offset=1048576", text(&one));
    let fstab = tool("e2fsprogs", "debugfs", &["-R", "cat /etc/fstab", &place]).expect(0).stdout;
    assert!(fstab.contains(UUID), "{fstab}");
}

#[test]
fn a_restored_disk_gets_its_boot_entry_where_that_is_asked_for() {
    let scene = Scene::new();
    let image = scene.path("a.qcow2");
    run(&["capture", text(&uefi_disk(&scene)), text(&image)]).expect(0);
    let blank = scene.path("blank");
    fs::File::create(&blank).unwrap().set_len(400 << 20).unwrap();
    let target = Loop::new(&blank, &[]);
    let variables = scene.path("variables");
    fs::create_dir(&variables).unwrap();
    // What was there, in front.
    fs::write(variables.join("BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c"), [7, 0, 0, 0, 5, 0]).unwrap();
    let restore = |more: &[&str]| {
        let mut command = unmoor();
        command.env("EFIVARFS_PATH", format!("{}/", text(&variables)));
        command
            .args(["restore", "--yes", "--direct", "--profile", "physical", text(&image), target.path()])
            .args(more);
        Run::from(command.output().unwrap())
    };
    let dry = restore(&["--dry-run", "--boot-entry", "always"]).expect(0).stdout;
    assert!(
        dry.contains("adds the boot entry \"debian\"") && dry.contains("\\EFI\\debian\\shimx64.efi"),
        "{dry}"
    );
    for more in [&[][..], &["--boot-entry", "never"]] {
        let said = restore(more).expect(0).stdout;
        assert!(said.contains("no boot entry is made") && said.contains("BOOTX64.EFI"), "{said}");
    }
    assert_eq!(fs::read_dir(&variables).unwrap().count(), 1);
    let done = restore(&["--boot-entry", "always"]).expect(0).stdout;
    assert!(done.contains("starts it by Boot0000"), "{done}");
    let read =
        Command::new("efibootmgr").arg("-v").env("EFIVARFS_PATH", format!("{}/", text(&variables))).output();
    let read =
        read.unwrap_or_else(|error| panic!("this test needs efibootmgr (package efibootmgr): {error}"));
    let read = String::from_utf8_lossy(&read.stdout).into_owned();
    let id =
        tool("fdisk", "sfdisk", &["--part-uuid", text(&blank), "1"]).expect(0).stdout.trim().to_lowercase();
    let wanted = format!("Boot0000* debian\tHD(1,GPT,{id},0x800,0x14000)/File(\\EFI\\debian\\shimx64.efi)");
    assert!(read.contains("BootOrder: 0000,0005") && read.contains(&wanted), "{wanted}\n{read}");
}
