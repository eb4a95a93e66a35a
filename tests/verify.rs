// SPDX-License-Identifier: Apache-2.0
//! `unmoor verify` and `unmoor inspect` from outside.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Scene, run, tool};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// (first byte, length) of all extents of an image in this state, from its map file.
fn extents(image: &Path, state: &str) -> Vec<(u64, u64)> {
    let shown = run(&["dev", "show", "map", text(image)]).expect(0).stdout;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let offset = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        let len = words.next()?.parse().ok()?;
        (words.next()? == state).then_some((offset, len))
    };
    shown.lines().filter_map(line).collect()
}

#[test]
fn damage_is_found_and_located() {
    let scene = Scene::new();
    let (disk, image) = (scene.ext4("disk.raw", 32), scene.path("a.raw"));
    run(&["capture", text(&disk), text(&image)]).expect(0);
    run(&["verify", text(&image)]).expect(0);
    let (start, len) = *extents(&image, "Data").iter().max_by_key(|extent| extent.1).unwrap();
    let at = start + len / 2;
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let outcome = run(&["verify", "--json", text(&image)]).expect(1);
    let result: Value = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|event| event["event"] == "result")
        .unwrap();
    let damage = result["disks"][0]["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{damage:?}");
    let range = damage[0]["start"].as_u64().unwrap()..damage[0]["end"].as_u64().unwrap();
    assert!(range.contains(&at) && range.end - range.start <= 256 << 10, "{at} in {range:?}");
    assert_eq!(damage[0]["where"], "disk");
    run(&["verify", text(&image)]).expect(1).says(&["not as they were captured"]);
}

#[test]
fn a_restored_disk_may_hold_anything_in_its_holes_and_nothing_else() {
    let scene = Scene::new();
    let (disk, image, back) = (scene.ext4("disk.raw", 32), scene.path("a.qcow2"), scene.path("back.raw"));
    run(&["capture", text(&disk), text(&image)]).expect(0);
    tool("qemu-utils", "qemu-img", &["convert", "-O", "raw", text(&image), text(&back)]).expect(0);
    let file = File::options().write(true).open(&back).unwrap();
    let holes = extents(&image, "Hole");
    assert!(!holes.is_empty());
    for (start, len) in &holes {
        file.write_all_at(&vec![0xA5; *len as usize], *start).unwrap();
    }
    // A filesystem that is full of old garbage in its unused blocks is exact.
    run(&["verify", text(&image), text(&back)]).expect(0);
    tool("e2fsprogs", "e2fsck", &["-fn", text(&back)]).expect(0);
    let (start, _) = extents(&image, "Data")[0];
    file.write_all_at(&[0xEE; 4096], start).unwrap();
    run(&["verify", text(&image), text(&back)]).expect(1);
    file.set_len(1 << 20).unwrap();
    run(&["verify", text(&image), text(&back)]).expect(1).says(&["bytes"]);
}

#[test]
fn an_image_without_its_manifest_or_map_is_not_called_exact() {
    let scene = Scene::new();
    let (disk, image) = (scene.ext4("disk.raw", 32), scene.path("a.qcow2"));
    run(&["capture", text(&disk), text(&image)]).expect(0);
    let map = scene.path("a.qcow2.map");
    let good = fs::read(&map).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&map, bad).unwrap();
    run(&["verify", text(&image)]).expect(1).says(&["a.qcow2.map"]);
    fs::write(&map, good).unwrap();
    run(&["verify", text(&image)]).expect(0);
    fs::rename(scene.path("a.unmoor.json"), scene.path("b.unmoor.json")).unwrap();
    run(&["verify", text(&image)]).expect(3).says(&["no manifest", "a.unmoor.json"]);
    // The manifest by name finds its images.
    run(&["verify", text(&scene.path("b.unmoor.json"))]).expect(0);
}

#[test]
fn inspect_shows_what_is_there_to_people_and_programs() {
    let scene = Scene::new();
    let (disk, image) = (scene.ext4("disk.raw", 32), scene.path("a.qcow2"));
    let uuid = tool("e2fsprogs", "dumpe2fs", &["-h", text(&disk)]).expect(0).stdout;
    let uuid = uuid.lines().find_map(|line| line.strip_prefix("Filesystem UUID:")).unwrap().trim().to_owned();
    run(&["capture", text(&disk), text(&image)]).expect(0);
    for source in [&disk, &image] {
        let shown = run(&["inspect", text(source)]).expect(0).stdout;
        assert!(shown.contains("ext4") && shown.contains(&uuid) && shown.contains("32.0 MiB"), "{shown}");
        let json: Value =
            serde_json::from_str(&run(&["inspect", "--json", text(source)]).expect(0).stdout).unwrap();
        assert_eq!(json["disks"][0]["size"], 32 << 20);
        let facts = &json["disks"][0]["regions"][0]["content"]["filesystem"];
        assert_eq!((&facts["kind"], &facts["uuid"]), (&"ext4".into(), &uuid.as_str().into()), "{json:#}");
        assert_eq!(json["manifest"].is_object(), source == &image);
    }
}
