// SPDX-License-Identifier: Apache-2.0
//! Restores that were interrupted, and go on.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::disks::Scene;
use crate::support::{Loop, MIB, can_loop, noise, read_range, run, text, unmoor};

/// A captured disk as a file, and as an image of a store.
fn images(scene: &Scene) -> (Vec<u8>, Vec<String>) {
    let source = scene.gpt("source.raw", &[("ext4", 16), ("noise", 64)], 0);
    let image = source.captured("image.qcow2");
    let store = format!("dir:{}", text(&scene.path("store")));
    run(&["images", "init", &store]).expect(0);
    run(&["capture", text(&source.path), &format!("{store}/m")]).expect(0);
    let clean = scene.path("clean.raw");
    run(&["restore", "--yes", text(&image), text(&clean)]).expect(0);
    (fs::read(&clean).unwrap(), vec![text(&image).to_owned(), format!("{store}/m")])
}

/// Runs a restore until it has written `part` of `total` bytes to `file`, as far as the file's blocks tell, and kills it. False if it
/// came to its end before.
fn kill_at(arguments: &[&str], file: &Path, part: f64, total: u64) -> bool {
    use std::os::unix::fs::MetadataExt;
    let mut command = unmoor();
    let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let written = || fs::metadata(file).map_or(0, |metadata| metadata.blocks() * 512);
    while (written() as f64) < total as f64 * part && began.elapsed() < Duration::from_secs(60) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

#[test]
fn a_restore_to_a_file_that_is_killed_at_any_moment_goes_on_from_there() {
    let scene = Scene::new();
    let (clean, images) = images(&scene);
    let (target, partial) = (scene.path("target.raw"), scene.path("target.raw.partial"));
    let mut state = 3u64;
    let (mut killed, mut less) = (0, 0);
    for round in 0..16usize {
        let image = &images[round % images.len()];
        let arguments = ["restore", "--yes", "--threads", "1", image, text(&target)];
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = (state >> 33) as f64 / (1u64 << 31) as f64;
        if kill_at(&arguments, &partial, part, 80 * MIB) {
            killed += 1;
            assert!(!target.exists() && partial.exists());
            // Nothing that could be booted, or taken for a disk.
            assert!(read_range(&partial, 0, MIB).iter().all(|byte| *byte == 0), "round {round}");
        }
        let forced =
            [&["restore", "--yes", "--json", "--resume", "--force"], &[image.as_str(), text(&target)][..]]
                .concat();
        let done = run(&forced).expect(0).result();
        let (written, kept) = (
            done["disks"][0]["written_bytes"].as_u64().unwrap(),
            done["disks"][0]["kept_bytes"].as_u64().unwrap(),
        );
        less += usize::from(kept > 8 * MIB && written < 72 * MIB);
        assert!(fs::read(&target).unwrap() == clean, "round {round}");
        assert!(!partial.exists());
        run(&["verify", image, text(&target)]).expect(0);
        fs::remove_file(&target).unwrap();
    }
    println!("{killed} were killed, {less} wrote less than the whole when they went on");
    assert!(killed > 4 && less > 2, "{killed} {less}");
}

#[test]
fn a_restore_to_a_device_that_is_killed_goes_on_whatever_the_device_had_before() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let (clean, images) = images(&scene);
    let size = clean.len() as u64;
    for (round, image) in images.iter().enumerate() {
        let target: PathBuf = scene.path(&format!("device{round}.raw"));
        // Sparse but for its ends, so that its blocks tell how far the restore has come.
        let file = File::create(&target).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(&noise(MIB as usize, 5), 0).unwrap();
        let device = Loop::new(&target, &[]);
        let arguments = ["restore", "--yes", "--threads", "1", image, text(device.path())];
        assert!(kill_at(&arguments, &target, 0.6, 80 * MIB), "it came to its end");
        assert!(read_range(device.path(), 0, MIB).iter().all(|byte| *byte == 0));
        // What a failing disk or another program did to it in the meantime.
        file.write_all_at(&noise(4096, 6), 20 * MIB).unwrap();
        let resume =
            [&["restore", "--yes", "--json", "--resume"], &[image.as_str(), text(device.path())][..]]
                .concat();
        let done = run(&resume).expect(0).result();
        let kept = done["disks"][0]["kept_bytes"].as_u64().unwrap();
        assert!(kept > 20 * MIB && done["disks"][0]["written_bytes"].as_u64().unwrap() < 70 * MIB, "{done}");
        run(&["verify", image, text(device.path())]).expect(0);
        // Once more over a complete one: all but the table is there.
        let again = run(&resume).expect(0).result();
        assert!(again["disks"][0]["written_bytes"].as_u64().unwrap() < 4 * MIB, "{again}");
        run(&["verify", image, text(device.path())]).expect(0);
    }
}

#[test]
fn what_another_image_left_is_written_over() {
    let scene = Scene::new();
    let (clean, images) = images(&scene);
    for (round, image) in images.iter().enumerate() {
        let target = scene.path(&format!("over{round}.raw"));
        let partial = scene.path(&format!("over{round}.raw.partial"));
        // Another disk's table included, and longer than it should be.
        let mut other = clean.clone();
        other[..MIB as usize].copy_from_slice(&noise(MIB as usize, 8));
        other[30 * MIB as usize..31 * MIB as usize].copy_from_slice(&noise(MIB as usize, 9));
        other.extend(noise(MIB as usize, 10));
        fs::write(&partial, &other).unwrap();
        let done = run(&["restore", "--yes", "--json", "--resume", image, text(&target)]).expect(0).result();
        assert!(done["disks"][0]["written_bytes"].as_u64().unwrap() < 8 * MIB, "{done}");
        run(&["verify", image, text(&target)]).expect(0);
        // The gap before the first partition belongs to nobody, but for what a prober would see.
        let back = fs::read(&target).unwrap();
        assert!(back.len() == clean.len() && back[..2048 * 512] == clean[..2048 * 512]);
    }
}

#[test]
fn partitions_that_moved_on_a_larger_target_are_gone_on_with_too() {
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16), ("noise", 24), ("swap", 8)], 0);
    let image = source.captured("image.qcow2");
    let size = (source.size() + 37 * MIB).to_string();
    let (target, partial) = (scene.path("target.raw"), scene.path("target.raw.partial"));
    run(&["restore", "--yes", "--size", &size, text(&image), text(&target)]).expect(0);
    let whole = fs::read(&target).unwrap();
    fs::rename(&target, &partial).unwrap();
    let file = File::options().write(true).open(&partial).unwrap();
    file.write_all_at(&noise(300_000, 4), 22 * MIB + 123).unwrap();
    let resume = ["restore", "--yes", "--json", "--resume", "--size", &size, text(&image), text(&target)];
    let done = run(&resume).expect(0).result();
    assert!(fs::read(&target).unwrap() == whole, "{done}");
    assert!(done["disks"][0]["kept_bytes"].as_u64().unwrap() > 20 * MIB, "{done}");
    run(&["verify", text(&image), text(&target)]).expect(0);
}

#[test]
fn an_image_without_hashes_is_compared_with_the_target_itself() {
    let scene = Scene::new();
    let plain = scene.path("plain.raw");
    fs::write(&plain, noise(24 << 20, 12)).unwrap();
    let (target, partial) = (scene.path("target.raw"), scene.path("target.raw.partial"));
    fs::copy(&plain, &partial).unwrap();
    File::options().write(true).open(&partial).unwrap().write_all_at(&[0; 5000], 9 << 20).unwrap();
    let done =
        run(&["restore", "--yes", "--json", "--resume", text(&plain), text(&target)]).expect(0).result();
    assert!(fs::read(&target).unwrap() == fs::read(&plain).unwrap());
    assert!(done["disks"][0]["written_bytes"].as_u64().unwrap() < 8 << 20, "{done}");
}

#[test]
fn what_cannot_be_gone_on_with_is_refused() {
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16)], 0);
    let image = source.captured("image.raw");
    let qcow2 = scene.path("target.qcow2");
    run(&["restore", "--yes", "--resume", text(&image), text(&qcow2)])
        .expect(3)
        .says(&["raw file", "without --resume"]);
    assert!(!qcow2.exists() && !scene.path("target.qcow2.partial").exists());
    run(&["restore", "--yes", "--resume", "-", text(&scene.path("target.raw"))]).expect(2).says(&["pipe"]);
}
