// SPDX-License-Identifier: Apache-2.0
//! `Store::check`: each object cut, flipped, missing, or there twice; what is hurt is named, and nothing else.

use std::fs;

use super::scene::*;
use crate::LEAF;
use crate::monitor::Silent;
use crate::store::pack::{Content, PackTable};
use crate::store::{CheckOptions, CheckReport, Mark, PruneOptions, Store};

fn check(store: &Store, read_percent: u8) -> CheckReport {
    store.check(&CheckOptions { read_percent, threads: 2, ..CheckOptions::default() }, &Silent).unwrap()
}

/// Where the chunk of a leaf lies: pack, first byte, bytes.
fn place(store: &Store, bytes: &[u8], leaf: u64) -> Vec<(PackTable, u64, u32)> {
    let content = &bytes[(leaf * LEAF) as usize..((leaf + 1) * LEAF) as usize];
    let id = store.seal().id(&crate::merkle::leaf(content));
    let packs = crate::store::backend::names(store.backend(), "packs/").unwrap();
    let tables = packs.iter().map(|name| {
        let id = PackTable::id_of(name).unwrap();
        PackTable::read(store.backend(), store.seal(), &id).unwrap().unwrap()
    });
    let mut found = Vec::new();
    for table in tables {
        let place = table.places().find(|(_, entry)| entry.id == id).map(|(at, entry)| (at, entry.stored));
        found.extend(place.map(|(at, stored)| (table, at, stored)));
    }
    found
}

fn flip(folder: &std::path::Path, object: &str, at: u64) {
    let path = folder.join(object);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at as usize] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_chunk_names_its_images_disks_and_bytes() {
    for secret in [None, Some(crate::store::Secret::KeyFile(zeroize::Zeroizing::new(noise(64, 1))))] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = init(folder.path(), secret);
        let (one, extents) = disk(1);
        let (two, _) = disk(2);
        let first = capture(&store, "a", &one, &extents).unwrap().0;
        capture(&store, "b", &two, &extents).unwrap();
        let mut three = one.clone();
        three[50 * LEAF as usize] ^= 1;
        let third = capture(&store, "c", &three, &extents).unwrap().0;
        let (table, at, _) = place(&store, &one, 51).pop().unwrap();
        flip(folder.path(), &PackTable::object(&table.id), at + 77);
        // Without reading packs there is nothing to see.
        assert!(check(&store, 0).is_whole());
        let report = check(&store, 100);
        let mut names: Vec<_> =
            report.hurt.iter().map(|hurt| (hurt.machine.as_str(), hurt.time.clone())).collect();
        names.sort();
        assert_eq!(names, [("a", first.time.clone()), ("c", third.time.clone())]);
        for hurt in &report.hurt {
            assert_eq!(hurt.disks.len(), 1);
            assert_eq!(hurt.disks[0].ranges, [(51 * LEAF, 52 * LEAF)]);
        }
        assert_eq!(report.damaged.len(), 1);
        assert_eq!(report.damaged[0].object, PackTable::object(&table.id));
        // Of one machine only.
        let images = Some(store.images_of("b").unwrap());
        let only = CheckOptions { images, read_percent: 100, ..CheckOptions::default() };
        let only = store.check(&only, &Silent).unwrap();
        assert!(only.is_whole() && only.read_bytes < report.read_bytes, "{only:?}");
    }
}

#[test]
fn what_is_damaged_is_sent_again_by_the_next_capture_and_mends_all_images() {
    for cut in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = init(folder.path(), None);
        let (one, extents) = disk(1);
        capture(&store, "a", &one, &extents).unwrap();
        let (table, at, _) = place(&store, &one, 51).pop().unwrap();
        let object = PackTable::object(&table.id);
        let path = folder.path().join(&object);
        if cut {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..at as usize + 100]).unwrap();
        } else {
            flip(folder.path(), &object, at + 77);
        }
        assert!(!check(&store, 100).is_whole());
        // Without a word nothing is sent again: the index says that it is there.
        let (_, same) = capture(&store, "a", &one, &extents).unwrap();
        assert_eq!(same.added.new_bytes, 0);
        let options = CheckOptions { read_percent: 100, quarantine: true, ..CheckOptions::default() };
        assert_eq!(store.check(&options, &Silent).unwrap().quarantined, 1);
        let (_, again) = capture(&store, "a", &one, &extents).unwrap();
        assert!(again.added.new_bytes == LEAF || cut && again.added.new_bytes > LEAF, "{again:?}");
        let report = check(&store, 100);
        assert!(report.hurt.is_empty(), "{report:?}");
        let first = store.images_of("a").unwrap()[0].time.clone();
        // A pack that was cut off is warned of as long as it is there.
        let back = read_quietly(&store, &format!("a@{first}"));
        assert!(back.is_some_and(|back| back == shown(&one, &extents)));
        // Prune leaves the damage behind.
        store.prune(&PruneOptions::default(), &Silent).unwrap();
        let report = check(&store, 100);
        assert!(report.is_whole() && report.notes.is_empty(), "{report:?}");
        assert!(!path.exists());
        assert!(read_back(&store, &format!("a@{first}")).0 == shown(&one, &extents));
    }
}

#[test]
fn a_chunk_that_is_whole_in_another_pack_hurts_nobody_and_that_copy_is_what_prune_keeps() {
    for which in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = init(folder.path(), None);
        let (one, extents) = disk(1);
        capture(&store, "a", &one, &extents).unwrap();
        // As two captures at once leave it: everything twice.
        let names = crate::store::backend::names(store.backend(), "packs/").unwrap();
        let packs: Vec<_> = names.iter().map(|name| PackTable::id_of(name).unwrap()).collect();
        let mark = Mark::write(&store, &packs).unwrap();
        capture(&store, "b", &one, &extents).unwrap();
        Mark::remove(&store, &mark.id).unwrap();
        let places = place(&store, &one, 51);
        assert_eq!(places.len(), 2);
        let (table, at, _) = &places[which];
        flip(folder.path(), &PackTable::object(&table.id), at + 9);
        let report = check(&store, 100);
        assert!(report.hurt.is_empty() && report.damaged.len() == 1, "{report:?}");
        assert!(read_back(&store, "a").0 == shown(&one, &extents));
        assert!(read_back(&store, "b").0 == shown(&one, &extents));
        let report = store.prune(&PruneOptions::default(), &Silent).unwrap();
        assert!(report.removed_packs >= 1, "{report:?}");
        assert!(check(&store, 100).hurt.is_empty());
        assert!(read_back(&store, "a").0 == shown(&one, &extents));
        assert!(read_back(&store, "b").0 == shown(&one, &extents));
    }
}

#[test]
fn a_lost_page_names_the_bytes_that_it_stands_for_and_nothing_is_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (one, extents) = disk(1);
    let (two, _) = disk(2);
    capture(&store, "a", &one, &extents).unwrap();
    let before = files(folder.path());
    capture(&store, "b", &two, &extents).unwrap();
    let new = files(folder.path())
        .into_iter()
        .find(|(name, _)| name.starts_with("packs/") && !before.iter().any(|(old, _)| old == name));
    let (object, _) = new.unwrap();
    let table =
        PackTable::read(store.backend(), store.seal(), &PackTable::id_of(&object).unwrap()).unwrap().unwrap();
    // The first page is the disk's only one; the node above it comes behind.
    let (at, _) = table.places().find(|(_, entry)| entry.content == Content::Page).unwrap();
    flip(folder.path(), &object, at + 3);
    let report = check(&store, 0);
    assert_eq!(report.hurt.len(), 1, "{report:?}");
    assert_eq!((report.hurt[0].machine.as_str(), report.hurt[0].disks[0].ranges.len()), ("b", 1));
    assert_eq!(report.hurt[0].disks[0].ranges[0], (0, two.len() as u64));
    store.remove_images(&store.images_of("a").unwrap()).unwrap();
    let packs = files(folder.path());
    let error = store.prune(&PruneOptions::default(), &Silent).unwrap_err();
    assert!(
        error.chain().contains("b@2026") && error.chain().contains("nothing was removed"),
        "{}",
        error.chain()
    );
    assert_eq!(files(folder.path()), packs);
    // The hurt image given up, the rest is pruned.
    store.remove_images(&store.images_of("b").unwrap()).unwrap();
    store.prune(&PruneOptions::default(), &Silent).unwrap();
    assert!(check(&store, 100).is_whole());
}

/// Each object of a small store, damaged in each way: what was complete and does not need it stays complete, and is pruned around.
#[test]
fn any_object_may_be_cut_flipped_missing_or_doubled() {
    let (one, extents) = disk(1);
    let (two, _) = disk(2);
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    capture(&store, "a", &one, &extents).unwrap();
    capture(&store, "b", &two, &extents).unwrap();
    capture(&store, "gone", &disk(3).0, &extents).unwrap();
    store.remove_images(&store.images_of("gone").unwrap()).unwrap();
    let machines = [("a", &one), ("b", &two)];
    let mut seen = (0, 0);
    for (object, len) in files(folder.path()).into_iter().filter(|(name, _)| name != "store.json") {
        for way in ["cut", "flip", "missing", "double", "empty"] {
            let other = tempfile::tempdir().unwrap();
            copy_folder(folder.path(), other.path());
            let path = other.path().join(&object);
            match way {
                "cut" => fs::File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap(),
                "flip" => flip(other.path(), &object, len / 2),
                "missing" => fs::remove_file(&path).unwrap(),
                "empty" => fs::write(&path, "").unwrap(),
                _ => {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    fs::copy(&path, path.with_file_name(format!("{name}.orig"))).unwrap();
                }
            }
            let (store, _) = again(other.path(), None);
            let report = check(&store, 100);
            for (machine, bytes) in machines {
                let hurt = report.hurt.iter().any(|hurt| hurt.machine == machine);
                let there = !store.images_of(machine).unwrap().is_empty();
                let right = read_quietly(&store, machine).is_some_and(|back| back == shown(bytes, &extents));
                assert_eq!(right, there && !hurt, "{object} {way} {machine}: {report:?}");
                seen.0 += u32::from(hurt || !there);
            }
            if way == "double" {
                assert!(report.hurt.is_empty() && report.damaged.is_empty(), "{object}: {report:?}");
            }
            // Prune does what it can, or refuses; either way nothing more is hurt.
            let pruned = store.prune(&PruneOptions::default(), &Silent);
            seen.1 += u32::from(pruned.is_ok());
            let after = check(&store, 100);
            let names = |report: &CheckReport| {
                let mut names: Vec<String> = report.hurt.iter().map(|hurt| hurt.machine.clone()).collect();
                names.sort();
                names
            };
            assert_eq!(names(&after), names(&report), "{object} {way}: {after:?}");
        }
    }
    assert!(seen.0 > 10 && seen.1 > 20, "{seen:?}");
}

/// The disk of an image, if all of it can be read.
fn read_quietly(store: &Store, machine: &str) -> Option<Vec<u8>> {
    use crate::BlockSource;
    let image = store.open_image(&crate::store::ImageName::parse(machine).unwrap()).ok()?;
    let source = &image.disks.first()?.source;
    let mut bytes = vec![0; source.size() as usize];
    source.read_at(&mut bytes, 0).ok()?;
    Some(bytes)
}
