// SPDX-License-Identifier: Apache-2.0
//! Stores, disks with a filesystem that is mounted and changed, and JSON.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Mounted, Scene, run, tool};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A store in the scene's folder.
pub(crate) fn store(scene: &Scene, name: &str) -> String {
    let store = format!("dir:{}", text(&scene.path(name)));
    run(&["images", "init", &store]).expect(0);
    store
}

/// The document of a command that prints one.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let stdout = run(&[arguments, &["--json"]].concat()).expect(0).stdout;
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

/// The manifest of an image of a store.
pub(crate) fn manifest(image: &str) -> Value {
    json(&["images", "show", image])["record"]["manifest"].take()
}

/// A GPT disk whose first partition, at 1 MiB, is a filesystem of `mib` MiB made by `make`.
pub(crate) fn disk(scene: &Scene, name: &str, mib: u64, make: &[&str]) -> PathBuf {
    let path = scene.path(name);
    File::create(&path).unwrap().set_len((mib + 2) * MIB).unwrap();
    tool("gdisk", "sgdisk", &["-n", &format!("1:2048:+{mib}M"), text(&path)]).expect(0);
    let part = scene.path("part");
    File::create(&part).unwrap().set_len(mib * MIB).unwrap();
    let (program, arguments) = make.split_first().unwrap();
    let line: Vec<&str> = arguments.iter().copied().chain([text(&part)]).collect();
    tool("e2fsprogs, xfsprogs, btrfs-progs, dosfstools", program, &line).expect(0);
    let line = [format!("if={}", text(&part)), format!("of={}", text(&path))];
    tool("coreutils", "dd", &[&line[0], &line[1], "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"])
        .expect(0);
    fs::remove_file(part).unwrap();
    path
}

/// Its filesystem, mounted.
pub(crate) fn mounted(disk: &Path, options: &str) -> Mounted {
    let options = format!("loop,offset={MIB},{options}");
    Mounted::new(&["-o", &options, text(disk)]).expect("this test mounts loop devices: it wants root")
}
