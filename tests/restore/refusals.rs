// SPDX-License-Identifier: Apache-2.0
//! What restore will not write to, and why: exit status 3, and not a byte changed.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::Path;

use crate::disks::{Scene, partition};
use crate::past::md_1;
use crate::support::{Loop, MIB, Mounted, can_loop, noise, run, text, tool};

/// The disk is refused for this reason, and stays as it is.
#[track_caller]
fn refused(image: &Path, target: &Path, backing: &Path, more: &[&str], words: &[&str]) {
    let before = fs::read(backing).unwrap();
    let arguments = [&["restore", text(image), text(target)], more].concat();
    run(&arguments).expect(3).says(words);
    assert!(fs::read(backing).unwrap() == before, "{words:?}: refused, and yet written to");
}

#[test]
fn a_device_that_somebody_uses_is_refused() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let image = scene.gpt("source.raw", &[("noise", 4)], 0).captured("image.qcow2");
    let backing = scene.sparse("target.raw", 16 * MIB);
    tool("e2fsprogs", "mke2fs", &["-q", "-F", "-t", "ext4", text(&backing)]).expect(0);

    let device = Loop::new(&backing, &[]);
    {
        let mounted = Mounted::new(&["-t", "ext4", "-o", "noatime", text(device.path())]);
        refused(
            &image,
            device.path(),
            &backing,
            &["--yes"],
            &["mounted read-write at", text(mounted.path())],
        );
    }
    {
        let _mounted = Mounted::new(&["-t", "ext4", "-o", "ro", text(device.path())]);
        refused(&image, device.path(), &backing, &["--yes"], &["in use", "read-only"]);
    }
    {
        // Another loop device over the same file is the same disk.
        let twin = Loop::new(&backing, &[]);
        let _mounted = Mounted::new(&["-t", "ext4", text(twin.path())]);
        refused(&image, device.path(), &backing, &["--yes"], &["mounted read-write at"]);
    }
    {
        const O_EXCL: i32 = 0o200;
        let _held = File::options().read(true).custom_flags(O_EXCL).open(device.path()).unwrap();
        refused(&image, device.path(), &backing, &["--yes"], &["claimed by somebody"]);
    }
    // Nobody is there to confirm.
    refused(&image, device.path(), &backing, &[], &["not confirmed", "--yes"]);
    drop(device);

    let device = Loop::new(&backing, &["--read-only"]);
    refused(&image, device.path(), &backing, &["--yes"], &["read-only", "blockdev --setrw"]);
    drop(device);

    tool("util-linux", "mkswap", &["-q", text(&backing)]).expect(0);
    let device = Loop::new(&backing, &[]);
    if tool("mount", "swapon", &[text(device.path())]).code == Some(0) {
        // The kernel may have swapped meanwhile, so the content is not compared.
        let outcome = run(&["restore", "--yes", text(&image), text(device.path())]);
        tool("mount", "swapoff", &[text(device.path())]).expect(0);
        outcome.expect(3).says(&["in use as swap", "swapoff"]);
    } else {
        println!("skipped: this host allows no swap on a loop device");
    }
    run(&["restore", "--yes", "--size", "16M", text(&image), text(device.path())]).expect(2);
    run(&["restore", "--yes", text(&image), "/dev/null"]).expect(2).says(&["neither a block device"]);
    run(&["restore", "--yes", text(&image), "/dev/unmoor-nothing"]).expect(1);
    run(&["restore", "--yes", text(&image), text(device.path())]).expect(0);
}

#[test]
fn an_identity_that_another_disk_of_the_host_has_is_refused() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let backing = scene.sparse("target.raw", 40 * MIB);
    let group = scene.sparse("group.raw", 32 * MIB);
    volume_group(&group);
    let mirror = scene.sparse("mirror.raw", 16 * MIB);
    partition(&mirror, "label: dos\nstart=2048, size=20480, type=fd\n");
    File::options()
        .write(true)
        .open(&mirror)
        .unwrap()
        .write_all_at(&md_1(4096, b"of one test only"), MIB + 4096)
        .unwrap();
    // Only the array is to be the same.
    let mirror_again = scene.path("mirror-again.raw");
    fs::copy(&mirror, &mirror_again).unwrap();
    File::options().write(true).open(&mirror_again).unwrap().write_all_at(b"abcd", 440).unwrap();

    let gpt = scene.gpt("gpt.raw", &[("noise", 4)], 0).path;
    let mbr = scene.mbr("mbr.raw", &[("noise", 4), ("noise", 2)], 0).path;
    let cases = [
        (&gpt, &gpt, "disk identifier"),
        (&mbr, &mbr, "disk identifier"),
        (&group, &group, "volume group"),
        (&mirror, &mirror_again, "md array"),
    ];
    for (index, (disk, attached, words)) in cases.into_iter().enumerate() {
        let image = scene.path(&format!("{index}.qcow2"));
        run(&["capture", text(disk), text(&image)]).expect(0);
        let device = Loop::new(&backing, &[]);
        let other = Loop::new(attached, &[]);
        let words = [words, text(other.path()), "--allow-duplicates"];
        refused(&image, device.path(), &backing, &["--yes", "--no-grow"], &words);
        let arguments = ["--yes", "--no-grow", "--allow-duplicates", text(&image), text(device.path())];
        run(&[&["restore"][..], &arguments].concat()).expect(0).says(&["warning", words[0]]);
        drop(other);
        // Now the target is the only one, under two names.
        let _twin = Loop::new(&backing, &[]);
        run(&["restore", "--yes", "--no-grow", text(&image), text(device.path())]).expect(0);
    }
}

/// A physical volume on the whole disk with a group that has no logical volume, in the form that vgcreate gives it.
fn volume_group(path: &Path) {
    let device = Loop::new(path, &[]);
    let config = format!(
        "devices {{ filter=[\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 scan=[\"/dev\"] }} global {{ use_lvmlockd=0 }} \
         activation {{ udev_sync=0 udev_rules=0 }} backup {{ backup=0 archive=0 }}",
        text(device.path())
    );
    let name = format!("unmoor{}", std::process::id());
    tool("lvm2", "vgcreate", &["--config", &config, "--quiet", "--yes", &name, text(device.path())])
        .expect(0);
}

#[test]
fn a_target_that_is_the_image_or_another_target_is_refused() {
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("noise", 4)], 0);
    let image = source.captured("image.raw");
    symlink(&image, scene.path("link.raw")).unwrap();
    fs::hard_link(&image, scene.path("hard.raw")).unwrap();
    let bytes = fs::read(&image).unwrap();
    for name in ["image.raw", "link.raw", "hard.raw", "image.unmoor.json", "image.raw.map"] {
        let target = scene.path(name);
        run(&["restore", "--yes", "--force", "--format", "raw", text(&image), text(&target)])
            .expect(3)
            .says(&["is the image"]);
    }
    if can_loop() {
        let device = Loop::new(&image, &[]);
        run(&["restore", "--yes", text(&image), text(device.path())]).expect(3);
    }
    assert!(fs::read(&image).unwrap() == bytes);

    // A file is replaced only by force, and an image with a manifest not even so.
    let existing = scene.path("existing.raw");
    fs::write(&existing, "precious").unwrap();
    run(&["restore", text(&image), text(&existing)]).expect(3).says(&["--force"]);
    let other = source.captured("other.raw");
    run(&["restore", "--force", text(&image), text(&other)]).expect(3).says(&["other.unmoor.json"]);
    assert_eq!(fs::read(&existing).unwrap(), b"precious");
    run(&["restore", "--force", text(&image), text(&existing)]).expect(0);
    assert!(fs::read(&existing).unwrap() == fs::read(&source.path).unwrap());
    run(&["restore", text(&image), text(&scene.path("odd.name"))]).expect(2).says(&["--format"]);
    run(&["restore", text(&image), text(&scene.path("no/folder.raw"))]).expect(1);
}

#[test]
fn an_image_that_does_not_match_its_manifest_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16)], 0);
    let image = source.captured("image.raw");
    // Somebody wrote where nothing was in use.
    let hole = scene.path("image.raw.map");
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&noise(4096, 5), 15 * MIB).unwrap();
    let target = scene.path("target.raw");
    run(&["restore", text(&image), text(&target)]).expect(1).says(&["--ignore-manifest"]);
    run(&["restore", "--ignore-manifest", text(&image), text(&target)]).expect(0);
    assert!(fs::read(&target).unwrap() == fs::read(&image).unwrap());
    // A map that was changed is no map.
    let mut map = fs::read(&hole).unwrap();
    *map.last_mut().unwrap() ^= 1;
    fs::write(&hole, map).unwrap();
    run(&["restore", "--force", text(&image), text(&target)]).expect(1).says(&["BLAKE3"]);
}
