// SPDX-License-Identifier: Apache-2.0
//! Held against efibootmgr, which reads the same files (`EFIVARFS_PATH`), and against its own way of writing them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

fn debian() -> Entry {
    Entry {
        description: "debian".to_owned(),
        partition: 1,
        start: 2048,
        sectors: 1_048_576,
        signature: Signature::Gpt(*b"\x0a\xd6\x2e\x5a\x8d\x35\x4b\x4b\xa1\xd3\x8b\x1c\x6e\x0f\x6c\x9f"),
        path: "\\EFI\\debian\\shimx64.efi".to_owned(),
    }
}

fn efibootmgr(variables: &Path, arguments: &[&str]) -> String {
    let output = Command::new("efibootmgr")
        .args(arguments)
        // It puts names behind the path as it is.
        .env("EFIVARFS_PATH", format!("{}/", variables.display()))
        .output()
        .unwrap_or_else(|error| panic!("efibootmgr is needed (Debian package efibootmgr): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn efibootmgr_reads_what_is_written_and_the_order_has_it_in_front() {
    let variables = tempfile::tempdir().unwrap();
    let network = Entry { description: "PXE".to_owned(), path: "\\pxe.efi".to_owned(), ..debian() };
    assert_eq!(write(variables.path(), &network, Place::First).unwrap(), 0);
    assert_eq!(write(variables.path(), &debian(), Place::First).unwrap(), 1);
    let text = efibootmgr(variables.path(), &["-v"]);
    assert!(text.contains("BootOrder: 0001,0000"), "{text}");
    assert!(
        text.contains(
            "Boot0001* debian\tHD(1,GPT,0ad62e5a-8d35-4b4b-a1d3-8b1c6e0f6c9f,0x800,0x100000)/File(\\EFI\\debian\\shimx64.efi)"
        ),
        "{text}"
    );
    // A second time changes nothing.
    let before: Vec<_> =
        fs::read_dir(variables.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(write(variables.path(), &debian(), Place::First).unwrap(), 1);
    assert_eq!(fs::read_dir(variables.path()).unwrap().count(), before.len());

    start_next(variables.path(), 1).unwrap();
    let text = efibootmgr(variables.path(), &[]);
    assert!(text.contains("BootNext: 0001"), "{text}");

    // Behind the entry that the machine was started by.
    fs::write(variables.path().join(format!("BootCurrent-{GLOBAL}")), variable(&[0, 0])).unwrap();
    write(variables.path(), &debian(), Place::BehindCurrent).unwrap();
    let text = efibootmgr(variables.path(), &[]);
    assert!(text.contains("BootOrder: 0000,0001"), "{text}");

    let mbr = Entry { signature: Signature::Mbr(0x1234_abcd), ..debian() };
    assert_eq!(write(variables.path(), &mbr, Place::First).unwrap(), 2);
    let text = efibootmgr(variables.path(), &["-v"]);
    assert!(text.contains("Boot0002* debian\tHD(1,MBR,0x1234abcd,0x800,0x100000)"), "{text}");
}

#[test]
fn a_locked_variable_is_unlocked_and_locked_again() {
    let variables = tempfile::tempdir().unwrap();
    let order = variables.path().join(format!("BootOrder-{GLOBAL}"));
    fs::write(&order, variable(&[7, 0])).unwrap();
    let chattr = |flag: &str| {
        Command::new("chattr")
            .arg(flag)
            .arg(&order)
            .status()
            .unwrap_or_else(|error| panic!("chattr (e2fsprogs): {error}"))
    };
    assert!(
        chattr("+i").success(),
        "the tests' temporary files must be on a filesystem with flags, and the tests run as root"
    );
    assert!(fs::write(&order, "x").is_err());
    write(variables.path(), &debian(), Place::First).unwrap();
    assert!(fs::write(&order, "x").is_err(), "it is locked again");
    assert_eq!(fs::read(&order).unwrap(), variable(&[0, 0, 7, 0]));
    assert!(chattr("-i").success());
}

#[test]
fn names_that_are_no_entries_and_broken_variables_are_left_alone() {
    let variables = tempfile::tempdir().unwrap();
    for name in ["BootFFFG", "Boot00001", "BootNext", "Boot", "Bootüöä"] {
        fs::write(variables.path().join(format!("{name}-{GLOBAL}")), [1]).unwrap();
    }
    fs::write(variables.path().join(format!("Boot0000-{GLOBAL}")), [1]).unwrap();
    assert_eq!(write(variables.path(), &debian(), Place::First).unwrap(), 1);
    fs::write(variables.path().join(format!("BootOrder-{GLOBAL}")), [7, 0, 0, 0, 1]).unwrap();
    assert!(write(variables.path(), &debian(), Place::First).is_err());
}

/// A disk of `size` bytes by sfdisk's `script`, with files on the ESP at 1 MiB, put there by mtools.
fn disk(script: &str, files: &[&str]) -> (tempfile::TempDir, Box<dyn unmoor_images::BlockSource>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::File::create(&path).unwrap().set_len(80 << 20).unwrap();
    let table = folder.path().join("table");
    fs::write(&table, script).unwrap();
    let run = |line: &str| {
        let done = Command::new("sh").args(["-ec", line]).current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "sfdisk, mkfs.vfat and mtools are needed (fdisk, dosfstools, mtools): {said}"
        );
    };
    run("sfdisk --quiet disk <table && truncate -s 40M esp && mkfs.vfat esp >/dev/null");
    let mut folders = vec!["EFI".to_owned()];
    for file in files {
        let parent = format!("EFI/{}", file.split_once('/').unwrap().0);
        if !folders.contains(&parent) {
            folders.push(parent);
        }
    }
    folders.iter().for_each(|folder| run(&format!("mmd -i esp ::{folder}")));
    files.iter().for_each(|file| run(&format!("mcopy -i esp table ::EFI/{file}")));
    run("dd if=esp of=disk bs=1M seek=1 conv=notrunc status=none");
    let options = unmoor_images::formats::OpenOptions::default();
    let source = unmoor_images::formats::open(&path, &options).unwrap().source;
    (folder, source)
}

/// A loop device's name, as long as it is in use.
struct Loop(String);

impl Loop {
    fn of(disk: &Path) -> Self {
        let output =
            Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(disk).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "a loop device is needed, and root: {said}");
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn the_entry_of_a_disk_is_what_efibootmgr_makes_for_the_same_loader() {
    const GPT: &str = "label: gpt\nstart=2048, size=81920, type=U\nsize=20480, type=L\n";
    let (folder, source) =
        disk(GPT, &["BOOT/BOOTX64.EFI", "debian/grubx64.efi", "debian/shimx64.efi", "other/grubx64.efi"]);
    let found = entry(&*source, Some("debian")).unwrap().unwrap();
    assert_eq!((found.description.as_str(), found.path.as_str()), ("debian", "\\EFI\\debian\\shimx64.efi"));
    let other = entry(&*source, Some("OTHER")).unwrap().unwrap();
    assert_eq!(other.path, "\\EFI\\other\\grubx64.efi");
    let variables = tempfile::tempdir().unwrap();
    // It takes devices only.
    let device = Loop::of(&folder.path().join("disk"));
    let path = "\\EFI\\debian\\shimx64.efi";
    efibootmgr(variables.path(), &["-q", "-C", "-d", &device.0, "-p", "1", "-L", "debian", "-l", path]);
    let theirs = fs::read(variables.path().join(format!("Boot0000-{GLOBAL}"))).unwrap();
    assert_eq!(nvram_entry(&found), theirs);
    // It is taken for the same, and used again.
    assert_eq!(write(variables.path(), &found, Place::First).unwrap(), 0);
    assert!(is_writable(variables.path()) && !is_writable(&variables.path().join("none")));
}

#[test]
fn a_disk_with_the_fallback_alone_gets_an_entry_for_it_and_one_without_a_loader_none() {
    let (_folder, source) =
        disk("label: dos\nlabel-id: 0x1234abcd\nstart=2048, size=81920, type=ef\n", &["Boot/bootx64.efi"]);
    let found = entry(&*source, None).unwrap().unwrap();
    assert_eq!(
        (found.path.as_str(), found.signature),
        ("\\EFI\\Boot\\bootx64.efi", Signature::Mbr(0x1234_abcd))
    );
    let (_folder, source) = disk("label: gpt\nstart=2048, size=81920, type=U\n", &["debian/grub.cfg"]);
    assert_eq!(entry(&*source, Some("debian")).unwrap(), None);
}
