// SPDX-License-Identifier: Apache-2.0
//! Which filesystems a GRUB reads, held against the drivers of the GRUB that is installed here (grub-fstest has the same).

use std::fs;
use std::process::Command;

use unmoor_images::adapt::Memory;
use unmoor_images::filesystem::probe;

use super::{payload, run, text};
use crate::firmware::grub::binary;
use crate::firmware::grub::reads::{Version, unreadable};

/// Whether grub-fstest reads a file's content on the filesystem in `image`.
fn grub_reads(image: &str) -> bool {
    let output = Command::new("grub-fstest").args([image, "cat", "/proof"]).output();
    let output =
        output.unwrap_or_else(|error| panic!("grub-fstest is needed (Debian package grub-common): {error}"));
    output.stdout.starts_with(b"readable")
}

#[test]
fn the_table_says_of_each_feature_what_the_driver_does() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("proof"), "readable\n".repeat(2000)).unwrap();
    let version = binary::version(&payload()["grub/i386-pc/normal.mod"]).unwrap();
    let mut answers = Vec::new();
    let mut check = |name: &str, image: &str| {
        let facts = probe(&Memory::new(fs::read(image).unwrap())).unwrap().unwrap();
        let missing = unreadable(facts.kind, &facts.features, version);
        assert_eq!(missing.is_empty(), grub_reads(image), "{name} with GRUB {version:?}: {missing:?}");
        answers.push(missing.is_empty());
    };
    for options in [
        "",
        "^has_journal",
        "64bit",
        "^64bit,meta_bg,^resize_inode",
        "metadata_csum_seed",
        "large_dir",
        "inline_data",
        "casefold",
        "encrypt",
        "ea_inode",
        "mmp",
        "orphan_file",
        "bigalloc",
        "verity,project,quota",
    ] {
        let image = dir.path().join("ext4");
        fs::File::create(&image).unwrap().set_len(40 << 20).unwrap();
        let mut arguments = vec!["-q", "-F", "-t", "ext4", "-d", text(&files)];
        if !options.is_empty() {
            arguments.extend(["-O", options]);
        }
        arguments.push(text(&image));
        run("e2fsprogs", "mke2fs", &arguments);
        check(options, text(&image));
    }
    let proto = dir.path().join("proto");
    fs::write(
        &proto,
        format!("/dev/null\n0 0\nd--755 0 0\nproof ---644 0 0 {}\n$\n", text(&files.join("proof"))),
    )
    .unwrap();
    for (kind, options) in [
        ("-m", "bigtime=0"),
        ("-m", "bigtime=1"),
        ("-m", "crc=0,bigtime=0,rmapbt=0,reflink=0,inobtcount=0,finobt=0"),
        ("-m", "bigtime=1,inobtcount=1"),
        ("-i", "nrext64=1"),
    ] {
        let image = dir.path().join("xfs");
        fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        run("xfsprogs", "mkfs.xfs", &["-q", "-f", kind, options, "-p", text(&proto), text(&image)]);
        check(options, text(&image));
    }
    assert!(answers.contains(&true) && answers.contains(&false), "{answers:?}");
}

#[test]
fn versions_are_read_of_binaries_and_compared() {
    let payload = payload();
    let of = |name: &str| binary::version(&payload[name]).unwrap();
    let expected = run("dpkg", "dpkg-query", &["-W", "-f", "${Version}", "grub-pc-bin"]);
    let expected = Version::parse(&expected).unwrap();
    assert_eq!(of("grub/i386-pc/normal.mod"), expected);
    assert_eq!(of("grub/x86_64-efi-signed/grubx64.efi.signed").upstream, expected.upstream);
    assert_eq!(of("grub/x86_64-efi/monolithic/grubx64.efi"), expected);
    for name in ["grub/x86_64-efi-signed/grubx64.efi.signed", "grub/x86_64-efi/monolithic/grubx64.efi"] {
        assert_eq!(binary::prefix(&payload[name]).as_deref(), Some("/EFI/debian"));
    }
    assert_eq!(binary::prefix(&payload["shim/shimx64.efi.signed"]), None);
    assert!(Version::parse("2.12-9").unwrap() > Version::parse("2.06-13+deb12u2").unwrap());
    assert_eq!(Version::parse("2.02~beta2-22").unwrap().upstream, (2, 2));
    assert_eq!(Version::parse("two"), None);
}
