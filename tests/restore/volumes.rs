// SPDX-License-Identifier: Apache-2.0
//! `--grow=VG/LV`: groups made by LVM's own tools, grown by the restore, and judged by LVM's own tools.

use std::fs::{self, File};
use std::path::Path;

use crate::disks::{self, Scene, copy_sparse, partitions};
use crate::support::{Loop, MIB, Mounted, Run, can_loop, checked, files, kernel_has, run, text, tool};

/// First extent of a physical volume, as pvcreate places it.
const PE_START: u64 = MIB;
const EXTENT: u64 = 4 * MIB;

/// Runs lvm's `command` on that device alone; it never asks device-mapper, which the host may lack.
fn lvm(device: &Loop, command: &str, arguments: &[&str]) -> Run {
    let own = text(device.path());
    let config = format!(
        "devices {{ use_devicesfile=0 obtain_device_list_from_udev=0 global_filter=[\"a|^{own}$|\",\"r|.*|\"] }} \
         backup {{ backup=0 archive=0 }} activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} global {{ use_lvmpolld=0 }}"
    );
    let all = [&[command, "--driverloaded", "n", "--config", &config], arguments].concat();
    tool("lvm2", "lvm", &all).expect(0)
}

/// A group `vg` with the logical volume `root` of all extents, or of half of them with `other` behind it; an ext4 in `root`.
pub(crate) fn fill(part: &Path, len: u64, two: bool, seed: u64) {
    let device = Loop::new(part, &[]);
    lvm(&device, "pvcreate", &["-y", text(device.path())]);
    lvm(&device, "vgcreate", &["-s", "4M", "vg", text(device.path())]);
    let extents = (len - PE_START) / EXTENT;
    let root = if two { extents / 2 } else { extents };
    let make = |name: &str, extents: u64| {
        lvm(&device, "lvcreate", &["-y", "-an", "-Zn", "-Wn", "-l", &extents.to_string(), "-n", name, "vg"]);
    };
    make("root", root);
    if two {
        make("other", extents - root);
    }
    drop(device);
    let inside = tempfile::NamedTempFile::new().unwrap();
    inside.as_file().set_len(root * EXTENT).unwrap();
    disks::fill(inside.path(), "ext4", root * EXTENT, seed);
    copy_sparse(inside.path(), &File::options().write(true).open(part).unwrap(), PE_START);
}

#[test]
fn a_logical_volume_gets_a_larger_disks_room_and_its_filesystem_follows() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4-1k", 12), ("lvm", 49)], 0);
    let image = source.captured("image.qcow2");
    let target = scene.sparse("target.raw", source.size() + 64 * MIB);
    let device = Loop::new(&target, &[]);
    let said = run(&["restore", "--yes", "--grow=vg/root", text(&image), text(device.path())]).expect(0);
    let said = said.says(&["vg/root gets 16 extents"]);
    run(&["verify", text(&image), text(device.path())]).expect(0).says(&["exact", "changed by the restore"]);

    let place = partitions(&target, 512)[1];
    assert!(place.1 >= source.part("lvm").1 + 62 * MIB, "{place:?}");
    let volume = Loop::part(&target, place);
    lvm(&volume, "vgck", &["vg"]);
    lvm(&volume, "pvck", &[text(volume.path())]);
    let columns = ["--noheadings", "--units", "b", "--nosuffix", "-o", "lv_size,seg_count,vg_free"];
    let line = lvm(&volume, "lvs", &[&columns[..], &["vg/root"]].concat()).stdout;
    let words: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(words, [28 * EXTENT, 1, 0], "{line}");
    drop(volume);
    let old = files(Loop::part(&source.path, (source.part("lvm").0 + PE_START, 12 * EXTENT)).path(), "ext4");
    let inside = Loop::part(&target, (place.0 + PE_START, 28 * EXTENT));
    checked(inside.path(), "ext4");
    assert_eq!(files(inside.path(), "ext4"), old);
    let mounted = Mounted::new(&["-t", "ext4", "-o", "ro", text(inside.path())]);
    let state = tool("coreutils", "stat", &["-f", "-c", "%S %b", text(mounted.path())]).expect(0).stdout;
    let numbers: Vec<u64> = state.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let grown =
        said.stdout.contains("ext4 of vg/root grown") || said.stderr.contains("ext4 of vg/root grown");
    assert_eq!(numbers[0] * numbers[1] > 13 * EXTENT, grown, "{state}");
    if !grown {
        said.says(&["the ext4 of vg/root is not grown here"]);
    }
}

#[test]
fn a_volume_in_pieces_grows_and_its_filesystem_waits_where_nothing_can_map_it() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("lvm-two", 65)], 0);
    let image = source.captured("image.qcow2");
    let target = scene.path("target.raw");
    let size = (source.size() + 40 * MIB).to_string();
    let said =
        run(&["restore", "--yes", "--grow=root", "--size", &size, text(&image), text(&target)]).expect(0);
    let said = said.says(&["vg/root gets"]);
    if !Path::new("/dev/mapper/control").exists() {
        said.says(&["the ext4 of vg/root is not grown here", "no device-mapper", "resize2fs"]);
    }
    let volume = Loop::part(&target, partitions(&target, 512)[0]);
    lvm(&volume, "vgck", &["vg"]);
    let columns = ["--noheadings", "--units", "b", "--nosuffix", "-o", "lv_name,lv_size,seg_count"];
    let said = lvm(&volume, "lvs", &[&columns[..], &["vg"]].concat()).stdout;
    let find = |name: &str| {
        let line = said.lines().find(|line| line.trim().starts_with(name)).unwrap();
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        (words[0].parse::<u64>().unwrap() / EXTENT, words[1].to_owned())
    };
    assert_eq!(find("other"), (8, "1".into()), "{said}");
    assert!(find("root").0 >= 8 + 9 && find("root").1 == "2", "{said}");
    assert!(kernel_has("ext4"));
    let inside = Loop::part(&target, (partitions(&target, 512)[0].0 + PE_START, 8 * EXTENT));
    checked(inside.path(), "ext4");
}

#[test]
fn a_volume_that_cannot_get_the_room_is_refused_before_anything_is_written() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("lvm", 33), ("ext4", 16)], 0);
    let image = source.captured("image.qcow2");
    let size = (source.size() + 40 * MIB).to_string();
    let target = scene.path("target.raw");
    {
        let (volume, word) = ("vg/root", "partition 2, which gets the room, holds no LVM");
        let grow = format!("--grow={volume}");
        run(&["restore", "--yes", &grow, "--size", &size, text(&image), text(&target)])
            .expect(3)
            .says(&[word]);
        assert!(!target.exists());
    }
    let source = scene.gpt("other.raw", &[("lvm", 33)], 0);
    let image = source.captured("other.qcow2");
    for (volume, word) in
        [("other/root", "belongs to volume group vg"), ("vg/nothing", "no such logical volume")]
    {
        let grow = format!("--grow={volume}");
        run(&["restore", "--yes", &grow, "--size", &size, text(&image), text(&target)])
            .expect(3)
            .says(&[word]);
        assert!(fs::metadata(&target).is_err());
    }
}
