// SPDX-License-Identifier: Apache-2.0
//! Images of others, and targets that are images.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::disks::{Scene, partitions};
use crate::past;
use crate::support::{Loop, MIB, can_loop, noise, run, text, tool};

#[test]
fn images_of_others_have_no_holes_and_their_zeros_are_written() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16), ("swap", 8)], 8);
    let qcow2 = scene.path("source.qcow2");
    tool("qemu-utils", "qemu-img", &["convert", "-O", "qcow2", text(&source.path), text(&qcow2)]).expect(0);
    let target = scene.path("target.raw");
    for image in [&source.path, &qcow2] {
        past::full(&target, source.size());
        let device = Loop::new(&target, &[]);
        run(&["restore", "--yes", text(image), text(device.path())]).expect(0).says(&["no manifest"]);
        drop(device);
        assert!(fs::read(&target).unwrap() == fs::read(&source.path).unwrap(), "{}", image.display());
    }
    // Neither is a file whose length is no whole number of sectors.
    let odd = scene.path("odd.img");
    fs::write(&odd, noise(MIB as usize + 100, 3)).unwrap();
    let back = scene.path("back.raw");
    run(&["restore", text(&odd), text(&back)]).expect(0);
    let (odd, back) = (fs::read(odd).unwrap(), fs::read(back).unwrap());
    assert!(back.len() == MIB as usize + 512 && back.starts_with(&odd) && back[odd.len()..] == [0; 412]);
}

#[test]
fn a_qcow2_target_is_what_a_raw_one_is() {
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16), ("noise", 4), ("swap", 8)], 0);
    let image = source.captured("image.qcow2");
    for more in [&[][..], &["--size", "96M"][..]] {
        let (raw, qcow2) = (scene.path("target.raw"), scene.path("target.qcow2"));
        for target in [&raw, &qcow2] {
            let arguments = [&["restore", "--force", text(&image), text(target)], more].concat();
            run(&arguments).expect(0).says(&["exact"]);
            run(&["verify", text(&image), text(target)]).expect(0).says(&["exact"]);
        }
        tool("qemu-utils", "qemu-img", &["check", "-q", text(&qcow2)]).expect(0);
        let compared = ["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&qcow2)];
        // Unused blocks are holes in both, which read as zeros.
        tool("qemu-utils", "qemu-img", &compared).expect(0).says(&["identical"]);
        let size = if more.is_empty() { source.size() } else { 96 * MIB };
        assert_eq!(fs::metadata(&raw).unwrap().len(), size);
        assert_eq!(partitions(&raw, 512).len(), 3);
        let file = File::options().write(true).open(&raw).unwrap();
        file.write_all_at(&[0x77], source.part("noise").0 + 5).unwrap();
        run(&["verify", text(&image), text(&raw)]).expect(1).says(&["damaged", "partition 2"]);
    }
}

#[test]
fn a_restored_disk_can_be_captured_again_and_is_the_same() {
    let scene = Scene::new();
    let source = scene.mbr("source.raw", &[("ext4", 16), ("noise", 2), ("swap", 4)], 2);
    let image = source.captured("image.qcow2");
    let target = scene.path("target.raw");
    run(&["restore", text(&image), text(&target)]).expect(0);
    let again = scene.path("again.qcow2");
    run(&["capture", text(&target), text(&again)]).expect(0);
    let root = |image: &std::path::Path| {
        let manifest = fs::read(image.with_extension("unmoor.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        manifest["disks"][0]["root"].as_str().unwrap().to_owned()
    };
    assert_eq!(root(&image), root(&again));
}
