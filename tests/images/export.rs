// SPDX-License-Identifier: Apache-2.0
//! `unmoor images export`.

use std::fs;

use serde_json::Value;

use crate::common::{Scene, hash, noise, run, tool, unmoor};
use crate::support::{manifest, store, text};

#[test]
fn every_format_holds_the_bytes_of_the_store_and_verifies() {
    let scene = Scene::new();
    let (store, disk) = (store(&scene, "store"), scene.ext4("disk.raw", 64));
    let image = format!("{store}/web01");
    run(&["capture", text(&disk), &image]).expect(0);
    let raw = scene.path("plain.raw");
    run(&["images", "export", &image, text(&raw)]).expect(0);
    // As a capture to a file is restored, so is the export.
    let (file, back) = (scene.path("file.qcow2"), scene.path("back.raw"));
    run(&["capture", text(&disk), text(&file)]).expect(0);
    run(&["restore", "--yes", text(&file), text(&back)]).expect(0);
    assert_eq!(hash(&raw), hash(&back));
    tool("e2fsprogs", "e2fsck", &["-fn", text(&raw)]).expect(0);
    for name in ["a.qcow2", "b.vmdk", "c.vhdx", "d.img"] {
        let path = scene.path(name);
        run(&["images", "export", &image, text(&path)]).expect(0);
        run(&["verify", text(&path)]).expect(0);
        tool("qemu-utils", "qemu-img", &["compare", text(&path), text(&raw)]).expect(0);
        run(&["images", "export", &image, text(&path)]).expect(3).says(&["it exists", "--force"]);
    }
    run(&["images", "export", "--force", &image, text(&scene.path("a.qcow2"))]).expect(0);
    run(&["verify", text(&scene.path("a.qcow2"))]).expect(0);
    let streamed = unmoor().args(["images", "export", &image, "-"]).output().unwrap();
    assert!(streamed.status.success() && streamed.stdout == fs::read(&raw).unwrap());

    // What the manifest says is what the store's says, but for the files.
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(scene.path(name)).unwrap()).unwrap() };
    let (mut exported, mut stored) = (read("b.unmoor.json"), manifest(&image));
    assert_eq!(exported["disks"][0]["image"], "b.vmdk");
    for manifest in [&mut exported, &mut stored] {
        for key in ["image", "image_format", "map"] {
            manifest["disks"][0][key] = Value::Null;
        }
    }
    assert_eq!(exported, stored);
}

#[test]
fn several_disks_become_several_files_or_one_that_is_chosen() {
    let scene = Scene::new();
    let store = store(&scene, "store");
    let (one, two) = (scene.ext4("one.raw", 32), scene.path("two.raw"));
    fs::write(&two, noise(3 << 20, 5)).unwrap();
    let image = format!("{store}/db01");
    run(&["capture", text(&one), text(&two), &image]).expect(0);
    run(&["images", "export", &image, text(&scene.path("db.qcow2"))]).expect(0);
    let names = scene.names();
    for name in ["db.qcow2", "db.disk1.qcow2", "db.qcow2.map", "db.disk1.qcow2.map", "db.unmoor.json"] {
        assert!(names.iter().any(|have| have == name), "{name} is missing in {names:?}");
    }
    run(&["verify", text(&scene.path("db.unmoor.json"))]).expect(0);
    tool("qemu-utils", "qemu-img", &["compare", text(&scene.path("db.disk1.qcow2")), text(&two)]).expect(0);
    run(&["images", "export", &image, "-"]).expect(2).says(&["--disk"]);
    run(&["images", "export", "--disk", "1", &image, text(&scene.path("alone.raw"))]).expect(0);
    assert_eq!(hash(&scene.path("alone.raw")), hash(&two));
    run(&["verify", text(&scene.path("alone.raw"))]).expect(0);
    run(&["images", "export", "--disk", "2", &image, text(&scene.path("no.raw"))])
        .expect(2)
        .says(&["2 disks"]);
    assert!(!scene.path("no.raw").exists());
    run(&["images", "export", &image, &format!("{store}/other")]).expect(2).says(&["an export makes files"]);
}
