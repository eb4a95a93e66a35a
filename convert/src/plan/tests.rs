// SPDX-License-Identifier: Apache-2.0
//! Drafts over plain directories; diffs against `diff -u` and `patch`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use crate::files::{Directory, Files, Kind};

fn guest() -> (tempfile::TempDir, Directory) {
    let at = tempfile::tempdir().unwrap();
    for folder in ["usr/lib", "etc/grub.d", "boot/efi"] {
        fs::create_dir_all(at.path().join(folder)).unwrap();
    }
    symlink("usr/lib", at.path().join("lib")).unwrap();
    symlink("../boot/grub.cfg", at.path().join("etc/grub2.cfg")).unwrap();
    symlink("ring2", at.path().join("etc/ring1")).unwrap();
    symlink("ring1", at.path().join("etc/ring2")).unwrap();
    fs::write(at.path().join("etc/fstab"), "one\ntwo\n").unwrap();
    fs::write(at.path().join("boot/grub.cfg"), "set default=0\n").unwrap();
    let files = Directory::open(at.path()).unwrap();
    (at, files)
}

#[test]
fn a_draft_shows_the_guest_as_it_will_be() {
    let (_at, files) = guest();
    let mut draft = Draft::new(&files);
    draft.write("/etc/fstab", b"three\n".to_vec(), "a", "because").unwrap();
    draft.write("/lib/new/deep/file", b"x".to_vec(), "a", "because").unwrap();
    draft.append("/etc/grub2.cfg", b"more\n".to_vec(), "a", "one").unwrap();
    draft.append("/boot/grub.cfg", b"again\n".to_vec(), "b", "two").unwrap();
    draft.link("/etc/here", "../lib/new", "a", "because").unwrap();

    assert_eq!(draft.text("/etc/fstab").unwrap().unwrap(), "three\n");
    assert_eq!(draft.text("/etc/here/deep/file").unwrap().unwrap(), "x");
    assert_eq!(draft.text("/boot/grub.cfg").unwrap().unwrap(), "set default=0\nmore\nagain\n");
    assert_eq!(draft.metadata("/usr/lib/new/deep").unwrap().unwrap().kind, Kind::Directory);
    assert_eq!(draft.metadata("/boot/grub.cfg").unwrap().unwrap().size, 25);
    assert_eq!(draft.list("/lib/new").unwrap(), ["deep"]);
    assert_eq!(draft.list("/etc").unwrap(), ["fstab", "grub.d", "grub2.cfg", "here", "ring1", "ring2"]);
    assert_eq!(draft.real_path("/etc/here/deep/file").unwrap().unwrap(), "/usr/lib/new/deep/file");
    assert_eq!(draft.read_link("/etc/here").unwrap().unwrap(), "../lib/new");

    let plan = draft.finish();
    let paths: Vec<&str> = plan.edits.iter().map(|edit| edit.path.as_str()).collect();
    assert_eq!(paths, ["/etc/fstab", "/usr/lib/new/deep/file", "/boot/grub.cfg", "/etc/here"]);
    assert_eq!(plan.edits[2].reasons.len(), 2);
    let Change::Append { content, was: Was::File { size: 14, .. } } = &plan.edits[2].change else {
        unreachable!("{:?}", plan.edits[2])
    };
    assert_eq!(content.bytes(), b"more\nagain\n");
}

#[test]
fn what_is_planned_and_taken_back_is_no_edit() {
    let (_at, files) = guest();
    let mut draft = Draft::new(&files);
    draft.write("/etc/fstab", b"three\n".to_vec(), "a", "because").unwrap();
    draft.write("/etc/fstab", b"one\ntwo\n".to_vec(), "a", "because").unwrap();
    draft.write("/etc/new", b"x".to_vec(), "a", "because").unwrap();
    draft.remove("/etc/new", "a", "because").unwrap();
    draft.remove("/etc/never", "a", "because").unwrap();
    draft.directory("/boot/efi", 0o700, "a", "because").unwrap();
    assert_eq!(draft.edits().count(), 0);

    draft.remove("/etc/fstab", "a", "because").unwrap();
    assert_eq!(draft.read("/etc/fstab", 100).unwrap(), None);
    assert!(!draft.list("/etc").unwrap().contains(&"fstab".to_owned()));
    draft.write("/etc/fstab", b"again\n".to_vec(), "a", "because").unwrap();
    assert_eq!(draft.text("/etc/fstab").unwrap().unwrap(), "again\n");
    assert!(matches!(draft.edits().next().unwrap().change.was(), Was::File { size: 8, .. }));
}

#[test]
fn rings_of_links_end_whether_planned_or_the_guests() {
    let (_at, files) = guest();
    let mut draft = Draft::new(&files);
    draft.link("/etc/a", "b", "a", "because").unwrap();
    draft.link("/etc/b", "/etc/a", "a", "because").unwrap();
    draft.link("/etc/self", "self/x", "a", "because").unwrap();
    for path in ["/etc/a", "/etc/b/x", "/etc/self", "/etc/ring1", "/etc/ring2/y"] {
        assert_eq!(draft.metadata(path).unwrap(), None, "{path}");
        assert_eq!(draft.read(path, 10).unwrap(), None, "{path}");
        assert!(draft.write(path, b"x".to_vec(), "a", "because").is_err(), "{path}");
    }
    assert_eq!(draft.link_metadata("/etc/a").unwrap().unwrap().kind, Kind::Link);
    draft.remove("/etc/ring1", "a", "because").unwrap();
    assert!(draft.write("/etc/ring2", b"x".to_vec(), "a", "because").is_ok());
    assert_eq!(draft.text("/etc/ring2").unwrap().unwrap(), "x");
    assert_eq!(draft.edits().last().unwrap().path, "/etc/ring1");
}

#[test]
fn directories_and_devices_are_no_files_to_change() {
    let (_at, files) = guest();
    let mut draft = Draft::new(&files);
    for error in [
        draft.write("/etc", b"x".to_vec(), "a", "because").unwrap_err(),
        draft.remove("/etc/grub.d", "a", "because").unwrap_err(),
        draft.directory("/etc/fstab", 0o755, "a", "because").unwrap_err(),
    ] {
        assert_eq!(error.kind(), unmoor_images::ErrorKind::Unsupported, "{}", error.chain());
    }
}

#[test]
fn a_saved_plan_is_the_plan() {
    let (_at, files) = guest();
    let mut draft = Draft::new(&files);
    draft.write("/etc/fstab", b"three\n".to_vec(), "a", "because").unwrap();
    draft.append("/boot/grub.cfg", vec![0, 159, 146, 150], "b", "two").unwrap();
    draft.link("/etc/here", "../lib", "a", "because").unwrap();
    draft.directory("/boot/new", 0o700, "a", "because").unwrap();
    draft.remove("/etc/ring1", "a", "because").unwrap();
    draft.disk(DiskEdit {
        reasons: Vec::new(),
        disk: 0,
        summary: vec!["boot code".into()],
        writes: vec![(0, vec![255; 4].into())],
    });
    draft.finding(Severity::Warning, "a", "look", Some("do".into()));
    let plan = draft.finish();
    let json = plan.to_json().unwrap();
    assert_eq!(Plan::load(json.as_bytes()).unwrap(), plan);

    for (from, to) in [
        ("\"/etc/fstab\"", "\"/etc/../fstab\""),
        ("\"/etc/fstab\"", "\"etc/fstab\""),
        ("\"/etc/fstab\"", "\"/etc/here\""),
        ("\"unmoor_plan\": 1", "\"unmoor_plan\": 2"),
    ] {
        assert!(json.contains(from));
        assert!(Plan::load(json.replace(from, to).as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn a_plan_is_shown_as_a_diff_that_patch_applies() {
    let (at, files) = guest();
    let old: String = (1..60).map(|n| format!("line {n}\n")).collect();
    fs::write(at.path().join("etc/long"), &old).unwrap();
    let new = old
        .replace("line 2\n", "line two\n")
        .replace("line 30\n", "")
        .replace("line 33\n", "line 33\nmore\n")
        .replace("line 59\n", "line 59");
    let mut draft = Draft::new(&files);
    draft.write("/etc/long", new.clone().into_bytes(), "a", "it is too short").unwrap();
    let text = draft.finish().show(&files).unwrap();
    assert!(
        text.starts_with("--- /etc/long\n+++ /etc/long\n  # a: it is too short\n@@ -1,5 +1,5 @@\n"),
        "{text}"
    );

    let patch = at.path().join("patch");
    fs::write(
        &patch,
        text.lines()
            .filter(|line| !line.starts_with("  #"))
            .fold(String::new(), |all, line| all + line + "\n"),
    )
    .unwrap();
    let copy = at.path().join("copy");
    fs::write(&copy, old).unwrap();
    let done = Command::new("patch").arg("--fuzz=0").arg(&copy).arg(&patch).output();
    let done = done.unwrap_or_else(|error| unreachable!("patch is needed (Debian package patch): {error}"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    assert_eq!(fs::read_to_string(&copy).unwrap(), new);
}

#[test]
fn what_is_no_text_is_told_in_a_line() {
    let (_at, files) = guest();
    let mut draft = Draft::new(&files);
    let entry = |name: &str, mode: &str, data: &str| {
        let mut out = format!(
            "07070100000001{mode}{}{:08x}{}{:08x}00000000{name}\0",
            "00000000".repeat(4),
            data.len(),
            "00000000".repeat(4),
            name.len() + 1
        );
        while out.len() % 4 != 0 {
            out.push('\0');
        }
        out.push_str(data);
        while out.len() % 4 != 0 {
            out.push('\0');
        }
        out
    };
    let archive = [
        entry("etc", "000041ed", ""),
        entry("etc/x", "000081a4", "data"),
        entry("TRAILER!!!", "00000000", ""),
    ];
    draft.append("/boot/grub.cfg", archive.concat().into_bytes(), "a", "because").unwrap();
    draft.write("/etc/fstab", vec![0, 255], "a", "because").unwrap();
    draft.link("/etc/here", "../lib", "a", "because").unwrap();
    draft.remove("/etc/ring1", "a", "because").unwrap();
    draft.finding(Severity::Error, "lint", "no kernel", Some("install one".into()));
    let text = draft.finish().show(&files).unwrap();
    for line in [
        "appends 360 B (1 file) to /boot/grub.cfg",
        "replaces /etc/fstab (8 B by 2 B)",
        "links /etc/here to ../lib",
        "removes the link /etc/ring1 (it leads to ring2)",
        "error: no kernel (lint)",
        "  remedy: install one",
        "  # a: because",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}
