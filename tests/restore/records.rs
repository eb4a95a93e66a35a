// SPDX-License-Identifier: Apache-2.0
//! Where a restore leaves its record, and that nothing else is left anywhere.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::disks::Scene;
use crate::support::{Loop, Run, can_loop, run, text, unmoor};

/// Runs unmoor in a folder of its own, where it must leave nothing.
fn run_in(folder: &Path, state: &Path, arguments: &[&str]) -> Run {
    let mut command = unmoor();
    command.current_dir(folder).env("XDG_STATE_HOME", state).args(arguments);
    let run = command.output().unwrap().into();
    let left: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{arguments:?} left {left:?}");
    run
}

#[test]
fn the_record_of_a_stored_image_lies_beside_a_file_and_in_the_machines_own_folder_for_a_device() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16)], 0);
    let (here, state, target) = (scene.path("here"), scene.path("state"), scene.path("target.raw"));
    fs::create_dir(&here).unwrap();
    let store = format!("dir:{}", text(&scene.path("store")));
    run(&["images", "init", &store]).expect(0);
    let image = format!("{store}/m");
    run(&["capture", text(&source.path), &image]).expect(0);

    run_in(&here, &state, &["restore", "--yes", &image, text(&target)]).expect(0);
    assert!(scene.path("target.raw.unmoor-record.json").exists() && !state.exists());
    run_in(&here, &state, &["verify", &image, text(&target)]).expect(0);

    // Larger, so that the restore changes the table.
    let device = scene.path("device.raw");
    File::create(&device).unwrap().set_len(fs::metadata(&source.path).unwrap().len() + (8 << 20)).unwrap();
    let device = Loop::new(&device, &[]);
    let line = ["restore", "--yes", "--json", &image, text(device.path())];
    let done = run_in(&here, &state, &line).expect(0).result();
    let record = PathBuf::from(done["disks"][0]["record"].as_str().unwrap());
    assert_eq!(record.parent(), Some(state.join("unmoor/records").as_path()));
    let name = text(&record).to_owned();
    let on = format!(".on-{}.unmoor-record.json", device.path().file_name().unwrap().display());
    assert!(name.contains("/m@20") && name.ends_with(&on), "{name}");
    let said = run_in(&here, &state, &["verify", &image, text(device.path())]).expect(0);
    assert!(!said.stderr.contains("no record"), "{}", said.stderr);
    // It is what tells the changes from damage.
    run_in(&here, &scene.path("nothing"), &["verify", &image, text(device.path())]).expect(1);
    let again = ["restore", "--yes", "--resume", &image, text(device.path())];
    run_in(&here, &state, &again).expect(0).says(&["what was changed, for verify:", &name]);
}

#[test]
fn a_record_that_cannot_be_written_is_a_warning() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 16)], 0);
    let here = scene.path("here");
    fs::create_dir(&here).unwrap();
    let state = scene.path("state");
    fs::write(&state, "a file, where a folder should be").unwrap();
    let store = format!("dir:{}", text(&scene.path("store")));
    run(&["images", "init", &store]).expect(0);
    run(&["capture", text(&source.path), &format!("{store}/m")]).expect(0);
    let device = scene.path("device.raw");
    File::create(&device).unwrap().set_len(fs::metadata(&source.path).unwrap().len()).unwrap();
    let device = Loop::new(&device, &[]);
    let line = ["restore", "--yes", "--json", &format!("{store}/m"), text(device.path())];
    let done = run_in(&here, &state, &line).expect(0).result();
    assert!(done["disks"][0]["record"].is_null());
    assert!(done["warnings"][0].as_str().unwrap().contains("verify will not know"), "{done}");
}
