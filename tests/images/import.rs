// SPDX-License-Identifier: Apache-2.0
//! `unmoor images import`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::{Scene, hash, noise, run, tool};
use crate::support::{MIB, disk, json, manifest, store, text};

#[test]
fn disk_images_of_every_format_become_what_a_capture_of_the_disk_makes() {
    let scene = Scene::new();
    let (store, raw) = (store(&scene, "store"), scene.ext4("disk.raw", 48));
    run(&["capture", text(&raw), &format!("{store}/captured")]).expect(0);
    let root = manifest(&format!("{store}/captured"))["disks"][0]["root"].clone();
    for (format, name) in
        [("qcow2", "a.qcow2"), ("vmdk", "b.vmdk"), ("vhdx", "c.vhdx"), ("vdi", "d.vdi"), ("vpc", "e.vhd")]
    {
        let path = scene.path(name);
        // A VHD is as large as a geometry allows, but for this option.
        let options: &[&str] = if format == "vpc" { &["-o", "force_size=on"] } else { &[] };
        let line = [&["convert", "-f", "raw", "-O", format], options, &[text(&raw), text(&path)]].concat();
        tool("qemu-utils", "qemu-img", &line).expect(0);
        let image = format!("{store}/{format}");
        let said = run(&["images", "import", text(&path), &image]).expect(0).stdout;
        // All that it has is there already.
        assert!(said.contains("0 B new") && said.contains("complete"), "{said}");
        assert_eq!(manifest(&image)["disks"][0]["root"], root, "{format}");
        run(&["verify", &image]).expect(0);
    }
    run(&["images", "import", "--all", text(&raw), &format!("{store}/all")]).expect(0);
    let back = scene.path("back.raw");
    run(&["images", "export", &format!("{store}/all"), text(&back)]).expect(0);
    assert_eq!(hash(&back), hash(&raw));
    run(&["images", "import", text(&raw), text(&back)]).expect(2).says(&["the last argument is the target"]);
    run(&["images", "import", text(&scene.path("none.raw")), &format!("{store}/x")]).expect(1);
}

#[test]
fn an_export_comes_back_with_its_facts_and_a_changed_one_is_noticed() {
    let scene = Scene::new();
    let (first, second) = (store(&scene, "first"), store(&scene, "second"));
    let (one, two) = (scene.ext4("one.raw", 32), scene.path("two.raw"));
    fs::write(&two, noise(3 << 20, 5)).unwrap();
    run(&["capture", text(&one), text(&two), &format!("{first}/db01")]).expect(0);
    let qcow2 = scene.path("db.qcow2");
    run(&["images", "export", &format!("{first}/db01"), text(&qcow2)]).expect(0);
    // The first disk's file stands for all; so does the manifest.
    for (source, name) in [(qcow2.clone(), "a"), (scene.path("db.unmoor.json"), "b")] {
        let image = format!("{second}/{name}");
        run(&["images", "import", text(&source), &image]).expect(0);
        run(&["verify", &image]).expect(0);
        assert_eq!(manifest(&image), manifest(&format!("{first}/db01")));
        let listed = |image: &str| json(&["images", "list", image])["images"][0]["time"].clone();
        assert_eq!(listed(&image), listed(&format!("{first}/db01")), "the time is that of the capture");
    }
    let raw = scene.path("alone.raw");
    run(&["images", "export", "--disk", "1", &format!("{first}/db01"), text(&raw)]).expect(0);
    File::options().write(true).open(&raw).unwrap().write_all_at(b"changed", 1 << 20).unwrap();
    run(&["images", "import", text(&raw), &format!("{second}/c")])
        .expect(1)
        .says(&["--ignore-manifest", "verify"]);
    run(&["images", "list", &format!("{second}/c")]).expect(3);
    run(&["images", "import", "--ignore-manifest", text(&raw), &format!("{second}/c")]).expect(0);
    run(&["images", "import", text(&raw), text(&two), &format!("{second}/d")])
        .expect(2)
        .says(&["some have a manifest"]);
}

#[test]
fn a_directory_of_clonezilla_becomes_a_machine_that_is_restored() {
    let scene = Scene::new();
    let store = store(&scene, "store");
    let raw =
        disk(&scene, "disk.raw", 40, &["mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard", "-d", "tests"]);
    let (folder, part) = (scene.path("web01"), scene.path("part"));
    fs::create_dir(&folder).unwrap();
    let put = |name: &str, content: &[u8]| fs::write(folder.join(name), content).unwrap();
    put("disk", b"sda\n");
    put("parts", b"sda1\n");
    let bytes = fs::read(&raw).unwrap();
    put("sda-gpt-1st", &bytes[..34 * 512]);
    put("sda-mbr", &bytes[..512]);
    let named = |text: String, from: &Path| {
        text.replace(&format!("{}1 :", from.display()), "/dev/sda1 :")
            .replace(&from.display().to_string(), "/dev/sda")
    };
    let dump = tool("fdisk", "sfdisk", &["-d", text(&raw)]).expect(0).stdout;
    put("sda-pt.sf", named(dump, &raw).as_bytes());
    let listed = tool("parted", "parted", &["-s", text(&raw), "unit", "s", "print"]).expect(0).stdout;
    put("sda-pt.parted", named(listed, &raw).as_bytes());
    fs::write(&part, &bytes[MIB as usize..41 << 20]).unwrap();
    let (saved, log) = (folder.join("sda1.ext4-ptcl-img"), scene.path("log"));
    tool(
        "partclone",
        "partclone.ext4",
        &["-q", "-c", "-s", text(&part), "-O", text(&saved), "-L", text(&log)],
    )
    .expect(0);
    tool("gzip", "gzip", &["-1", text(&saved)]).expect(0);
    let packed = folder.join("sda1.ext4-ptcl-img.gz");
    tool("coreutils", "split", &["-b", "20K", "-a", "2", text(&packed), &format!("{}.", text(&packed))])
        .expect(0);
    fs::remove_file(&packed).unwrap();

    let image = format!("{store}/web01");
    run(&["images", "import", text(&folder), &image]).expect(0);
    run(&["verify", &image]).expect(0);
    let back = scene.path("back.raw");
    run(&["restore", "--yes", &image, text(&back)]).expect(0);
    assert!(tool("gdisk", "sgdisk", &["-v", text(&back)]).expect(0).stdout.contains("No problems found"));
    let restored = fs::read(&back).unwrap();
    fs::write(&part, &restored[MIB as usize..41 << 20]).unwrap();
    tool("e2fsprogs", "e2fsck", &["-fn", text(&part)]).expect(0);
    // What unmoor's own capture keeps is the same, but for what the two count as used.
    let shown = run(&["inspect", &image]).expect(0).stdout;
    assert!(shown.contains("ext4"), "{shown}");
    for name in ["store.rs", "common/mod.rs"] {
        let out = scene.path("out");
        tool("e2fsprogs", "debugfs", &["-R", &format!("dump {name} {}", text(&out)), text(&part)]).expect(0);
        assert_eq!(fs::read(&out).unwrap(), fs::read(Path::new("tests").join(name)).unwrap());
    }
    // One partition alone is an image too.
    let data = format!("{store}/data");
    run(&["images", "import", text(&folder.join("sda1.ext4-ptcl-img.gz.aa")), &data]).expect(0);
    run(&["restore", "--yes", &data, text(&scene.path("data.raw"))]).expect(0);
    tool("e2fsprogs", "e2fsck", &["-fn", text(&scene.path("data.raw"))]).expect(0);
    // A part that is missing, or damaged, is noticed before there is an image.
    let second = folder.join("sda1.ext4-ptcl-img.gz.ab");
    let mut damaged = fs::read(&second).unwrap();
    damaged[1000] ^= 1;
    fs::write(&second, damaged).unwrap();
    run(&["images", "import", text(&folder), &format!("{store}/damaged")]).expect(1);
    fs::remove_file(&second).unwrap();
    run(&["images", "import", text(&folder), &format!("{store}/damaged")])
        .expect(1)
        .says(&["part 1 is missing"]);
    run(&["images", "list", &format!("{store}/damaged")]).expect(3);
}
