// SPDX-License-Identifier: Apache-2.0
//! The command line itself: help, exit status, generated documents.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{Scene, run, unmoor};

const COMMANDS: [&str; 13] = [
    "inspect",
    "capture",
    "restore",
    "convert",
    "verify",
    "images",
    "nbd",
    "rescue",
    "serve",
    "agent",
    "machines",
    "jobs",
    "completions",
];

#[test]
fn help_fits_a_terminal_and_shows_an_example_of_each_command() {
    let listed = run(&["--help"]).expect(0).stdout;
    for command in COMMANDS {
        assert!(listed.contains(&format!("  {command} ")), "{command} is not listed:\n{listed}");
        for flag in ["-h", "--help"] {
            let help = run(&[command, flag]).expect(0).stdout;
            assert!(help.contains("Example") && help.contains(&format!("  unmoor {command}")), "{help}");
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "unmoor {command} {flag}: {line}");
            }
        }
    }
    assert!(!listed.contains("dev "), "what is for developers is hidden:\n{listed}");
}

#[test]
fn man_pages_and_schemas_in_the_tree_are_those_that_the_program_writes() {
    let scene = Scene::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    unmoor().args(["dev", "docs"]).arg(scene.path("")).status().unwrap();
    for folder in ["man", "docs/schema"] {
        let names = |root: &Path| {
            let entries = fs::read_dir(root.join(folder)).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let fresh = names(&scene.path(""));
        assert!(
            fresh.len() == names(root).len() && fresh == names(root),
            "{folder}: run `cargo run -- dev docs .`"
        );
        for name in fresh {
            let read = |root: &Path| fs::read_to_string(root.join(folder).join(&name)).unwrap();
            let (fresh, kept) = (read(&scene.path("")), read(root));
            assert!(
                fresh == kept,
                "{folder}/{} is out of date: run `cargo run -- dev docs .`",
                name.display()
            );
        }
    }
}

#[test]
fn completions_come_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let text = run(&["completions", shell]).expect(0).stdout;
        assert!(text.contains("unmoor") && text.contains("capture"));
    }
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2() {
    let scene = Scene::new();
    let disk = scene.path("disk.raw");
    fs::write(&disk, [0; 4096]).unwrap();
    let disk = disk.to_str().unwrap();
    let image = scene.path("x.qcow2");
    let image = image.to_str().unwrap();
    let nowhere = scene.path("x.vhd");
    let cases: &[&[&str]] = &[
        &[],
        &["capture", disk],
        &["capture", disk, nowhere.to_str().unwrap()],
        &["capture", "--cluster-size", "3000", disk, image],
        &["capture", "--compress", "best", disk, "x.raw"],
        &["capture", "/dev/null", image],
        &["capture", disk, disk, "-"],
        &["capture", disk, disk],
        &["capture", "--force", disk, disk],
        &["capture", disk, "/dev/null", "--format", "raw"],
        &["restore", image],
        &["restore", "--grow=root", "--no-grow", image, disk],
        &["verify"],
    ];
    for case in cases {
        let outcome = run(case).expect(2);
        assert!(!outcome.stderr.is_empty());
    }
    assert_eq!(scene.names(), ["disk.raw"], "nothing was made");
}

#[test]
fn a_source_that_is_not_there_is_named() {
    let scene = Scene::new();
    let image = scene.path("x.qcow2");
    for command in [["capture", "/no/such/disk"], ["inspect", "/no/such/disk"], ["verify", "/no/such/disk"]] {
        let mut line = command.to_vec();
        if command[0] == "capture" {
            line.push(image.to_str().unwrap());
        }
        run(&line).expect(1).says(&["error: opening /no/such/disk", "No such file"]);
    }
    assert!(scene.names().is_empty());
}
