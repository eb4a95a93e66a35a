// SPDX-License-Identifier: Apache-2.0
//! NTFS against ntfs-3g (mkntfs, its FUSE driver, its probe, ntfsfix), blkid and partclone.

use std::fs::{self, File};
use std::path::Path;

use proptest::prelude::*;

use super::boot::Boot;
use super::record::{Stream, kind};
use super::volume::{Content, Volume};
use crate::RangeSet;
use crate::filesystem::fat::oracle::{
    Changed, Image, Mount, age, assert_close, assert_never_less, contents, output, partclone, run, verdict,
};
use crate::filesystem::{Condition, FilesystemKind, probe, used};

fn formatted(size: u64, options: &[&str]) -> Image {
    let image = Image::new(size);
    let path = image.path.to_str().unwrap();
    run("ntfs-3g", "mkfs.ntfs", &[options, &["-F", "-Q", "-q", "-L", "Große Platte", path]].concat());
    image
}

fn mount(image: &Image, options: &str) -> Option<Mount> {
    Mount::new("ntfs-3g", "ntfs-3g", options, image.path.to_str().unwrap(), image.dir.path().join("mount"))
}

/// Files of many sizes, enough names in the root for an index of several blocks, a sparse file.
fn fill(dir: &Path, bytes: usize) {
    age(dir, bytes, 300, bytes as u64);
    (0..300).for_each(|number| fs::write(dir.join(format!("name {number} in the root")), b"little").unwrap());
    let sparse = File::create(dir.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 100_000], 3_000_000).unwrap();
}

#[test]
fn the_map_at_every_cluster_size_is_partclones_and_restores_every_file() {
    const M: u64 = 1 << 20;
    let kinds: &[(u64, &[&str])] = &[
        (40 * M, &["-c512"]),
        (100 * M + 512, &["-c1024"]),
        (200 * M, &["-c4096"]),
        (200 * M + 3 * 512, &["-c65536"]),
        (400 * M, &["-c262144"]),
        (1500 * M, &["-c2097152"]),
        (200 * M, &["-c4096", "-s4096"]),
    ];
    for (size, options) in kinds {
        let image = formatted(*size, options);
        let Some(mounted) = mount(&image, "rw") else { return };
        fill(&mounted.0, (*size as usize / 8).min(8 << 20));
        let before = contents(&mounted.0);
        mounted.unmount();

        let facts = image.facts();
        assert_eq!((facts.kind, &facts.condition), (FilesystemKind::Ntfs, &Condition::Clean));
        let blkid = |tag| {
            let text = output(
                "util-linux",
                "blkid",
                &["-p", "-o", "value", "-s", tag, image.path.to_str().unwrap()],
            );
            Some(String::from_utf8(text.stdout).unwrap().trim().to_owned())
        };
        assert_eq!((facts.uuid, facts.label), (blkid("UUID"), blkid("LABEL")));
        assert_eq!(facts.features, ["version 3.1"]);
        let mut used = image.used();
        assert_eq!((used.warnings.len(), &used.everything_because), (0, &None));
        assert!(used.ranges.covers(size - u64::from(facts.max_sector_size)..*size), "the backup boot sector");
        let tail = 2 * u64::from(facts.block_size);
        assert_close(&mut used.ranges, &mut partclone("partclone.ntfs", &image), tail);

        let copy = image.restored(&mut used.ranges);
        let check = |image| verdict("ntfs-3g", "ntfsfix", &["-n"], image);
        assert_eq!(check(&copy), check(&image), "{options:?}");
        let mounted = mount(&copy, "ro").unwrap();
        assert!(before.len() > 300 && contents(&mounted.0) == before, "{options:?}: files differ");
    }
}

/// What ntfs-3g says to a writable mount.
fn verdict_of_ntfs_3g(image: &Image) -> i32 {
    const HIBERNATED: i32 = 14;
    const UNCLEAN: i32 = 15;
    let path = image.path.to_str().unwrap();
    let status = output("ntfs-3g", "ntfs-3g.probe", &["--readwrite", path]).status.code().unwrap();
    assert!([0, HIBERNATED, UNCLEAN].contains(&status), "unexpected status {status} of ntfs-3g.probe");
    status
}

fn assert_all_data(image: &Image) {
    let mut used = image.used();
    assert_eq!(used.ranges.bytes(), image.bytes_len());
    let why = used.everything_because.unwrap();
    assert!(why.contains("shutdown /s /f /t 0"), "{why}");
}

#[test]
fn a_suspended_windows_is_found_where_ntfs_3g_finds_it() {
    for (name, magic, hibernated) in [
        ("hiberfil.sys", &b"hibr"[..], true),
        ("HiberFil.SYS", b"HIBR", true),
        ("hiberfil.sys", &[0; 4], false),
        ("hiberfil.sy", b"hibr", false),
    ] {
        let image = formatted(40 << 20, &[]);
        let Some(mounted) = mount(&image, "rw") else { return };
        fill(&mounted.0, 1 << 20);
        fs::write(mounted.0.join(name), [magic, &[0; 9000]].concat()).unwrap();
        mounted.unmount();
        let condition = image.facts().condition;
        if hibernated {
            assert!(matches!(condition, Condition::Hibernated(_)), "{name}");
            assert_all_data(&image);
        } else {
            assert_eq!(condition, Condition::Clean, "{name}");
        }
        // Its check knows one spelling of the name.
        if name == name.to_ascii_lowercase() {
            assert_eq!(verdict_of_ntfs_3g(&image) != 0, hibernated, "{name}");
        }
    }
    let image = formatted(40 << 20, &[]);
    let file = image.dir.path().join("hiberfil");
    fs::write(&file, [&b"wake"[..], &[0; 9000]].concat()).unwrap();
    run("ntfs-3g", "ntfscp", &["-q", image.path.to_str().unwrap(), file.to_str().unwrap(), "hiberfil.sys"]);
    assert!(matches!(image.facts().condition, Condition::Dirty(_)));
}

fn stream(image: &Image, number: u64) -> Stream {
    let boot = Boot::read(image).unwrap().unwrap();
    match Volume::open(image, boot).unwrap().content(number, kind::DATA, "") {
        Ok(Some(Content::Stream(stream))) => stream,
        _ => panic!("record {number} has no stream of data"),
    }
}

/// Puts what each 512 bytes end with aside, as every structure with an update sequence has it.
fn seal(data: &mut [u8]) {
    let start = u16::from_le_bytes([data[4], data[5]]) as usize;
    data[start..start + 2].copy_from_slice(&[1, 0]);
    for index in 0..data.len() / 512 {
        let tail = index * 512 + 510;
        let saved = [data[tail], data[tail + 1]];
        data[start + 2 + index * 2..start + 4 + index * 2].copy_from_slice(&saved);
        data[tail..tail + 2].copy_from_slice(&[1, 0]);
    }
}

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A restart page of a journal of `size` bytes, as Windows writes it.
fn restart_page(size: u64, lsn: u64, major: u16, in_use: bool, flags: u16) -> Vec<u8> {
    let minor = u16::from(major == 1);
    let mut page = vec![0; 4096];
    put(&mut page, 0, b"RSTR");
    for (at, value) in [(4, 30), (6, 9), (24, 48), (26, minor), (28, major)] {
        put(&mut page, at, &value.to_le_bytes());
    }
    for at in [16, 20] {
        put(&mut page, at, &4096u32.to_le_bytes());
    }
    let area = 48;
    put(&mut page, area, &lsn.to_le_bytes());
    let (free, busy) = if in_use { (0xFFFF, 0) } else { (0, 0xFFFFu16) };
    for (at, value) in
        [(8, 1), (10, free), (12, busy), (14, flags), (20, 48 + 160), (22, 48), (36, 48), (38, 64)]
    {
        put(&mut page, area + at, &u16::to_le_bytes(value));
    }
    put(&mut page, area + 16, &(67 - (64 - size.leading_zeros())).to_le_bytes());
    put(&mut page, area + 24, &size.to_le_bytes());
    let client = area + 48;
    put(&mut page, client + 16, &[0xFF; 4]);
    put(&mut page, client + 28, &8u32.to_le_bytes());
    put(&mut page, client + 32, b"N\0T\0F\0S\0");
    seal(&mut page);
    page
}

#[test]
fn a_journal_is_clean_where_ntfs_3g_calls_it_clean() {
    // Version, client in use, flags; of the older and of the newer page.
    type Page = (u16, bool, u16);
    const CLOSED: Page = (1, false, 2);
    let cases: [(Page, Page, bool); 6] = [
        (CLOSED, CLOSED, true),
        (CLOSED, (1, true, 0), false),
        ((1, true, 0), CLOSED, true),
        (CLOSED, (1, true, 2), true),
        (CLOSED, (2, true, 0), false),
        (CLOSED, (2, false, 2), false),
    ];
    for (older, newer, clean) in cases {
        let image = formatted(40 << 20, &[]);
        let log = stream(&image, 2);
        let at = log.runs[0].lcn.unwrap() * 4096;
        for (index, (major, in_use, flags)) in [older, newer].into_iter().enumerate() {
            let page = restart_page(log.size, 1000 + index as u64, major, in_use, flags);
            image.write(&page, at + index as u64 * 4096);
        }
        assert_eq!(verdict_of_ntfs_3g(&image) == 0, clean, "{older:?} {newer:?}: the test's page is wrong");
        assert_eq!(image.facts().condition == Condition::Clean, clean, "{older:?} {newer:?}");
        if !clean {
            assert_all_data(&image);
        }
        // Without the newer page (torn) the older one counts.
        image.write(&[0x77; 2], at + 4096 + 510);
        assert_eq!(image.facts().condition == Condition::Clean, older.0 == 1 && older.2 == 2);
    }
    let image = formatted(40 << 20, &[]);
    let log = stream(&image, 2);
    image.write(&[0; 8192], log.runs[0].lcn.unwrap() * 4096);
    assert_all_data(&image);
}

#[test]
fn a_volume_marked_dirty_is_all_data() {
    let image = formatted(40 << 20, &[]);
    // ntfsfix marks the volume for a check by Windows.
    run("ntfs-3g", "ntfsfix", &[image.path.to_str().unwrap()]);
    assert!(matches!(image.facts().condition, Condition::Dirty(_)));
    assert_all_data(&image);
}

/// A file record of 1024 bytes with these attributes.
fn record(number: u32, base: u64, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut data = vec![0; 1024];
    put(&mut data, 0, b"FILE");
    for (at, value) in
        [(4, 48), (6, 3), (16, number as u16), (18, u16::from(base == 0)), (20, 56), (22, 1), (40, 9)]
    {
        put(&mut data, at, &u16::to_le_bytes(value));
    }
    put(&mut data, 28, &1024u32.to_le_bytes());
    put(&mut data, 32, &base.to_le_bytes());
    put(&mut data, 44, &number.to_le_bytes());
    let all = [attributes.concat(), vec![0xFF; 4], vec![0; 4]].concat();
    put(&mut data, 56, &all);
    put(&mut data, 24, &(56 + all.len() as u32).to_le_bytes());
    seal(&mut data);
    data
}

#[test]
fn a_bitmap_whose_runs_are_spread_over_file_records_is_read_as_by_partclone() {
    let image = formatted(60 << 20, &["-c512"]);
    let mut before = image.used();
    let boot = Boot::read(&image).unwrap().unwrap();
    let bitmap = stream(&image, 6);
    let at = |number: u64| boot.mft * 512 + number * 1024;
    let (lcn, clusters) = (bitmap.runs[0].lcn.unwrap() as u32, bitmap.clusters());
    assert_eq!(bitmap.runs.len(), 1);

    // An extent of $DATA: clusters first..end of the bitmap, in one run with a 4-byte length and place.
    let extent = |first: u64, end: u64| {
        let mut data = vec![0; 80];
        put(&mut data, 0, &kind::DATA.to_le_bytes());
        for (at, value) in [(4, 80), (8, 1), (10, 64), (32, 64)] {
            put(&mut data, at, &u16::to_le_bytes(value));
        }
        put(&mut data, 16, &first.to_le_bytes());
        put(&mut data, 24, &(end - 1).to_le_bytes());
        if first == 0 {
            [(40, bitmap.allocated), (48, bitmap.size), (56, bitmap.valid)]
                .iter()
                .for_each(|(at, value)| put(&mut data, *at, &value.to_le_bytes()));
        }
        data[64] = 0x44;
        put(&mut data, 65, &((end - first) as u32).to_le_bytes());
        put(&mut data, 69, &(lcn + first as u32).to_le_bytes());
        data
    };
    let entry = |kind: u32, vcn: u64, reference: u64| {
        let mut data = vec![0; 32];
        put(&mut data, 0, &kind.to_le_bytes());
        put(&mut data, 4, &[32, 0, 0, 26]);
        put(&mut data, 8, &vcn.to_le_bytes());
        put(&mut data, 16, &reference.to_le_bytes());
        data
    };
    let base = 6 | 6 << 48;
    let half = clusters / 2;
    image.write(&record(16, base, &[extent(0, half)]), at(16));
    image.write(&record(17, base, &[extent(half, clusters)]), at(17));

    // The base record keeps its other attributes and gets the list, in order of their types.
    let mut old = image.bytes(at(6), 1024);
    super::record::fix_up(&mut old, "test").unwrap();
    let mut attributes = Vec::new();
    let mut place = u16::from_le_bytes([old[20], old[21]]) as usize;
    let mut list = Vec::new();
    while old[place..place + 4] != [0xFF; 4] {
        let len = u32::from_le_bytes(old[place + 4..place + 8].try_into().unwrap()) as usize;
        let number = u32::from(old[place]);
        if number != kind::DATA {
            attributes.push(old[place..place + len].to_vec());
            list.push(entry(number, 0, base));
        }
        place += len;
    }
    list.push(entry(kind::DATA, 0, 16 | 16 << 48));
    list.push(entry(kind::DATA, half, 17 | 17 << 48));
    let list = list.concat();
    let mut attribute = vec![0; 24];
    put(&mut attribute, 0, &kind::ATTRIBUTE_LIST.to_le_bytes());
    put(&mut attribute, 4, &(24 + list.len() as u32).to_le_bytes());
    put(&mut attribute, 14, &[8]);
    put(&mut attribute, 16, &(list.len() as u32).to_le_bytes());
    put(&mut attribute, 20, &[24]);
    attributes.insert(1, [attribute, list].concat());
    image.write(&record(6, 0, &attributes), at(6));

    assert_eq!(stream(&image, 6).runs.len(), 2);
    let mut after = image.used();
    assert_eq!(after.ranges.ranges(), before.ranges.ranges());
    assert_close(&mut after.ranges, &mut partclone("partclone.ntfs", &image), 4096);

    // An extent that belongs to another file, and one that is missing.
    image.write(&record(17, 7 | 7 << 48, &[extent(half, clusters)]), at(17));
    assert!(used(&image, &image.facts()).is_err());
    image.write(&record(17, base, &[extent(half + 1, clusters)]), at(17));
    assert!(used(&image, &image.facts()).is_err());
}

#[test]
fn damaged_metadata_never_hides_used_clusters() {
    let image = formatted(16 << 20, &["-c4096"]);
    let path = image.path.to_str().unwrap();
    for name in ["one", "two", "hiberfil.sys"] {
        run("ntfs-3g", "ntfscp", &["-q", path, "/bin/true", name]);
    }
    let data = image.bytes(0, 16 << 20);
    let truth = image.used().ranges;
    let boot = Boot::read(&image).unwrap().unwrap();
    let mft = boot.mft * 4096;
    for at in (0..90).chain(510..512).chain(mft..mft + 8 * 1024) {
        for value in [0, 0xFF, data[at as usize] ^ 1, data[at as usize] ^ 0x80] {
            if value != data[at as usize] {
                assert_never_less(&Changed { data: &data, changes: &[(at, value)] }, &truth);
            }
        }
    }
    // Anything at all must end, and without a panic: also where the bitmap itself is hit.
    let nothing = RangeSet::new();
    proptest!(ProptestConfig::with_cases(500), |(changes in proptest::collection::vec(
        (prop_oneof![0..512u64, mft..mft + 70 * 1024], any::<u8>()), 1..12))| {
        assert_never_less(&Changed { data: &data, changes: &changes }, &nothing);
    });
    for len in [0, 511, 512, 4096, mft as usize + 512, 8 << 20] {
        let _ = probe(&Changed { data: &data[..len], changes: &[] });
    }
}

#[test]
fn bitlocker_is_not_ntfs() {
    let image = formatted(16 << 20, &[]);
    image.write(b"-FVE-FS-", 3);
    assert_eq!(probe(&image).unwrap(), None);
}
