// SPDX-License-Identifier: Apache-2.0
//! Disks that are made to start with another firmware, judged by sgdisk, fsck.fat, mtools, grub-mkimage, grub-fstest, and by
//! starting them in QEMU with OVMF and SeaBIOS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod boot;
mod core_image;
mod fallback;
mod hostile;
mod machine;
mod plans;
mod reads;

use std::path::Path;
use std::process::Command;

/// Runs a program of a Debian package; its standard output.
fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("MTOOLS_SKIP_CHECK", "1").output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file of a Debian package, which `cargo xtask test` has unpacked into its cache, or which is installed.
fn installed(package: &str, path: &str) -> Vec<u8> {
    let set = |name: &str| std::env::var_os(name).map(std::path::PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let lab = set("UNMOOR_LAB_DIR").or_else(|| cache().map(|cache| cache.join("unmoor-lab")));
    let unpacked = lab.map(|lab| lab.join("boot-loaders").join(package).join(path.trim_start_matches('/')));
    let unpacked = unpacked.and_then(|path| std::fs::read(path).ok());
    unpacked.or_else(|| std::fs::read(path).ok()).unwrap_or_else(|| {
        panic!(
            "{path} of the Debian package {package} is needed: `cargo xtask test` unpacks it into its cache"
        )
    })
}

/// The payload that a rescue environment has, of the packages that are installed here.
fn payload() -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut payload = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir("/usr/lib/grub/i386-pc")
        .unwrap_or_else(|error| panic!("the Debian package grub-pc-bin is needed: {error}"))
    {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        payload.insert(format!("grub/i386-pc/{name}"), std::fs::read(&path).unwrap());
    }
    for (package, name) in [
        ("grub-efi-amd64-signed", "grub/x86_64-efi-signed/grubx64.efi.signed"),
        ("grub-efi-amd64-bin", "grub/x86_64-efi/monolithic/grubx64.efi"),
        ("shim-signed", "shim/shimx64.efi.signed"),
        ("shim-helpers-amd64-signed", "shim/mmx64.efi.signed"),
    ] {
        payload.insert(name.to_owned(), installed(package, &format!("/usr/lib/{name}")));
    }
    payload
}
