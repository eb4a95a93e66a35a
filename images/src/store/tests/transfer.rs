// SPDX-License-Identifier: Apache-2.0
//! Copies into another store, of another key.

use super::scene::*;
use crate::LEAF;
use crate::monitor::Silent;
use crate::store::pack::PackTable;
use crate::store::{CheckOptions, Secret};

fn key(seed: u64) -> Secret {
    Secret::KeyFile(zeroize::Zeroizing::new(noise(64, seed)))
}

#[test]
fn images_come_through_exactly_with_their_times_and_are_not_copied_twice() {
    for (from, into) in [(None, Some(key(1))), (Some(key(2)), Some(key(3))), (Some(key(4)), None)] {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (store, _) = init(folder.path(), from);
        let (target, _) = init(other.path(), into);
        let (one, extents) = disk(1);
        let mut two = one.clone();
        two[22 * LEAF as usize] ^= 1;
        capture(&store, "a", &one, &extents).unwrap();
        let times = ["2026-11-24T22:00:00Z", "2026-11-25T22:00:00Z"];
        capture_at(&store, "a", &two, &extents, times[0]);
        capture_at(&store, "b", &two, &extents, times[1]);
        let images = store.images().unwrap();
        let report = store.copy_images(&images[..1], &target, &options(), &Silent).unwrap();
        assert_eq!((report.copied.len(), report.skipped, report.failed.len()), (1, 0, 0));
        let report = store.copy_images(&images, &target, &options(), &Silent).unwrap();
        assert_eq!((report.copied.len(), report.skipped, report.failed.len()), (2, 1, 0), "{report:?}");
        // One leaf differs between all that is left and what was there; zeros and known leaves are not read.
        assert_eq!(report.read_bytes, LEAF);
        for (name, bytes) in
            [("a@20261124T215000Z", &one), ("a@20261124T220000Z", &two), ("b@20261125T220000Z", &two)]
        {
            let (back, map) = read_back(&target, name);
            assert!(back == shown(bytes, &extents) && map == extents, "{name}");
        }
        let check = CheckOptions { read_percent: 100, ..CheckOptions::default() };
        assert!(target.check(&check, &Silent).unwrap().is_whole());
    }
}

#[test]
fn an_image_that_is_hurt_is_left_out_and_said() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = init(folder.path(), None);
    let (target, _) = init(other.path(), Some(key(1)));
    let (one, extents) = disk(1);
    capture(&store, "a", &one, &extents).unwrap();
    let before = files(folder.path());
    capture(&store, "b", &disk(2).0, &extents).unwrap();
    let new = files(folder.path())
        .into_iter()
        .find(|(name, _)| PackTable::id_of(name).is_some() && !before.iter().any(|(old, _)| old == name));
    let path = folder.path().join(new.unwrap().0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let report = store.copy_images(&store.images().unwrap(), &target, &options(), &Silent).unwrap();
    assert_eq!((report.copied.len(), report.failed.len()), (1, 1));
    assert!(report.failed[0].0 == "b" && report.failed[0].2.contains("packs/"), "{report:?}");
    assert!(read_back(&target, "a").0 == shown(&one, &extents));
    assert!(target.images_of("b").unwrap().is_empty());
}
