// SPDX-License-Identifier: Apache-2.0
//! Guests in images of a store: what is fitted is another image, and the first stays. Needs root, loop devices and ext4.

use std::path::Path;

use serde_json::Value;

use crate::common::{Scene, hash, run};
use crate::direct::{Guest, fsck};
use crate::guest::{Drivers, RELEASE, UUID, disk};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A store with an image of a guest; the disk, the store, and the image's name.
fn stored(scene: &Scene) -> (std::path::PathBuf, String, String) {
    let disk = disk(scene, Drivers::Virtio);
    let store = format!("dir:{}", text(&scene.path("store")));
    run(&["images", "init", &store]).expect(0);
    let image = format!("{store}/web01");
    run(&["capture", text(&disk), &image]).expect(0);
    (disk, store, image)
}

fn times(image: &str) -> Vec<String> {
    let said: Value =
        serde_json::from_str(&run(&["images", "list", "--json", image]).expect(0).stdout).unwrap();
    let images = said["images"].as_array().unwrap().iter();
    images.map(|image| image["time"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_fitted_guest_is_another_image_and_can_be_given_back() {
    let scene = Scene::new();
    let (_, _, image) = stored(&scene);
    let first = format!("{image}@{}", times(&image)[0]);
    let plain = scene.path("plain.raw");
    run(&["restore", &first, text(&plain)]).expect(0);
    let line = ["convert", "--json", "--direct", "--profile", "kvm", &image];
    let dry: Value =
        serde_json::from_str(&run(&[&line[..], &["--dry-run"]].concat()).expect(0).stdout).unwrap();
    assert!(!dry["plan"]["edits"].as_array().unwrap().is_empty());
    assert_eq!(times(&image).len(), 1);

    let said: Value = serde_json::from_str(&run(&line).expect(0).stdout).unwrap();
    let all = times(&image);
    assert_eq!(all.len(), 2);
    assert!(said["stored"]["image"].as_str().unwrap().ends_with(&format!("web01@{}", all[1])), "{said}");
    // What did not change is there already.
    let (changed, stored) = (&said["done"]["changed_bytes"][0], &said["stored"]["added"]["stored_bytes"]);
    assert!(changed.as_u64().unwrap() > 0 && stored.as_u64().unwrap() < 16 << 20, "{changed} {stored}");
    let verified = run(&["verify", &image]).expect(0).stdout;
    assert!(verified.contains("changed since the capture: fitted to kvm"), "{verified}");

    let fitted = scene.path("fitted.raw");
    run(&["restore", &image, text(&fitted)]).expect(0);
    fsck(&scene, &fitted);
    let initrd = format!("boot/initrd.img-{RELEASE}");
    let seen = |disk: &Path| {
        let guest = Guest::of(&scene, disk);
        (guest.text("etc/fstab"), guest.read(&initrd))
    };
    let (before, after) = (seen(&plain), seen(&fitted));
    assert_eq!(after.0, before.0.replace("/dev/sda1", &format!("UUID={UUID}")));
    assert!(after.1.len() > before.1.len());

    let said = run(&["convert", "--direct", "--undo", &image]).expect(0).stdout;
    assert!(said.contains("the guest is as it was") && said.contains("complete"), "{said}");
    assert_eq!(times(&image).len(), 3);
    let undone = scene.path("undone.raw");
    run(&["restore", &image, text(&undone)]).expect(0);
    fsck(&scene, &undone);
    assert!(seen(&undone) == before);

    // The first image is what it was.
    let again = scene.path("again.raw");
    run(&["restore", &first, text(&again)]).expect(0);
    assert_eq!(hash(&again), hash(&plain));
    run(&["verify", &first]).expect(0);
}

#[test]
fn a_stored_guest_is_fitted_on_its_way_to_a_disk() {
    let scene = Scene::new();
    let (_, _, image) = stored(&scene);
    let target = scene.path("b.raw");
    run(&["restore", "--yes", "--direct", "--profile", "kvm", &image, text(&target)]).expect(0);
    fsck(&scene, &target);
    let guest = Guest::of(&scene, &target);
    assert!(guest.text("etc/fstab").contains(&format!("UUID={UUID}")));
    assert_eq!(times(&image).len(), 1);
    run(&["verify", &image]).expect(0);
}

#[test]
fn what_cannot_be_converted_in_a_store_is_said_before_anything_is_done() {
    let scene = Scene::new();
    let (disk, store, image) = stored(&scene);
    let two = run(&["convert", "--profile", "kvm", &image, text(&disk)]).expect(2);
    two.says(&["choosing images", "name it alone"]);
    run(&["convert", "--profile", "kvm", &format!("{store}/web02")]).expect(3).says(&["there is none"]);
    // A guest that no kernel of it would boot is refused, and nothing is stored.
    let bad = format!("{store}/bad");
    let other = Scene::new();
    run(&["capture", text(&crate::guest::disk(&other, Drivers::AhciOnly)), &bad]).expect(0);
    run(&["convert", "--direct", "--profile", "kvm", &bad]).expect(3).says(&["fitting the guest"]);
    assert_eq!((times(&bad).len(), times(&image).len()), (1, 1));
}
