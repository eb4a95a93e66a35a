// SPDX-License-Identifier: Apache-2.0
//! Guests that are really changed, their filesystem mounted by this host. Needs root, loop devices and ext4.

use std::path::Path;

use serde_json::Value;

use crate::common::{Loop, Mounted, Scene, hash, run, tool};
use crate::guest::{Drivers, RELEASE, UUID, disk, embed_grub, image};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The guest's root, from its image.
pub(crate) struct Guest {
    mounted: Mounted,
    _raw: std::path::PathBuf,
}

impl Guest {
    pub(crate) fn of(scene: &Scene, image: &Path) -> Self {
        let raw = scene.path("look.raw");
        tool("qemu-utils", "qemu-img", &["convert", "-O", "raw", text(image), text(&raw)]).expect(0);
        let mounted = Mounted::new(&["-o", "ro,noload,loop,offset=1048576", text(&raw)]);
        Self { mounted: mounted.expect("this test needs root, a loop device and ext4"), _raw: raw }
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.mounted.path().join(path)).unwrap()
    }

    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.read(path)).unwrap()
    }
}

pub(crate) fn fsck(scene: &Scene, image: &Path) {
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
fn definitions_that_are_there_are_not_replaced_unasked() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    let (before, script) = (hash(&image), scene.path("a.qemu.sh"));
    std::fs::write(&script, "mine").unwrap();
    let line = ["convert", "--direct", "--profile", "kvm", text(&image)];
    run(&line).expect(3).says(&["creating", "a.qemu.sh", "it exists", "--force"]);
    assert_eq!((hash(&image), std::fs::read(&script).unwrap()), (before, b"mine".to_vec()));
    let names = scene.names();
    assert!(!names.iter().any(|name| name.ends_with(".xml") || name.ends_with(".overlay")), "{names:?}");
    let dry = [&line[..], &["--dry-run"]].concat();
    run(&dry).expect(0).says(&["warning: creating", "a.qemu.sh"]);
    run(&[&line[..], &["--force"]].concat()).expect(0);
    assert!(std::fs::read_to_string(&script).unwrap().starts_with("#!/bin/sh"));
    // Those that say the same are in nobody's way.
    run(&line).expect(0);
}

#[test]
fn a_definition_that_cannot_be_written_is_a_warning_behind_a_conversion_that_is_done() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    std::fs::create_dir(scene.path("a.qemu.sh")).unwrap();
    let line = ["convert", "--json", "--direct", "--force", "--profile", "kvm", text(&image)];
    let said: Value = serde_json::from_str(&run(&line).expect(0).stdout).unwrap();
    assert!(said["warnings"][0].as_str().unwrap().starts_with("the guest is fitted, but a definition"));
    assert_eq!(said["definitions"].as_array().map(Vec::len), Some(2));
    run(&["verify", text(&image)]).expect(0);
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

#[test]
fn a_filesystem_that_no_kernel_mounts_is_refused_by_its_features() {
    let scene = Scene::new();
    let disk = disk(&scene, Drivers::Virtio);
    let place = format!("{}?offset=1048576", text(&disk));
    tool("e2fsprogs", "debugfs", &["-w", "-R", "feature +FEATURE_I20", &place]).expect(0);
    let before = hash(&disk);
    for more in [&["--dry-run"][..], &[]] {
        let line = [&["convert", "--direct", "--profile", "kvm"], more, &[text(&disk)]].concat();
        run(&line).expect(3).says(&["no kernel known to unmoor mounts", "incompat 0x100000"]);
        assert_eq!(hash(&disk), before);
    }
    let said = run(&["inspect", text(&disk)]).expect(0).stdout;
    assert!(said.contains("partition 1: this ext4 has features that no kernel"), "{said}");
    let said: Value =
        serde_json::from_str(&run(&["inspect", "--json", text(&disk)]).expect(0).stdout).unwrap();
    assert_eq!(said["disks"][0]["mounting"][0]["unknown"][0], "incompat 0x100000");
}

#[test]
fn inspect_says_which_kernel_a_filesystem_needs() {
    let scene = Scene::new();
    let disk = disk(&scene, Drivers::Virtio);
    let place = format!("{}?offset=1048576", text(&disk));
    tool("e2fsprogs", "debugfs", &["-w", "-R", "feature +verity", &place]).expect(0);
    let rescue = scene.path("rescue");
    std::fs::create_dir(&rescue).unwrap();
    for (release, refused) in [("4.19.0-27-amd64", true), ("5.10.0-30-amd64", false)] {
        let facts = serde_json::json!({
            "release": release, "profile": "small", "modules": 0, "firmware": 0, "payload": 0, "kernel_size": 0,
            "initramfs_size": 0, "left_out": [],
        });
        std::fs::write(rescue.join("rescue.json"), facts.to_string()).unwrap();
        let said = run(&["inspect", "--rescue", text(&rescue), text(&disk)]).expect(0).stdout;
        let says =
            said.contains("(verity) for which Linux 5.4 or newer is needed, and this is 4.19.0-27-amd64");
        assert_eq!(says, refused, "{said}");
    }
}

#[test]
fn an_mbr_that_counts_in_sectors_of_4096_bytes_is_still_read_so_when_the_guest_is_fitted() {
    use std::os::unix::fs::FileExt;
    let scene = Scene::new();
    let disk = disk(&scene, Drivers::Virtio);
    let table = std::fs::File::options().read(true).write(true).open(&disk).unwrap();
    // The first entry's first sector and count, eight times fewer.
    for at in [0x1be + 8, 0x1be + 12] {
        let mut number = [0; 4];
        table.read_exact_at(&mut number, at).unwrap();
        table.write_all_at(&(u32::from_le_bytes(number) / 8).to_le_bytes(), at).unwrap();
    }
    drop(table);
    let image = scene.path("a.qcow2");
    let device = Loop::new(&disk, &["--sector-size", "4096"]);
    run(&["capture", device.path(), text(&image)]).expect(0);
    drop(device);
    run(&["convert", "--direct", "--profile", "kvm", text(&image)]).expect(0);
    run(&["verify", text(&image)]).expect(0);
    let said: Value =
        serde_json::from_str(&run(&["inspect", "--json", text(&image)]).expect(0).stdout).unwrap();
    let record = &said["manifest"]["disks"][0];
    assert_eq!((&record["sector_size"], &record["table"]["sector_size"]), (&4096.into(), &4096.into()));
    let partition = &record["table"]["partitions"][0];
    assert_eq!(partition["start"], 1 << 20, "{partition}");
    assert_eq!(record["conversions"].as_array().map(Vec::len), Some(1));
    fsck(&scene, &image);
    let script = std::fs::read_to_string(scene.path("a.qemu.sh")).unwrap();
    assert!(script.contains("logical_block_size=4096"), "{script}");
}

/// The UUID of its root filesystem, and the signature of its table, as blkid and sfdisk tell them.
fn identities(scene: &Scene, image: &Path) -> (String, String) {
    let raw = scene.path("identities.raw");
    tool("qemu-utils", "qemu-img", &["convert", "-O", "raw", text(image), text(&raw)]).expect(0);
    let root = ["-p", "-O", "1048576", "-o", "value", "-s", "UUID", text(&raw)];
    let root = tool("util-linux", "blkid", &root).expect(0).stdout;
    let table = tool("fdisk", "sfdisk", &["--disk-id", text(&raw)]).expect(0).stdout;
    std::fs::remove_file(raw).unwrap();
    (root.trim().to_owned(), table.trim().trim_start_matches("0x").to_owned())
}

#[test]
fn a_clone_has_other_uuids_with_all_references_and_is_given_back() {
    let scene = Scene::new();
    let raw = disk(&scene, Drivers::Virtio);
    embed_grub(&scene, &raw, "");
    let image = scene.path("a.qcow2");
    run(&["capture", text(&raw), text(&image)]).expect(0);
    let before = Guest::of(&scene, &image);
    let (fstab, grub) = (before.text("etc/fstab"), before.text("boot/grub/grub.cfg"));
    drop(before);
    let old = identities(&scene, &image);
    assert_eq!(old.0, UUID);

    let clone = ["convert", "--json", "--direct", "--profile", "kvm", "--identity", "clone", text(&image)];
    let said: Value = serde_json::from_str(&run(&clone).expect(0).stdout).unwrap();
    let changed = said["plan"]["identities"].as_array().unwrap();
    assert_eq!(changed.len(), 2, "{}", said["plan"]["findings"]);
    let new = identities(&scene, &image);
    assert_eq!(changed[0]["of"]["filesystem"]["new"].as_str(), Some(new.0.as_str()));
    assert_eq!(changed[1]["of"]["table"]["new"].as_str(), Some(new.1.as_str()));
    assert!(new.0 != old.0 && new.1 != old.1, "{new:?}");
    let verified = run(&["verify", text(&image)]).expect(0).stdout;
    assert!(verified.contains("changed since the capture: fitted to kvm"), "{verified}");
    fsck(&scene, &image);
    let guest = Guest::of(&scene, &image);
    assert_eq!(guest.text("etc/fstab"), fstab.replace("/dev/sda1", &format!("UUID={}", new.0)));
    let menu = guest.text("boot/grub/grub.cfg");
    assert_eq!((menu.matches(UUID).count(), menu.matches(&new.0).count()), (0, 2), "{menu}");
    drop(guest);

    run(&["convert", "--direct", "--undo", text(&image)]).expect(0);
    run(&["verify", text(&image)]).expect(0);
    fsck(&scene, &image);
    assert_eq!(identities(&scene, &image), old);
    let undone = Guest::of(&scene, &image);
    assert_eq!((undone.text("etc/fstab"), undone.text("boot/grub/grub.cfg")), (fstab, grub));
}

#[test]
fn a_clone_whose_grub_has_the_uuid_within_keeps_it_and_says_so() {
    let scene = Scene::new();
    let raw = disk(&scene, Drivers::Virtio);
    embed_grub(&scene, &raw, &format!("search.fs_uuid {UUID} root\n"));
    let image = scene.path("a.qcow2");
    run(&["capture", text(&raw), text(&image)]).expect(0);
    let dry = ["convert", "--json", "--dry-run", "--profile", "kvm", "--identity", "clone", text(&image)];
    let said: Value = serde_json::from_str(&run(&dry).expect(0).stdout).unwrap();
    let changed = said["plan"]["identities"].as_array().unwrap();
    assert!(changed.len() == 1 && changed[0]["of"]["table"].is_object(), "{changed:?}");
    let findings = said["plan"]["findings"].to_string();
    assert!(findings.contains("GRUB's core image on disk 0 finds it by its UUID"), "{findings}");
}
