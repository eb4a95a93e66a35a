// SPDX-License-Identifier: Apache-2.0
//! Image stores from outside: `unmoor images`, and the commands that take an image of a store where they take a file.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Scene, hash, noise, run, tool, unmoor};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A store in the scene's folder.
fn store(scene: &Scene, options: &[&str]) -> String {
    let store = format!("dir:{}", text(&scene.path("store")));
    run(&[&["images", "init", &store], options].concat()).expect(0);
    store
}

/// The result of a command that prints events before it.
fn result(stdout: &str) -> Value {
    let mut events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.rfind(|event| event["event"] == "result").unwrap()
}

/// (bytes, number) of all packs.
fn packs(store: &str) -> (u64, usize) {
    let mut found = (0, 0);
    let mut waiting = vec![PathBuf::from(store.strip_prefix("dir:").unwrap()).join("packs")];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found = (found.0 + path.metadata().unwrap().len(), found.1 + 1);
            }
        }
    }
    found
}

#[test]
fn a_machine_goes_into_a_store_and_comes_back_exactly() {
    let scene = Scene::new();
    let (store, disk) = (store(&scene, &[]), scene.ext4("disk.raw", 64));
    let image = format!("{store}/web01");
    run(&["capture", text(&disk), &image]).expect(0);
    run(&["verify", &image]).expect(0);
    // As a file's capture does it, so must the store's.
    let (file, back, other) = (scene.path("file.qcow2"), scene.path("back.raw"), scene.path("other.raw"));
    run(&["capture", text(&disk), text(&file)]).expect(0);
    run(&["restore", "--yes", text(&file), text(&other)]).expect(0);
    run(&["restore", "--yes", &image, text(&back)]).expect(0);
    assert_eq!(hash(&back), hash(&other));
    tool("e2fsprogs", "e2fsck", &["-fn", text(&back)]).expect(0);
    run(&["verify", &image, text(&back)]).expect(0);
    let qcow2 = scene.path("back.qcow2");
    run(&["restore", "--yes", &image, text(&qcow2)]).expect(0);
    tool("qemu-utils", "qemu-img", &["compare", text(&qcow2), text(&back)]).expect(0);
    File::options().write(true).open(&back).unwrap().write_all_at(&[0xEE; 4096], 1 << 10).unwrap();
    run(&["verify", &image, text(&back)]).expect(1);

    let shown = run(&["inspect", &image]).expect(0).stdout;
    assert!(shown.contains("ext4") && shown.contains("64.0 MiB") && shown.contains("captured 20"), "{shown}");
    let listed = run(&["images", "list", &store]).expect(0).stdout;
    assert!(listed.contains("MACHINE") && listed.contains("web01"), "{listed}");
    let images: Value =
        serde_json::from_str(&run(&["images", "list", "--json", &image]).expect(0).stdout).unwrap();
    let time = images["images"][0]["time"].as_str().unwrap().to_owned();
    let shown = run(&["images", "show", &format!("{image}@{time}")]).expect(0).stdout;
    assert!(shown.contains(&time) && shown.contains("disk 0"), "{shown}");
}

#[test]
fn the_next_capture_stores_what_changed_and_says_so() {
    let scene = Scene::new();
    let (store, disk) = (store(&scene, &[]), scene.ext4("disk.raw", 64));
    let image = format!("{store}/web01");
    let first = result(&run(&["capture", "--json", text(&disk), &image]).expect(0).stdout);
    let before = packs(&store).0;
    File::options().write(true).open(&disk).unwrap().write_all_at(&noise(4096, 3), 40 << 20).unwrap();
    let second = result(&run(&["capture", "--json", "--all", text(&disk), &image]).expect(0).stdout);
    assert_eq!(
        second["stored"]["since"],
        first["stored"]["image"].as_str().unwrap().rsplit_once('@').unwrap().1
    );
    let third = run(&["capture", "--all", text(&disk), &image]).expect(0).stdout;
    assert!(third.contains(" read, 0 B new since 20"), "{third}");
    // Of the deleted garbage, which --all keeps, and the 256 KiB around what changed.
    let added = second["stored"]["added"]["stored_bytes"].as_u64().unwrap();
    assert!(packs(&store).0 - before < added + 100_000, "{added}");
    for image in [first, second] {
        run(&["verify", image["stored"]["image"].as_str().unwrap()]).expect(0);
    }
    // Another machine of the same content.
    let other = format!("{store}/web02");
    let copy = result(&run(&["capture", "--json", "--all", text(&disk), &other]).expect(0).stdout);
    assert_eq!(copy["stored"]["added"]["new_bytes"], 0);
    run(&["verify", &other]).expect(0);
}

#[test]
fn a_capture_that_is_killed_leaves_a_store_that_verifies_and_is_not_begun_anew() {
    const SIZE: u64 = 72 << 20;
    let scene = Scene::new();
    let disk = scene.path("disk.raw");
    fs::write(&disk, noise(SIZE as usize, 11)).unwrap();
    let whole = store(&scene, &[]);
    let began = Instant::now();
    run(&["capture", text(&disk), &format!("{whole}/a")]).expect(0);
    let lasts = began.elapsed();
    let least = packs(&whole).0;
    let (mut state, mut resumed, mut complete) = (1u64, 0, 0);
    for round in 0..50u64 {
        let store = format!("dir:{}", text(&scene.path(&format!("store{round}"))));
        run(&["images", "init", &store]).expect(0);
        let image = format!("{store}/a");
        let mut child = unmoor()
            .args(["capture", text(&disk), &image])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A generator rather than a clock, so that a failure comes again: 0 to 1.2 times what a capture takes.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(lasts.mul_f64((state >> 33) as f64 / (1u64 << 31) as f64 * 1.2));
        child.kill().unwrap();
        child.wait().unwrap();
        let (arrived, count) = packs(&store);
        let images = run(&["images", "list", "--json", &store]).expect(0).stdout;
        let images: Value = serde_json::from_str(&images).unwrap();
        if !images["machines"].as_array().unwrap().is_empty() {
            complete += 1;
            run(&["verify", &image]).expect(0);
        }
        let again = result(&run(&["capture", "--json", text(&disk), &image]).expect(0).stdout);
        let sent = again["stored"]["added"]["stored_bytes"].as_u64().unwrap();
        // Nothing is there twice.
        assert!(packs(&store).0 <= least + 100_000, "round {round}: {arrived} in {count} packs, then {sent}");
        resumed += u32::from(count > 0 && sent < SIZE - (30 << 20));
        run(&["verify", &image]).expect(0);
        fs::remove_dir_all(store.strip_prefix("dir:").unwrap()).unwrap();
    }
    println!("{complete} were complete before they were killed, {resumed} went on with what had arrived");
    assert!(resumed > 0, "no round was killed between its first pack and its end");
}

#[test]
fn two_captures_at_once_are_both_complete() {
    let scene = Scene::new();
    let store = store(&scene, &[]);
    let (one, two) = (scene.path("one.raw"), scene.path("two.raw"));
    let mut bytes = noise(40 << 20, 1);
    fs::write(&one, &bytes).unwrap();
    bytes[..8 << 20].copy_from_slice(&noise(8 << 20, 2));
    fs::write(&two, &bytes).unwrap();
    let start = |disk: &Path, name: &str| {
        unmoor()
            .args(["capture", text(disk), &format!("{store}/{name}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let children = [start(&one, "one"), start(&two, "two"), start(&two, "one")];
    for mut child in children {
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(300) {
                child.kill().unwrap();
                panic!("a capture did not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(child.wait().unwrap().success());
    }
    let images: Value =
        serde_json::from_str(&run(&["images", "list", "--json", &format!("{store}/one")]).expect(0).stdout)
            .unwrap();
    for image in images["images"].as_array().unwrap() {
        run(&["verify", &format!("{store}/one@{}", image["time"].as_str().unwrap())]).expect(0);
    }
    assert_eq!(images["images"].as_array().unwrap().len(), 2);
    run(&["verify", &format!("{store}/two")]).expect(0);
}

#[test]
fn an_encrypted_store_opens_with_its_passphrase_or_key_file_alone() {
    let scene = Scene::new();
    let (words, wrong, key) = (scene.path("words"), scene.path("wrong"), scene.path("key"));
    fs::write(&words, "correct horse\nsecond line\n").unwrap();
    fs::write(&wrong, "battery staple\n").unwrap();
    fs::write(&key, noise(64, 5)).unwrap();
    let with = |file: &Path| ["--password-file".to_owned(), text(file).to_owned()];
    let store = format!("dir:{}", text(&scene.path("store")));
    let disk = scene.ext4("disk.raw", 32);
    let image = format!("{store}/web01");
    let call = |words: &[&str], options: &[String]| {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        run(&[words, &options].concat())
    };
    call(&["images", "init", &store, "--encrypt"], &with(&words)).expect(0);
    call(&["capture", text(&disk), &image], &with(&words)).expect(0);
    call(&["verify", &image], &with(&words)).expect(0);
    call(&["verify", &image], &with(&wrong)).expect(3).says(&["wrong passphrase"]);
    run(&["verify", &image]).expect(3).says(&["encrypted", "--password-file", "UNMOOR_PASSWORD"]);
    let listed = call(&["images", "list", &store], &with(&words)).expect(0).stdout;
    assert!(listed.contains("web01"), "{listed}");
    let named = tool("findutils", "find", &[store.strip_prefix("dir:").unwrap(), "-name", "*web01*"])
        .expect(0)
        .stdout;
    assert_eq!(named, "");
    call(&["images", "key", "add", &store, "--new-key-file", text(&key)], &with(&words)).expect(0);
    run(&["verify", &image, "--store-key", text(&key)]).expect(0);
    let env = unmoor().args(["verify", &image]).env("UNMOOR_PASSWORD", "correct horse").output().unwrap();
    assert!(env.status.success());
    let keys = call(&["images", "key", "list", "--json", &store], &with(&words)).expect(0).stdout;
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let first = keys["keys"].as_array().unwrap().iter().find(|key| key["kind"] == "passphrase").unwrap();
    let id = first["id"].as_str().unwrap();
    run(&["images", "key", "remove", &store, id, "--store-key", text(&key)]).expect(0);
    call(&["verify", &image], &with(&words)).expect(3);
    let back = scene.path("back.raw");
    run(&["restore", "--yes", &image, text(&back), "--store-key", text(&key)]).expect(0);
    tool("e2fsprogs", "e2fsck", &["-fn", text(&back)]).expect(0);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_to_do() {
    let scene = Scene::new();
    let disk = scene.ext4("disk.raw", 32);
    let nowhere = format!("dir:{}/web01", text(&scene.path("nowhere")));
    run(&["capture", text(&disk), &nowhere]).expect(3).says(&["images init"]);
    assert!(!scene.path("nowhere").exists());
    let store = store(&scene, &[]);
    run(&["images", "init", &store]).expect(3).says(&["there is one already"]);
    run(&["verify", &format!("{store}/web01")]).expect(3).says(&["there is none"]);
    let image = format!("{store}/web01");
    run(&["capture", text(&disk), &format!("{image}@20261124T000000Z")]).expect(2).says(&["leave out @TIME"]);
    run(&["capture", text(&disk), &format!("{store}/we b01")]).expect(2).says(&["letters, digits"]);
    run(&["capture", text(&disk), &image, "--compress", "zlib"]).expect(2).says(&["zstd"]);
    run(&["capture", text(&disk), &image, "--since", "web77"]).expect(3).says(&["there is none"]);
    run(&["capture", text(&disk), text(&scene.path("a.qcow2")), "--since", "web01"])
        .expect(2)
        .says(&["--since"]);
    run(&["capture", text(&disk), &image]).expect(0);
    assert_eq!(fs::read_dir(scene.path("store/leases")).unwrap().count(), 0);
}

#[test]
fn stores_and_images_that_are_taken_for_one_another_are_told_apart() {
    let scene = Scene::new();
    let disk = scene.path("disk.raw");
    fs::write(&disk, noise(3 << 20, 1)).unwrap();
    let (disk, out) = (text(&disk), scene.path("out.raw"));
    let nowhere = format!("dir:{}", text(&scene.path("nowhere")));
    for command in ["list", "verify", "prune"] {
        let said = run(&["images", command, &nowhere]).expect(3).says(&["there is none", "images init"]);
        assert!(said.stderr.contains(text(&scene.path("nowhere"))), "{}", said.stderr);
    }
    let store = store(&scene, &[]);
    let image = format!("{store}/web01");
    run(&["capture", disk, &image]).expect(0);
    let whole = format!("add the name of a machine in it, {store}/NAME");
    let (mount, out) = (scene.path("mount"), text(&out));
    fs::create_dir(&mount).unwrap();
    for line in [
        &["capture", disk, &store][..],
        &["restore", "--yes", &store, out],
        &["verify", &store],
        &["inspect", &store],
        &["nbd", &store],
        &["convert", "--profile", "kvm", &store],
        &["images", "show", &store],
        &["images", "diff", &store],
        &["images", "export", &store, out],
        &["images", "import", disk, &store],
        &["images", "mount", &store, text(&mount)],
    ] {
        run(line).expect(2).says(&[&whole]);
    }
    run(&["images", "remove", "--yes", "--all", &store]).expect(2).says(&["it is a whole store"]);
    for line in [&["images", "prune", &image][..], &["images", "key", "list", &image]] {
        run(line).expect(2).says(&["web01 is a machine in the store", "give the store"]);
    }
    assert!(run(&["images", "key", "list", &store]).expect(0).stdout.contains("not encrypted"));
    run(&["images", "key", "add", &store]).expect(3).says(&["not encrypted"]);
    run(&["images", "diff", &image]).expect(2).says(&["has no image before"]);
    // What is no place for a store.
    let file = format!("dir:{disk}");
    run(&["images", "init", &file]).expect(3).says(&["a store is a directory"]);
    run(&["images", "list", &file]).expect(3).says(&["a store is a directory"]);
    fs::remove_file(scene.path("store/store.json")).unwrap();
    run(&["images", "list", &store]).expect(1).says(&["store.json is gone", "copy of the store"]);
    // What S3's client would panic at.
    for (endpoint, bucket, words) in [
        ("127.0.0.1:9000", "s3://b/x", "begins with http://"),
        ("http://127.0.0.1:9", "s3://b ucket/x", "letters, digits"),
    ] {
        let mut command = unmoor();
        command.envs([
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
        ]);
        let said: common::Run = command.args(["images", "list", bucket]).output().unwrap().into();
        said.expect(2).says(&[words]);
    }
}

#[test]
fn of_a_machine_with_two_disks_each_comes_back_and_is_verified_by_name() {
    let scene = Scene::new();
    let (store, one) = (store(&scene, &[]), scene.ext4("one.raw", 64));
    let two = scene.path("two.raw");
    fs::write(&two, noise(3 << 20, 5)).unwrap();
    let image = format!("{store}/db01");
    run(&["capture", text(&one), text(&two), &image]).expect(0);
    let (first, second) = (scene.path("first.raw"), scene.path("second.raw"));
    let (to_first, to_second) = (format!("one.raw={}", text(&first)), format!("1={}", text(&second)));
    run(&["restore", &image, "--disk", &to_first, "--disk", &to_second]).expect(0);
    run(&["verify", &image, text(&first)]).expect(2).says(&["--of", "two.raw"]);
    run(&["verify", &image, text(&first), "--of", "three"]).expect(2).says(&["no disk three"]);
    run(&["verify", &image, text(&first), "--of", "one.raw"]).expect(0);
    run(&["verify", &image, text(&second), "--of", "1"]).expect(0);
    run(&["verify", &image, text(&second), "--of", "0"]).expect(1).says(&["another image"]);
    assert_eq!(hash(&second), hash(&two));
}
