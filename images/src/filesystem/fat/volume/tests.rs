// SPDX-License-Identifier: Apache-2.0
//! Volumes made of nothing and volumes changed, judged by dosfstools, mtools and blkid. Those made anew for other sectors are
//! judged in the tests of the crate that restores.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::adapt::Memory;
use crate::filesystem::probe;

const M: u64 = 1 << 20;
/// 2026-11-24 18:40:10 UTC.
const NOW: i64 = 1_795_545_610;

fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).env("MTOOLS_SKIP_CHECK", "1").env("TZ", "UTC").output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
    text
}

/// The volume on a disk that was full of other bytes.
fn written(made: &Made, old: Option<&dyn BlockSource>, len: u64, path: &Path) -> String {
    let file = File::create(path).unwrap();
    (0..len).step_by(M as usize).for_each(|at| file.write_all_at(&[0xA5; M as usize], at).unwrap());
    let mut last = 0;
    for (at, bytes) in made.writes(old).unwrap() {
        assert!(at >= last && at + bytes.len() as u64 <= len);
        last = at + bytes.len() as u64;
        file.write_all_at(&bytes, at).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_new_volume_holds_what_was_put_there_for_checker_and_mtools() {
    let time = Stamp::from_unix(NOW);
    for (len, sector) in [(64 * M, 512), (512 * M, 512), (300 * M, 4096), (34 * M, 512)] {
        let dir = tempfile::tempdir().unwrap();
        let mut volume = Volume::new("efi sys", 0xDEAD_BEEF, time);
        let names = [
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/debian/grub.cfg",
            "efi/Debian/shimx64.efi",
            "EFI/debian/a long name with spaces.txt",
            "EFI/debian/a long name with dots.and.more",
            "EFI/debian/Ünïcödé ☃ 雪だるま.efi",
            "EFI/debian/empty",
            "EFI/debian/.hidden",
            "EFI/Linux/6.1.0-56-amd64+with+plus.efi",
        ];
        for (index, name) in names.iter().enumerate() {
            let content =
                if name.ends_with("empty") { Vec::new() } else { vec![index as u8 + 65; 3000 * index + 1] };
            volume.put(name, content, time).unwrap();
        }
        for index in 0..200 {
            volume.put(&format!("EFI/many/theme file number {index}"), vec![b'x'; index], time).unwrap();
        }
        volume.make_directory("loader/entries", time).unwrap();
        volume.put("EFI/BOOT/bootx64.efi", b"replaced".to_vec(), time).unwrap();
        let made = volume.make(len, sector, M).unwrap();
        let path = written(&made, None, len, &dir.path().join("volume"));

        let verdict = run("dosfstools", "fsck.fat", &["-n", "-v", &path]);
        assert!(verdict.contains("32 bit entries"), "{verdict}");
        let listing = run("mtools", "mdir", &["-/", "-b", "-i", &path, "::"]);
        for name in names {
            let name = name.replace("efi/Debian/", "EFI/debian/");
            assert!(listing.contains(&format!("::/{name}\n")), "{name}: {listing}");
        }
        assert_eq!(listing.matches("theme file number").count(), 200);
        assert_eq!(run("mtools", "mtype", &["-i", &path, "::/EFI/BOOT/BOOTX64.EFI"]), "replaced");
        let long = run("mtools", "mtype", &["-i", &path, "::/EFI/debian/a long name with dots.and.more"]);
        assert!(long.len() == 12_001 && long.bytes().all(|byte| byte == b'E'));
        let details = run("mtools", "mdir", &["-i", &path, "::/EFI/BOOT"]);
        assert!(details.contains("2026-11-24  18:40"), "{details}");
        let blkid = run("util-linux", "blkid", &["-p", "-o", "export", &path]);
        assert!(blkid.contains("UUID=DEAD-BEEF") && blkid.contains("LABEL=EFI\\ SYS"), "{blkid}");

        let source = Memory::new(fs::read(&path).unwrap());
        let facts = probe(&source).unwrap().unwrap();
        assert_eq!((facts.uuid.as_deref(), facts.label.as_deref()), (Some("DEAD-BEEF"), Some("EFI SYS")));
        let read = Volume::read(&source).unwrap().unwrap();
        assert_eq!(read.content("efi/boot/BOOTX64.efi", Some(&source)).unwrap().unwrap(), b"replaced");
        assert_eq!(read.list("EFI"), ["BOOT", "debian", "Linux", "many"]);
    }
}

#[test]
fn a_changed_volume_keeps_its_other_files_names_label_and_serial() {
    for (len, options) in [(64 * M, ["-F32", "-s1"]), (20 * M, ["-F16", "-s1"]), (4 * M, ["-F12", "-s2"])] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        File::create(&path).unwrap().set_len(len).unwrap();
        let old = path.to_str().unwrap();
        run("dosfstools", "mkfs.fat", &[&["-n", "EFI SYS", "-i", "DEADBEEF"][..], &options, &[old]].concat());
        let file = dir.path().join("Some File.efi");
        fs::write(&file, vec![b'k'; 70_000]).unwrap();
        run("mtools", "mmd", &["-i", old, "::/EFI", "::/EFI/fedora"]);
        run("mtools", "mcopy", &["-i", old, file.to_str().unwrap(), "::/EFI/fedora"]);
        run("mtools", "mcopy", &["-i", old, file.to_str().unwrap(), "::/EFI/fedora/shimx64.efi"]);

        let source = Memory::new(fs::read(&path).unwrap());
        let mut volume = Volume::read(&source).unwrap().unwrap();
        assert!(volume.contains("EFI/FEDORA/some file.EFI") && !volume.contains("EFI/BOOT"));
        volume.put("EFI/BOOT/BOOTX64.EFI", b"new".to_vec(), Stamp::from_unix(NOW)).unwrap();
        volume.put("EFI/fedora/SHIMX64.EFI", b"other".to_vec(), Stamp::from_unix(NOW)).unwrap();
        let made = volume.make(len, 512, 0).unwrap();
        let new = written(&made, Some(&source), len, &dir.path().join("new"));
        run("dosfstools", "fsck.fat", &["-n", &new]);
        let listing = run("mtools", "mdir", &["-/", "-b", "-i", &new, "::"]);
        for name in ["EFI/fedora/Some File.efi", "EFI/fedora/shimx64.efi", "EFI/BOOT/BOOTX64.EFI"] {
            assert!(listing.contains(&format!("::/{name}\n")), "{listing}");
        }
        assert_eq!(run("mtools", "mtype", &["-i", &new, "::/EFI/fedora/shimx64.efi"]), "other");
        assert!(run("mtools", "mtype", &["-i", &new, "::/EFI/fedora/Some File.efi"]) == "k".repeat(70_000));
        let blkid = run("util-linux", "blkid", &["-p", "-o", "export", &new]);
        assert!(blkid.contains("UUID=DEAD-BEEF") && blkid.contains("LABEL=EFI\\ SYS"), "{blkid}");
    }
}

#[test]
fn names_and_places_that_cannot_be_are_errors() {
    let time = Stamp::from_unix(0);
    let mut volume = Volume::new("", 1, time);
    volume.put("EFI/file", vec![1], time).unwrap();
    for path in ["", "EFI", "EFI/file/below", "EFI/a:b", "EFI/dot.", "EFI/\u{7}", &"x".repeat(256)] {
        let error = volume.put(path, vec![1], time).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage, "{path}: {}", error.chain());
    }
    let big = vec![1; 40 << 20];
    volume.put("big", big, time).unwrap();
    assert_eq!(volume.make(34 * M, 512, 0).unwrap_err().kind(), crate::ErrorKind::Refused);
}
