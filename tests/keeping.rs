// SPDX-License-Identifier: Apache-2.0
//! Keeping a store, from outside: verify, remove, prune, copy, rekey.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Scene, noise, run, unmoor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const MIB: usize = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A store in the scene's folder.
fn store(scene: &Scene, name: &str, options: &[&str]) -> String {
    let store = format!("dir:{}", text(&scene.path(name)));
    run(&[&["images", "init", &store], options].concat()).expect(0);
    store
}

fn folder(store: &str) -> PathBuf {
    store.strip_prefix("dir:").unwrap().into()
}

/// Files below a folder, and their bytes.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let (mut found, mut waiting) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let bytes = path.metadata().unwrap().len();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

fn pack_bytes(store: &str) -> u64 {
    files(&folder(store).join("packs")).iter().map(|(_, bytes)| bytes).sum()
}

/// The one document of a command.
fn document(arguments: &[&str], code: i32) -> Value {
    serde_json::from_str(&run(arguments).expect(code).stdout).unwrap()
}

fn times(image: &str) -> Vec<String> {
    let listed = document(&["images", "list", "--json", image], 0);
    listed["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["time"].as_str().unwrap().to_owned())
        .collect()
}

/// Three images of a machine, of which the second and third have much in common.
fn three_generations(scene: &Scene, store: &str) -> String {
    let (disk, image) = (scene.path("disk.raw"), format!("{store}/web01"));
    let mut bytes = noise(40 * MIB, 1);
    for round in 0..3 {
        bytes[..(20 + round) * MIB].copy_from_slice(&noise((20 + round) * MIB, 10 + round as u64));
        fs::write(&disk, &bytes).unwrap();
        run(&["capture", text(&disk), &image]).expect(0);
    }
    image
}

#[test]
fn rules_say_what_goes_and_prune_gives_its_room_back() {
    let scene = Scene::new();
    let store = store(&scene, "store", &[]);
    let image = three_generations(&scene, &store);
    let before = pack_bytes(&store);
    let rules = ["--keep-last", "1", "--keep-yearly", "3"];
    let dry = document(&[&["images", "prune", "--json", "--dry-run", &store], rules.as_slice()].concat(), 0);
    let images = dry["images"].as_array().unwrap();
    assert_eq!(images.iter().filter(|image| image["stays"] == true).count(), 1, "{dry}");
    assert!(
        images[0]["because"].to_string().contains("one of the latest")
            && images[0]["because"].to_string().contains("of year 20")
    );
    assert_eq!((pack_bytes(&store), times(&image).len()), (before, 3));
    // Images do not go without a word.
    run(&[&["images", "prune", &store], rules.as_slice()].concat()).expect(3).says(&["--yes"]);
    let shown = run(&[&["images", "prune", "--yes", &store], rules.as_slice()].concat()).expect(0).stdout;
    assert!(shown.contains("goes") && shown.contains("stays") && shown.contains("freed"), "{shown}");
    assert_eq!(times(&image).len(), 1);
    let after = pack_bytes(&store);
    assert!(after < 42 * MIB as u64 && before > 80 * MIB as u64, "{before} {after}");
    run(&["images", "verify", "--read-data", &store]).expect(0);
    run(&["verify", &image]).expect(0);
    let back = scene.path("back.raw");
    run(&["restore", "--yes", &image, text(&back)]).expect(0);
    assert!(fs::read(&back).unwrap() == fs::read(scene.path("disk.raw")).unwrap());
    let listed = document(&["images", "list", "--json", &store], 0);
    // All but headers and tables.
    assert!(listed["machines"][0]["unique_bytes"].as_u64().unwrap() > after - after / 1000, "{listed}");
    let listed = run(&["images", "list", &store]).expect(0).stdout;
    assert!(listed.contains("UNIQUE") && listed.contains("SIZE"), "{listed}");
}

#[test]
fn remove_takes_images_that_are_named_and_no_others() {
    let scene = Scene::new();
    let store = store(&scene, "store", &[]);
    let image = three_generations(&scene, &store);
    let all = times(&image);
    let first = format!("{image}@{}", all[0]);
    run(&["images", "remove", &image]).expect(2).says(&["--all"]);
    run(&["images", "remove", &first]).expect(3).says(&["--yes"]);
    run(&["images", "remove", "--yes", &format!("{image}@1999")]).expect(3);
    assert_eq!(times(&image), all);
    let removed = document(&["images", "remove", "--json", "--yes", &first], 0);
    assert_eq!(removed["removed"][0]["time"], Value::from(all[0].clone()));
    assert_eq!(times(&image), all[1..]);
    run(&["images", "remove", "--yes", "--all", &image]).expect(0);
    let listed = document(&["images", "list", "--json", &store], 0);
    assert!(listed["machines"].as_array().unwrap().is_empty());
    run(&["images", "prune", &store]).expect(0);
    assert_eq!(pack_bytes(&store), 0);
}

#[test]
fn verify_names_what_is_hurt_and_the_next_capture_mends_it() {
    let scene = Scene::new();
    let store = store(&scene, "store", &[]);
    let disk = scene.ext4("disk.raw", 64);
    let image = format!("{store}/web01");
    run(&["capture", text(&disk), &image]).expect(0);
    let other = scene.path("other.raw");
    fs::write(&other, noise(3 * MIB, 5)).unwrap();
    run(&["capture", text(&other), &format!("{store}/other")]).expect(0);
    run(&["images", "verify", "--read-data", &store]).expect(0);
    let (pack, bytes) =
        files(&folder(&store).join("packs")).into_iter().max_by_key(|(_, bytes)| *bytes).unwrap();
    let mut content = fs::read(&pack).unwrap();
    content[bytes as usize / 2] ^= 1;
    fs::write(&pack, content).unwrap();
    run(&["images", "verify", &store]).expect(0);
    let found = document(&["images", "verify", "--json", "--read-data", &store], 1);
    assert_eq!(found["whole"], false);
    let hurt = found["report"]["hurt"].as_array().unwrap();
    assert!(hurt.len() == 1 && hurt[0]["machine"] == "web01", "{found}");
    let range = &hurt[0]["disks"][0]["ranges"][0];
    let (start, end) = (range["start"].as_u64().unwrap(), range["end"].as_u64().unwrap());
    assert!(end - start == 256 << 10 && start % (256 << 10) == 0, "{range}");
    // As `unmoor verify` finds it, which reads the image.
    let read = run(&["verify", &image]).expect(1).stdout;
    assert!(read.contains(&format!("{start:#x} to {end:#x}")), "{read}");
    run(&["images", "verify", "--read-data", &format!("{store}/other")]).expect(0);
    run(&["images", "verify", "--read-data", "--quarantine", &store]).expect(1);
    run(&["capture", text(&disk), &image]).expect(0);
    for time in times(&image) {
        run(&["verify", &format!("{image}@{time}")]).expect(0);
    }
    run(&["images", "prune", &store]).expect(0);
    run(&["images", "verify", "--read-data", &store]).expect(0);
    assert!(!pack.exists());
}

/// `folder` again by hard links: objects are replaced and removed, never changed.
fn linked(from: &Path, to: &Path) {
    for (path, _) in files(from) {
        let link = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::hard_link(path, link).unwrap();
    }
}

#[test]
fn a_prune_that_is_killed_leaves_every_image_complete_and_the_next_ends_its_work() {
    let scene = Scene::new();
    let whole = store(&scene, "store", &[]);
    let image = three_generations(&scene, &whole);
    let small = scene.path("small.raw");
    for round in 0..20 {
        fs::write(&small, noise(MIB, 100 + round)).unwrap();
        run(&["capture", text(&small), &format!("{whole}/small")]).expect(0);
    }
    let latest = times(&image).pop().unwrap();
    let arguments = ["--yes", "--keep-last", "1"];
    let clean = scene.path("clean");
    linked(&folder(&whole), &clean);
    let clean = format!("dir:{}", text(&clean));
    let began = Instant::now();
    run(&[&["images", "prune", &clean], arguments.as_slice()].concat()).expect(0);
    let lasts = began.elapsed();
    let least = pack_bytes(&clean);
    let (mut state, mut midway) = (7u64, 0);
    for round in 0..50u64 {
        let path = scene.path(&format!("store{round}"));
        linked(&folder(&whole), &path);
        let store = format!("dir:{}", text(&path));
        let mut child = unmoor()
            .args(["images", "prune", &store])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(lasts.mul_f64((state >> 33) as f64 / (1u64 << 31) as f64 * 1.1));
        child.kill().unwrap();
        child.wait().unwrap();
        let objects = files(&path);
        let left = |kind: &str| objects.iter().any(|(file, _)| file.starts_with(path.join(kind)));
        midway += u32::from(left("leases"));
        run(&["images", "verify", "--read-data", &store]).expect(0);
        for image in [format!("{store}/web01@{latest}"), format!("{store}/small")] {
            run(&["verify", &image]).expect(0);
        }
        // Nobody has to wait for a process that this kernel knows to be gone.
        run(&[&["images", "prune", &store], arguments.as_slice()].concat()).expect(0);
        let checked = document(&["images", "verify", "--json", "--read-data", &store], 0);
        assert_eq!(checked["report"]["notes"].as_array().unwrap().len(), 0, "round {round}: {checked}");
        assert!(pack_bytes(&store) <= least + 100_000, "round {round}: {} of {least}", pack_bytes(&store));
        run(&["verify", &format!("{store}/web01")]).expect(0);
        fs::remove_dir_all(&path).unwrap();
    }
    assert!(midway > 15, "killed while it worked: {midway}");
}

#[test]
fn small_packs_are_put_together_and_a_prune_that_is_killed_meanwhile_loses_none() {
    let scene = Scene::new();
    let whole = store(&scene, "store", &[]);
    let disk = scene.path("disk.raw");
    let mut content = noise(24 * MIB, 9);
    let mut hashes = Vec::new();
    for round in 0..20 {
        content[round * MIB + 77] ^= 1;
        fs::write(&disk, &content).unwrap();
        run(&["capture", text(&disk), &format!("{whole}/m")]).expect(0);
        hashes.push(common::hash(&disk));
    }
    let all = times(&format!("{whole}/m"));
    let packs = |store: &str| files(&folder(store).join("packs")).len();
    assert_eq!(packs(&whole), 20);
    let clean = scene.path("clean");
    linked(&folder(&whole), &clean);
    let clean = format!("dir:{}", text(&clean));
    let would = run(&["images", "prune", "--dry-run", &clean]).expect(0).stdout;
    assert!(would.contains("19 small packs of") && would.contains("would be put together"), "{would}");
    assert_eq!(packs(&clean), 20);
    let began = Instant::now();
    run(&["images", "prune", &clean]).expect(0);
    let lasts = began.elapsed();
    assert_eq!(packs(&clean), 2);
    let again = document(&["images", "prune", "--json", &clean], 0);
    assert_eq!(again["report"]["merged_packs"], 0, "{again}");
    let mut state = 3u64;
    for round in 0..8u64 {
        let path = scene.path(&format!("store{round}"));
        linked(&folder(&whole), &path);
        let store = format!("dir:{}", text(&path));
        let mut command = unmoor();
        command.args(["images", "prune", &store]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(lasts.mul_f64((state >> 33) as f64 / (1u64 << 31) as f64));
        child.kill().unwrap();
        child.wait().unwrap();
        run(&["images", "verify", "--read-data", &store]).expect(0);
        run(&["images", "prune", &store]).expect(0);
        let checked = document(&["images", "verify", "--json", "--read-data", &store], 0);
        assert_eq!(checked["report"]["notes"].as_array().unwrap().len(), 0, "round {round}: {checked}");
        assert_eq!(packs(&store), 2);
        let which = state as usize % all.len();
        let back = scene.path("back.raw");
        let image = format!("{store}/m@{}", all[which]);
        run(&["restore", "--yes", "--force", &image, text(&back)]).expect(0);
        assert!(common::hash(&back) == hashes[which], "round {round}, image {which}");
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_capture_that_runs_keeps_what_it_found() {
    let scene = Scene::new();
    let store = store(&scene, "store", &[]);
    let image = three_generations(&scene, &store);
    let disk = scene.path("disk.raw");
    let leases = folder(&store).join("leases");
    let mut child = unmoor()
        .args(["capture", text(&disk), &format!("{store}/other")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let began = Instant::now();
    // It has its lease, and has perhaps begun to look around: it stands still from here.
    while files(&leases).iter().all(|(path, _)| path.extension().is_none()) {
        assert!(began.elapsed() < Duration::from_secs(60), "no lease");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(pid, Signal::SIGSTOP).unwrap();
    let stands = !files(&leases).is_empty();
    run(&["images", "remove", "--yes", "--all", &image]).expect(0);
    let report = document(&["images", "prune", "--json", "--no-wait", &store], 0);
    if stands {
        assert_eq!(report["report"]["waiting_for"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["report"]["removed_packs"], 0);
    }
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(child.wait().unwrap().success());
    run(&["verify", &format!("{store}/other")]).expect(0);
    // Its end known, the rest goes.
    run(&["images", "prune", &store]).expect(0);
    run(&["images", "verify", "--read-data", &store]).expect(0);
    let back = scene.path("back.raw");
    run(&["restore", "--yes", &format!("{store}/other"), text(&back)]).expect(0);
    assert!(fs::read(&back).unwrap() == fs::read(&disk).unwrap());
    assert!(pack_bytes(&store) < 42 * MIB as u64);
    assert!(files(&folder(&store).join("marks")).is_empty() && files(&leases).is_empty());
}

#[test]
fn a_store_gets_a_new_key_by_a_copy_and_the_old_secret_opens_it_no_more() {
    let scene = Scene::new();
    let (old, new) = (scene.path("old.key"), scene.path("new.key"));
    fs::write(&old, noise(64, 1)).unwrap();
    fs::write(&new, noise(64, 2)).unwrap();
    let first = store(&scene, "store", &["--encrypt", "--store-key", text(&old)]);
    let disk = scene.path("disk.raw");
    let mut sums = Vec::new();
    for round in 0..2 {
        fs::write(&disk, [noise(5 * MIB, 3), noise(MIB, round)].concat()).unwrap();
        run(&["capture", "--store-key", text(&old), text(&disk), &format!("{first}/web01")]).expect(0);
        sums.push(fs::read(&disk).unwrap());
    }
    let second = format!("dir:{}", text(&scene.path("second")));
    let rekey = ["images", "rekey", "--store-key", text(&old), "--new-key-file", text(&new), &first, &second];
    let told = run(&rekey).expect(0).stdout;
    assert!(told.contains("2 images copied"), "{told}");
    assert!(run(&rekey).expect(0).stdout.contains("0 images copied, 2 were there"));
    run(&["images", "list", "--store-key", text(&old), &second]).expect(3).says(&["wrong key file"]);
    let listed =
        document(&["images", "list", "--json", "--store-key", text(&new), &format!("{second}/web01")], 0);
    let images = listed["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    for (image, sum) in images.iter().zip(&sums) {
        let image = format!("{second}/web01@{}", image["time"].as_str().unwrap());
        let back = scene.path("back.raw");
        run(&["restore", "--yes", "--force", "--store-key", text(&new), &image, text(&back)]).expect(0);
        assert!(fs::read(&back).unwrap() == *sum);
    }
    // No object of the new store is one of the old.
    let names = |store: &str| -> Vec<String> {
        let all = files(&folder(store)).into_iter();
        all.map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let before = names(&first);
    let same: Vec<String> =
        names(&second).into_iter().filter(|name| before.contains(name) && !name.starts_with("20")).collect();
    assert_eq!(same, ["store.json"]);
    let plain = store(&scene, "plain", &[]);
    run(&["images", "rekey", &plain, &format!("{plain}.new")]).expect(3).says(&["not encrypted"]);
    run(&["images", "copy", "--store-key", text(&new), &second, &plain, "web01"]).expect(0);
    run(&["images", "verify", "--read-data", &plain]).expect(0);
    run(&["verify", &format!("{plain}/web01")]).expect(0);
}
