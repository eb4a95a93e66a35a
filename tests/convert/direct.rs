// SPDX-License-Identifier: Apache-2.0
//! Guests that are really changed, their filesystem mounted by this host. Needs root, loop devices and ext4.

use std::path::Path;

use serde_json::Value;

use crate::common::{Mounted, Scene, hash, run, tool};
use crate::guest::{Drivers, RELEASE, UUID, image};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The guest's root, from its image.
struct Guest {
    mounted: Mounted,
    _raw: std::path::PathBuf,
}

impl Guest {
    fn of(scene: &Scene, image: &Path) -> Self {
        let raw = scene.path("look.raw");
        tool("qemu-utils", "qemu-img", &["convert", "-O", "raw", text(image), text(&raw)]).expect(0);
        let mounted = Mounted::new(&["-o", "ro,noload,loop,offset=1048576", text(&raw)]);
        Self { mounted: mounted.expect("this test needs root, a loop device and ext4"), _raw: raw }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.mounted.path().join(path)).unwrap()
    }

    fn text(&self, path: &str) -> String {
        String::from_utf8(self.read(path)).unwrap()
    }
}

fn fsck(scene: &Scene, image: &Path) {
    let raw = scene.path("check.raw");
    tool("qemu-utils", "qemu-img", &["convert", "-O", "raw", text(image), text(&raw)]).expect(0);
    tool("e2fsprogs", "e2fsck", &["-fn", &format!("{}?offset=1048576", text(&raw))]).expect(0);
    std::fs::remove_file(raw).unwrap();
}

#[test]
fn a_guest_is_fitted_verified_and_given_back() {
    for name in ["a.qcow2", "a.raw"] {
        let scene = Scene::new();
        let image = image(&scene, Drivers::Virtio, name);
        let before = Guest::of(&scene, &image);
        let initrd = format!("boot/initrd.img-{RELEASE}");
        let (fstab, grub, old) =
            (before.text("etc/fstab"), before.text("boot/grub/grub.cfg"), before.read(&initrd));
        drop(before);
        let said = run(&["convert", "--json", "--direct", "--profile", "kvm", text(&image)]).expect(0).stdout;
        let said: Value = serde_json::from_str(&said).unwrap();
        assert!(said["done"]["changed_bytes"][0].as_u64().unwrap() > 0);
        if name.ends_with("qcow2") {
            tool("qemu-utils", "qemu-img", &["check", "-q", text(&image)]).expect(0);
        }
        let verified = run(&["verify", text(&image)]).expect(0).stdout;
        assert!(verified.contains("changed since the capture: fitted to kvm"), "{verified}");
        fsck(&scene, &image);
        let after = Guest::of(&scene, &image);
        assert_eq!(after.text("etc/fstab"), fstab.replace("/dev/sda1", &format!("UUID={UUID}")));
        assert!(!after.text("boot/grub/grub.cfg").contains("/dev/sda1"));
        let new = after.read(&initrd);
        assert!(new.len() > old.len() && new.starts_with(&old), "drivers are appended");
        drop(after);

        // A second time there is nothing to do.
        let again =
            run(&["convert", "--json", "--direct", "--profile", "kvm", text(&image)]).expect(0).stdout;
        let again: Value = serde_json::from_str(&again).unwrap();
        assert_eq!(again["plan"]["edits"].as_array().map(Vec::len), Some(0), "{}", again["plan"]["edits"]);

        run(&["convert", "--direct", "--undo", text(&image)]).expect(0);
        run(&["verify", text(&image)]).expect(0);
        fsck(&scene, &image);
        let undone = Guest::of(&scene, &image);
        assert_eq!((undone.text("etc/fstab"), undone.text("boot/grub/grub.cfg")), (fstab, grub));
        assert!(undone.read(&initrd) == old);
    }
}

#[test]
fn a_saved_plan_is_carried_out_and_not_a_second_time() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    let plan = scene.path("plan.json");
    run(&["convert", "--profile", "kvm", "--dry-run", "--plan", text(&plan), text(&image)]).expect(0);
    run(&["convert", "--direct", "--apply-plan", text(&plan), text(&image)]).expect(0);
    let fitted = hash(&image);
    // The guest is not any more what the plan was made for.
    assert_ne!(run(&["convert", "--direct", "--apply-plan", text(&plan), text(&image)]).code, Some(0));
    assert_eq!(hash(&image), fitted);
    run(&["verify", text(&image)]).expect(0);
}

#[test]
fn a_restore_fits_the_disk_and_leaves_the_image() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    let before = hash(&image);
    for target in ["b.raw", "b.qcow2"] {
        let target = scene.path(target);
        run(&["restore", "--yes", "--direct", "--profile", "kvm", text(&image), text(&target)]).expect(0);
        run(&["verify", text(&image), text(&target)]).expect(0);
        let guest = Guest::of(&scene, &target);
        assert!(guest.text("etc/fstab").contains(UUID));
        drop(guest);
        fsck(&scene, &target);
    }
    assert_eq!(hash(&image), before);
    run(&["verify", text(&image)]).expect(0);
}

#[test]
fn a_restore_of_a_guest_that_cannot_be_fitted_leaves_the_target_alone() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::AhciOnly, "a.qcow2");
    let target = scene.path("b.raw");
    run(&["restore", "--yes", "--direct", "--profile", "kvm", text(&image), text(&target)]).expect(3);
    assert!(!target.exists());
}
