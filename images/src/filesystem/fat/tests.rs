// SPDX-License-Identifier: Apache-2.0
//! FAT against dosfstools, mtools, blkid and partclone.

use std::fs;

use proptest::prelude::*;

use super::oracle::{
    Changed, Image, age, assert_close, assert_never_less, contents, output, partclone, run, verdict,
};
use crate::RangeSet;
use crate::filesystem::{Condition, FilesystemKind, probe};

/// Formats, copies files in, deletes some and copies others in.
fn aged(size: u64, options: &[&str]) -> Image {
    let image = Image::new(size);
    let path = image.path.to_str().unwrap();
    run("dosfstools", "mkfs.vfat", &[options, &["-n", "OLD DISK", path]].concat());
    let files = image.dir.path().join("files");
    age(&files, (size as usize / 8).min(4 << 20), 300, size);
    let files = files.to_str().unwrap();
    for name in ["::first", "::second"] {
        run("mtools", "mcopy", &["-i", path, "-s", "-Q", files, name]);
    }
    run("mtools", "mdeltree", &["-i", path, "::first"]);
    run("mtools", "mcopy", &["-i", path, "-s", "-Q", files, "::third"]);
    run("mtools", "mdeltree", &["-i", path, "::second/directory 3", "::third/directory 5"]);
    image
}

fn extracted(image: &Image) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    let out = image.dir.path().join("out");
    fs::create_dir_all(&out).unwrap();
    run("mtools", "mcopy", &["-i", image.path.to_str().unwrap(), "-s", "-n", "::", out.to_str().unwrap()]);
    contents(&out)
}

#[test]
fn the_map_of_every_kind_of_fat_is_the_checkers_and_restores_every_file() {
    const M: u64 = 1 << 20;
    let kinds: &[(u64, &[&str], FilesystemKind, Option<u16>)] = &[
        (1_474_560, &["-F12"], FilesystemKind::Fat12, None),
        (8 * M + 1536, &["-F12", "-s8"], FilesystemKind::Fat12, None),
        (16 * M, &["-F16", "-s2", "-f1"], FilesystemKind::Fat16, None),
        (120 * M, &["-F16", "-s8", "-S1024"], FilesystemKind::Fat16, None),
        (40 * M, &["-F32", "-s1"], FilesystemKind::Fat32, None),
        // As on most EFI system partitions: fewer clusters than FAT32 should have, and a number of sectors that
        // fits the 16-bit field.
        (40 * M, &["-F32", "-s1"], FilesystemKind::Fat32, Some(60_000)),
        (300 * M, &["-F32", "-S4096", "-s1"], FilesystemKind::Fat32, None),
        (140 * M, &["-F32", "-S2048", "-s1", "-R9"], FilesystemKind::Fat32, None),
    ];
    for (size, options, kind, sectors) in kinds {
        let image = aged(*size, options);
        // mtools takes no such small FAT32, so the volume is shrunk only now and grown again for mtools below.
        let all_sectors = image.bytes(19, 17);
        if let Some(sectors) = sectors {
            for boot in [0, 6 * 512] {
                image.write(&sectors.to_le_bytes(), boot + 19);
                image.write(&[0; 4], boot + 32);
            }
        }
        let facts = image.facts();
        assert_eq!(facts.kind, *kind, "{options:?}");
        assert_eq!(facts.condition, Condition::Clean, "{options:?}");
        let mut used = image.used();
        assert_eq!((used.warnings.as_slice(), &used.everything_because), (&[] as &[String], &None));

        // "16 files, 1234/5678 clusters"; all else is in front of the first cluster or behind the last.
        let (status, report) = verdict("dosfstools", "fsck.fat", &["-n", "-v"], &image);
        // The count of free clusters (a hint) is wrong in a volume that was shrunk.
        assert_eq!(status, Some(i32::from(sectors.is_some())), "{report}");
        let clusters = report.lines().last().unwrap().split(' ').find(|word| word.contains('/')).unwrap();
        let (busy, all) = clusters.split_once('/').unwrap();
        let unused =
            (all.parse::<u64>().unwrap() - busy.parse::<u64>().unwrap()) * u64::from(facts.block_size);
        assert_eq!(used.ranges.bytes(), facts.size_bytes - unused, "{options:?}: {report}");
        assert_eq!(
            used.ranges.gaps(*size).iter().map(|gap| gap.end - gap.start).sum::<u64>()
                - (size - facts.size_bytes),
            unused
        );
        // partclone shows other clusters than the checker on FAT12, even of an empty volume.
        if facts.max_sector_size == 512 && *kind != FilesystemKind::Fat12 && sectors.is_none() {
            assert_close(&mut used.ranges, &mut partclone("partclone.vfat", &image), 1 << 20);
        }

        let copy = image.restored(&mut used.ranges);
        assert_eq!(verdict("dosfstools", "fsck.fat", &["-n", "-v"], &copy), (status, report), "{options:?}");
        assert_eq!(probe(&copy).unwrap(), Some(facts));
        [&image, &copy].iter().for_each(|image| image.write(&all_sectors, 19));
        let (before, after) = (extracted(&image), extracted(&copy));
        assert!(before.len() > 10 && before == after, "{options:?}: files differ");
    }
}

#[test]
fn facts_are_what_blkid_prints() {
    let labelled = [
        ("-F12", "-nFLOPPY", "-i1234abcd"),
        ("-F16", "-nA B c", "-i00000001"),
        ("-F32", "-nNO NAME", "-ideadbeef"),
    ];
    for (kind, label, serial) in labelled {
        let image = Image::new(40 << 20);
        let path = image.path.to_str().unwrap();
        let cluster = match kind {
            "-F12" => "-s64",
            "-F16" => "-s4",
            _ => "-s1",
        };
        run("dosfstools", "mkfs.vfat", &[kind, cluster, label, serial, path]);
        let facts = image.facts();
        let blkid = |tag| {
            let text = output("util-linux", "blkid", &["-p", "-o", "value", "-s", tag, path]).stdout;
            Some(String::from_utf8(text).unwrap().trim().to_owned()).filter(|text| !text.is_empty())
        };
        assert_eq!((facts.uuid, facts.label), (blkid("UUID"), blkid("LABEL")), "{kind}");
        assert_eq!(Some(facts.kind.name().to_owned()), blkid("TYPE"));
    }
}

#[test]
fn bad_clusters_are_left_out_and_copies_that_differ_are_united() {
    let image = aged(16 << 20, &["-F16", "-s2"]);
    let mut before = image.used();
    let hole = before.ranges.gaps(16 << 20).into_iter().max_by_key(|gap| gap.end - gap.start).unwrap();
    let boot = super::boot::Boot::read(&image).unwrap().unwrap();
    let cluster = (hole.start - boot.data) / u64::from(boot.cluster_size) + 2;
    let entry = |copy: u64, cluster: u64| boot.fat + copy * boot.fat_size + cluster * 2;

    for copy in 0..2 {
        image.write(&[0xF7, 0xFF], entry(copy, cluster));
    }
    image.write(&[0xFF, 0xFF], entry(1, cluster + 2));
    let mut after = image.used();
    assert_eq!(after.ranges.bytes(), before.ranges.bytes() + u64::from(boot.cluster_size));
    assert!(after.ranges.covers(boot.cluster_at(cluster + 2)..boot.cluster_at(cluster + 3)));
    assert_eq!(after.warnings.len(), 2, "{:?}", after.warnings);

    // A link to nowhere means that this table is not to be trusted.
    image.write(&[0xEE, 0xFF], entry(0, cluster));
    assert!(crate::filesystem::used(&image, &image.facts()).is_err());
}

#[test]
fn a_volume_in_use_is_read_with_a_warning() {
    for (options, at, value) in [("-F16", 37, 1), ("-F32", 65, 1), ("-F32", 32 * 512 + 7, 0x07)] {
        let image = Image::new(80 << 20);
        run("dosfstools", "mkfs.vfat", &[options, image.path.to_str().unwrap()]);
        let clean = image.used().ranges.bytes();
        image.write(&[value], at);
        if at > 512 {
            let boot = super::boot::Boot::read(&image).unwrap().unwrap();
            image.write(&[value], at + boot.fat_size);
        }
        assert!(matches!(image.facts().condition, Condition::Dirty(_)), "{options}");
        let mut used = image.used();
        assert_eq!((used.ranges.bytes(), used.warnings.len()), (clean, 1));
    }
}

#[test]
fn an_old_boot_sector_before_something_else_is_not_fat() {
    let image = Image::new(80 << 20);
    run("dosfstools", "mkfs.vfat", &["-F32", image.path.to_str().unwrap()]);
    let sector = image.bytes(0, 512);
    for (at, magic) in [(512, &b"LABELONE"[..]), (1024, &0xF2F5_2010u32.to_le_bytes()), (4086, b"SWAPSPACE2")]
    {
        let other = Image::new(80 << 20);
        other.write(&sector, 0);
        other.write(magic, at);
        assert!(probe(&other).unwrap().is_none_or(|facts| facts.kind == FilesystemKind::Swap));
    }
    let other = Image::new(80 << 20);
    other.write(&sector, 0);
    assert!(probe(&other).is_err(), "a boot sector without a table must not pass");
    let mbr = Image::new(1 << 20);
    mbr.write(&[0xEB], 0);
    mbr.write(&[0x55, 0xAA], 510);
    assert_eq!(probe(&mbr).unwrap(), None);
}

#[test]
fn damaged_metadata_never_hides_used_clusters() {
    for options in [&["-F12", "-s8"][..], &["-F16", "-s1"], &["-F32", "-s1"]] {
        let size = if options[0] == "-F32" { 36 << 20 } else { 8 << 20 };
        let image = aged(size, options);
        let data = image.bytes(0, size as usize);
        let boot = super::boot::Boot::read(&image).unwrap().unwrap();
        let truth = image.used().ranges;
        // What a table calls free is the truth; so bytes of all else are changed, and both tables at once are not.
        for at in (0..90).chain(510..512).chain([424, 425]) {
            for value in [0, 1, 0x7F, 0x80, 0xFF, data[at as usize] ^ 1, data[at as usize] ^ 0x10] {
                let changes = [(at, value)];
                if !moves_the_tables(&changes, &data) {
                    assert_never_less(&Changed { data: &data, changes: &changes }, &truth);
                }
            }
        }
        proptest!(ProptestConfig::with_cases(300), |(changes in proptest::collection::vec(
            (boot.fat..boot.fat + boot.fat_size, any::<u8>()), 1..6))| {
            assert_never_less(&Changed { data: &data, changes: &changes }, &truth);
        });
        let nothing = RangeSet::new();
        proptest!(ProptestConfig::with_cases(300), |(changes in proptest::collection::vec(
            (0..boot.data, any::<u8>()), 1..12))| {
            assert_never_less(&Changed { data: &data, changes: &changes }, &nothing);
        });
    }
}

/// FAT has no checksum: a parameter block that still makes sense describes another, valid volume.
fn moves_the_tables(changes: &[(u64, u8)], data: &[u8]) -> bool {
    let plain = Changed { data, changes: &[] };
    let changed = Changed { data, changes };
    let geometry = |source: &Changed<'_>| {
        super::boot::Boot::read(source).ok().flatten().map(|boot| {
            (
                boot.kind,
                boot.cluster_size,
                boot.clusters,
                boot.fat,
                boot.fat_size,
                boot.fats,
                boot.data,
                boot.size,
            )
        })
    };
    let other = geometry(&changed);
    other.is_some() && other != geometry(&plain)
}
