// SPDX-License-Identifier: Apache-2.0
//! Who may depend on whom: a lower layer never names a higher one, and neighbours do not name each other.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::process::Command;

/// Each crate's layer. A new crate gets a line here.
const LAYERS: [(&str, u32); 12] = [
    ("unmoor-images", 0),
    ("unmoor-initramfs", 1),
    ("unmoor-capture", 2),
    ("unmoor-restore", 2),
    ("unmoor-convert", 2),
    ("unmoor-nbd", 2),
    ("unmoor-pxe-boot", 2),
    ("unmoor-mount", 2),
    ("unmoor-inject-drivers", 3),
    ("unmoor-fuzz", 8),
    ("unmoor", 9),
    ("xtask", 9),
];

#[test]
fn every_crate_depends_on_lower_layers_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let layer = |name: &str| LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer);
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let own = layer(name).unwrap_or_else(|| panic!("{name} has no layer: add it to LAYERS"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = dependency["name"].as_str().unwrap();
            if let Some(below) = layer(dependency) {
                assert!(below < own, "{name} (layer {own}) depends on {dependency} (layer {below})");
            }
        }
    }
}
