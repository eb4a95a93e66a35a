// SPDX-License-Identifier: Apache-2.0
//! Volumes made anew, judged by dosfstools, mtools and blkid.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use unmoor_images::adapt::Memory;
use unmoor_images::formats::{self, OpenOptions};
use unmoor_images::{BlockSource, ErrorKind};

use super::{Remade, remake};
use crate::view::View;

const M: u64 = 1 << 20;
/// Where the volume lies in the image, and on the target.
const OLD: u64 = M;
const NEW: u64 = 3 * M;

fn output(package: &str, program: &str, arguments: &[&str]) -> Output {
    let output =
        Command::new(program).args(arguments).env("MTOOLS_SKIP_CHECK", "1").env("TZ", "UTC").output();
    output.unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"))
}

fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = output(package, program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Files as on an EFI system partition, with what is hard: long, Unicode and clashing names, deep folders, a full
/// directory, an empty file, a fragmented one.
fn fill(dir: &Path, volume: &str) {
    let files = dir.join("files");
    fs::create_dir_all(files.join("EFI/debian/über lange Namen/深い/d/e/f")).unwrap();
    fs::create_dir_all(files.join("EFI/BOOT")).unwrap();
    let mut noise = 7u32;
    let mut bytes = |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            })
            .collect()
    };
    for (name, len) in [
        ("EFI/BOOT/BOOTX64.EFI", 300_001),
        ("EFI/debian/grubx64.efi", 65_536),
        ("EFI/debian/grub.cfg", 117),
        ("EFI/debian/empty", 0),
        ("EFI/debian/über lange Namen/a file with a long name.txt", 5000),
        ("EFI/debian/über lange Namen/a file with a longer name.txt", 4096),
        ("EFI/debian/über lange Namen/深い/d/e/f/Ünïcödé ☃ 雪だるま.efi", 1),
        ("startup.nsh", 4097),
    ] {
        fs::write(files.join(name), bytes(len)).unwrap();
    }
    for number in 0..150 {
        fs::write(files.join(format!("EFI/BOOT/theme file number {number}")), bytes(number * 7)).unwrap();
    }
    let mut all = vec!["-i", volume, "-s", "-m"];
    let names: Vec<String> = fs::read_dir(&files)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    all.extend(names.iter().map(String::as_str));
    all.push("::");
    run("mtools", "mcopy", &all);
    run("mtools", "mdel", &["-i", volume, "::EFI/BOOT/theme file number 1?"]);
    let fragmented = dir.join("fragmented");
    fs::write(&fragmented, bytes(40_000)).unwrap();
    run("mtools", "mcopy", &["-i", volume, fragmented.to_str().unwrap(), "::vmlinuz"]);
    run("mtools", "mattrib", &["-i", volume, "+r", "+h", "+s", "::vmlinuz"]);
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path.clone());
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), Vec::new());
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Everything that mtools and blkid say of a volume but its free space.
fn description(volume: &str, out: &Path) -> (Vec<String>, String, BTreeMap<PathBuf, Vec<u8>>) {
    let listing = run("mtools", "mdir", &["-/", "-a", "-i", volume, "::"]);
    let listing = listing.lines().filter(|line| !line.contains("bytes free")).map(str::to_owned).collect();
    let attributes = run("mtools", "mattrib", &["-/", "-i", volume, "::"]);
    let mut identity = String::new();
    for tag in ["UUID", "LABEL", "LABEL_FATBOOT"] {
        identity += &run("util-linux", "blkid", &["-p", "-o", "value", "-s", tag, volume]);
    }
    fs::create_dir_all(out).unwrap();
    run("mtools", "mcopy", &["-i", volume, "-s", "-n", "-m", "::", out.to_str().unwrap()]);
    (listing, identity + &attributes, contents(out))
}

/// The volume of `view`, as a file.
fn extract(image: &dyn BlockSource, remade: &Remade, sector_size: u32, len: u64, path: &Path) {
    let view = View::new(image, &remade.pieces, &remade.patches, NEW + len, sector_size);
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    let mut at = 0;
    while at < len {
        let mut piece = vec![0; M.min(len - at) as usize];
        view.read_at(&mut piece, NEW + at).unwrap();
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(&piece, at).unwrap();
        }
        at += piece.len() as u64;
    }
}

/// A disk with a volume in it.
fn disk(dir: &Path, len: u64, options: &[&str]) -> (String, Box<dyn BlockSource>) {
    let volume = dir.join("volume");
    File::create(&volume).unwrap().set_len(len).unwrap();
    let volume = volume.to_str().unwrap().to_owned();
    run("dosfstools", "mkfs.fat", &[&["-n", "EFI SYS", "-i", "DEADBEEF"], options, &[&volume]].concat());
    fill(dir, &volume);
    let mut image = File::create(dir.join("image")).unwrap();
    image.seek(SeekFrom::Start(OLD)).unwrap();
    std::io::copy(&mut File::open(&volume).unwrap(), &mut image).unwrap();
    image.flush().unwrap();
    let format = OpenOptions { format: Some(formats::Format::Raw), ..OpenOptions::default() };
    (volume, formats::open(&dir.join("image"), &format).unwrap().source)
}

#[test]
fn a_volume_of_every_kind_made_anew_holds_the_same_for_checker_and_mtools() {
    // (bytes, mkfs.fat's options, sectors of the target, its kind as fsck.fat names it)
    let cases: &[(u64, &[&str], u32, u32)] = &[
        (4 * M, &["-F12"], 4096, 12),
        (12 * M, &["-F12", "-S4096", "-s1"], 512, 12),
        (33 * M + 4096, &["-F16", "-s2"], 4096, 16),
        (120 * M, &["-F16", "-S4096"], 512, 16),
        // As Debian's installer and Windows make them.
        (512 * M, &["-F32"], 4096, 32),
        (300 * M, &["-F32", "-S4096", "-s1"], 512, 32),
        (300 * M, &["-F16", "-s16", "-f1", "-r4096"], 4096, 16),
        // Too few clusters for FAT16 once they are larger.
        (12 * M, &["-F16", "-s1"], 4096, 12),
    ];
    for (len, options, sector_size, bits) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (volume, image) = disk(dir.path(), *len, options);
        let remade = remake(&image, OLD..OLD + len, NEW..NEW + len, *sector_size).unwrap().unwrap();
        let new = dir.path().join("new");
        extract(&image, &remade, *sector_size, *len, &new);
        let new = new.to_str().unwrap();

        let verdict = output("dosfstools", "fsck.fat", &["-n", "-v", new]);
        let text = String::from_utf8_lossy(&verdict.stdout).into_owned();
        assert!(verdict.status.success(), "{options:?} -> {sector_size}: {text}");
        assert!(text.contains(&format!("{sector_size} bytes per logical sector")), "{text}");
        assert!(text.contains(&format!("{bits} bit entries")), "{text}");
        let before = description(&volume, &dir.path().join("before"));
        let after = description(new, &dir.path().join("after"));
        assert_eq!(before.0, after.0, "{options:?} -> {sector_size}");
        assert_eq!(before.1, after.1, "{options:?} -> {sector_size}");
        assert!(before.1.contains("DEAD-BEEF"));
        assert!(before.2 == after.2 && before.2.len() > 140, "{options:?} -> {sector_size}");

        assert!(remade.pieces.windows(2).all(|pair| pair[0].to + pair[0].len <= pair[1].to));
        let held: usize = remade.patches.iter().map(|patch| patch.bytes.len()).sum();
        assert!(held < 4 << 20, "{held}");
        let same =
            remake(&image, OLD..OLD + len, NEW..NEW + len, if *sector_size == 512 { 4096 } else { 512 });
        assert!(same.unwrap().is_none());
    }
}

/// mtools takes no FAT32 with fewer than 65525 clusters, which Linux, EDK2 and Windows do: it judges the way back.
#[test]
fn a_small_fat32_stays_fat32_and_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let len = 100 * M;
    let (volume, image) = disk(dir.path(), len, &["-F32", "-s1"]);
    let remade = remake(&image, OLD..OLD + len, NEW..NEW + len, 4096).unwrap().unwrap();
    let there = dir.path().join("there");
    extract(&image, &remade, 4096, len, &there);
    let verdict = output("dosfstools", "fsck.fat", &["-n", "-v", there.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&verdict.stdout).into_owned();
    assert!(verdict.status.success() && text.contains("32 bit entries"), "{text}");

    let raw = OpenOptions { format: Some(formats::Format::Raw), ..OpenOptions::default() };
    let image = formats::open(&there, &raw).unwrap().source;
    let remade = remake(&image, 0..len, NEW..NEW + len, 512).unwrap().unwrap();
    let back = dir.path().join("back");
    extract(&image, &remade, 512, len, &back);
    let back = back.to_str().unwrap();
    run("dosfstools", "fsck.fat", &["-n", back]);
    let before = description(&volume, &dir.path().join("before"));
    assert!(before == description(back, &dir.path().join("after")) && before.1.contains("DEAD-BEEF"));
}

#[test]
fn damaged_volumes_are_refused_or_made_but_never_panic_or_hang() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, _) = disk(dir.path(), 2 * M, &["-F12"]);
    let mut bytes = fs::read(volume).unwrap();
    let (mut refused, mut made) = (0, 0);
    let mut noise = 99u64;
    for _ in 0..4000 {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Boot sector, FATs, root and the first directories.
        let most = if noise >> 62 == 0 { 64 } else { 64 << 10 };
        let at = (noise >> 33) as usize % most;
        let was = bytes[at];
        bytes[at] = (noise >> 20) as u8;
        let source = Memory::new(bytes.clone());
        match remake(&source, 0..2 * M, 0..2 * M, 4096) {
            Ok(Some(remade)) => {
                let end = 2 * M;
                assert!(remade.patches.iter().all(|patch| patch.end() <= end));
                assert!(
                    remade
                        .pieces
                        .iter()
                        .all(|piece| piece.to + piece.len <= end && piece.from + piece.len <= end)
                );
                made += 1;
            }
            Ok(None) => {}
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Refused),
                    "{}",
                    error.chain()
                );
                refused += 1;
            }
        }
        bytes[at] = was;
    }
    assert!(refused > 100 && made > 100, "{refused} {made}");
}

#[test]
fn rings_of_directories_and_of_clusters_end() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, _) = disk(dir.path(), 2 * M, &["-F12", "-s1"]);
    let bytes = fs::read(volume).unwrap();
    let source = Memory::new(bytes.clone());
    let boot = unmoor_images::filesystem::fat::Boot::read(&source).unwrap().unwrap();
    // The entry of EFI, which is the first directory in the root.
    let root = boot.root as usize;
    let entry = (root..root + 4096).step_by(32).find(|at| bytes[*at..].starts_with(b"EFI        ")).unwrap();
    let cluster = u64::from(u16::from_le_bytes([bytes[entry + 26], bytes[entry + 27]]));
    // EFI/BOOT is EFI itself.
    let mut ring = bytes.clone();
    let efi = boot.cluster_at(cluster) as usize;
    let inner = (efi..efi + 512).step_by(32).find(|at| bytes[*at..].starts_with(b"BOOT       ")).unwrap();
    ring[inner + 26..inner + 28].copy_from_slice(&bytes[entry + 26..entry + 28]);
    assert_eq!(
        remake(&Memory::new(ring), 0..2 * M, 0..2 * M, 4096).unwrap_err().kind(),
        ErrorKind::Malformed
    );
    // EFI's chain of clusters leads to itself.
    let mut ring = bytes;
    for copy in 0..boot.fats {
        let at = (boot.fat + copy * boot.fat_size + cluster * 3 / 2) as usize;
        let (even, value) = (cluster % 2 == 0, cluster as u16);
        let old = u16::from_le_bytes([ring[at], ring[at + 1]]);
        let new = if even { old & 0xF000 | value } else { old & 0x000F | value << 4 };
        ring[at..at + 2].copy_from_slice(&new.to_le_bytes());
    }
    assert_eq!(
        remake(&Memory::new(ring), 0..2 * M, 0..2 * M, 4096).unwrap_err().kind(),
        ErrorKind::Malformed
    );
}

#[test]
fn files_that_do_not_fit_in_larger_clusters_are_a_refusal_with_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    File::create(&volume).unwrap().set_len(M).unwrap();
    let path = volume.to_str().unwrap();
    run("dosfstools", "mkfs.fat", &["-F12", "-s1", path]);
    let files = dir.path().join("small");
    fs::create_dir(&files).unwrap();
    (0..400).for_each(|number| fs::write(files.join(format!("{number}.txt")), b"few bytes").unwrap());
    run("mtools", "mcopy", &["-i", path, "-s", files.to_str().unwrap(), "::"]);
    let error = remake(&Memory::new(fs::read(&volume).unwrap()), 0..M, 0..M, 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.chain().contains("need 404 clusters of 4096 bytes"), "{}", error.chain());
}
