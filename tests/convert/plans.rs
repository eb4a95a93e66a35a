// SPDX-License-Identifier: Apache-2.0
//! Plans: shown, saved, refused; nothing is written by any of it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Scene, hash, run};
use crate::guest::{Drivers, RELEASE, UUID, image};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every file of the scene, with its hash.
fn state(scene: &Scene) -> Vec<(String, blake3::Hash)> {
    scene.names().into_iter().map(|name| (name.clone(), hash(&scene.path(&name)))).collect()
}

#[test]
fn a_dry_run_shows_the_edits_as_a_diff_and_writes_nothing() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    let before = state(&scene);
    let shown = run(&["convert", "--profile", "kvm", "--dry-run", text(&image)]).expect(0).stdout;
    for wanted in ["-/dev/sda1\t/\text4", &format!("+UUID={UUID}\t/\text4"), "virtio_blk", "initrd.img"] {
        assert!(shown.contains(wanted), "{wanted:?} is missing:\n{shown}");
    }
    assert!(state(&scene) == before);
}

#[test]
fn one_document_tells_programs_all() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    let said = run(&["convert", "--json", "--profile", "kvm", "--dry-run", text(&image)]).expect(0).stdout;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["dry_run"], &said["refused"]), (&true.into(), &false.into()));
    assert_eq!(said["inspection"]["system"]["id"], "debian");
    let edits = said["plan"]["edits"].as_array().unwrap();
    let edit = |path: &str| edits.iter().find(|edit| edit["path"] == path);
    assert!(edit("/etc/fstab").is_some() && edit("/boot/grub/grub.cfg").is_some(), "{edits:#?}");
    let initramfs = edit(&format!("/boot/initrd.img-{RELEASE}")).unwrap();
    assert!(initramfs["change"]["append"].is_object(), "{initramfs}");
    assert!(said["plan"]["capabilities"]["disk_buses"].as_array().unwrap().contains(&"virtio".into()));
}

#[test]
fn a_guest_without_the_driver_is_refused_and_nothing_is_written() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::AhciOnly, "a.qcow2");
    let before = state(&scene);
    for more in [&["--dry-run"][..], &[]] {
        let mut line = vec!["convert", "--profile", "kvm"];
        line.extend(more);
        line.push(text(&image));
        let refused = run(&line).expect(3);
        assert!(refused.stderr.contains("1af4") || refused.stderr.contains("1AF4"), "{}", refused.stderr);
        assert!(refused.stderr.contains(RELEASE), "{}", refused.stderr);
        assert!(state(&scene) == before);
    }
}

#[test]
fn a_refusal_is_one_document_too() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::AhciOnly, "a.qcow2");
    for more in [&["--dry-run"][..], &[]] {
        let line = [&["convert", "--json", "--profile", "kvm"], more, &[text(&image)]].concat();
        let said = run(&line).expect(3).stdout;
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["refused"], &said["error"]["kind"]), (&true.into(), &"refused".into()));
        assert!(said["error"]["message"].as_str().unwrap().contains(RELEASE) && said["plan"].is_object());
    }
    // What fails before there is a plan is one document as well.
    let said = run(&["convert", "--json", "--profile", "kvm", "no-such-image"]).expect(1).stdout;
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["event"], "error");
}

#[test]
fn a_plan_s_file_is_never_replaced() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    let plan = scene.path("plan.json");
    fs::write(&plan, "mine").unwrap();
    let line = ["convert", "--profile", "kvm", "--dry-run", "--plan", text(&plan), text(&image)];
    run(&line).expect(3).says(&["plan.json", "it exists"]);
    assert_eq!(fs::read(&plan).unwrap(), b"mine");
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let scene = Scene::new();
    let image = image(&scene, Drivers::Virtio, "a.qcow2");
    let before = state(&scene);
    let cases: &[&[&str]] = &[
        &["convert", text(&image)],
        &["convert", "--profile", "kvm"],
        &["convert", "--profile", "kvm", "--nic", "ens3", text(&image)],
        &["convert", "--profile", "kvm", "--sign-key", "key.pem", text(&image)],
        &["convert", "--profile", "kvm", "--undo", text(&image)],
        &["convert", "--profile", "kvm", "--direct", "--rescue", "x", text(&image)],
        &["restore", "--firmware", "uefi", text(&image), "x.raw"],
    ];
    for case in cases {
        run(case).expect(2);
    }
    assert!(state(&scene) == before);
}

#[test]
fn a_machine_s_other_disks_must_be_named_too() {
    let scene = Scene::new();
    let disk = crate::guest::disk(&scene, Drivers::Virtio);
    let other = scene.path("other.raw");
    fs::write(&other, vec![7; 1 << 20]).unwrap();
    let image = scene.path("m.qcow2");
    run(&["capture", text(&disk), text(&other), text(&image)]).expect(0);
    run(&["convert", "--profile", "kvm", "--dry-run", text(&image)]).expect(2).says(&["m.disk1.qcow2"]);
    let second = scene.path("m.disk1.qcow2");
    run(&["convert", "--profile", "kvm", "--dry-run", text(&image), text(&second)]).expect(0);
}
