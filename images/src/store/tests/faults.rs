// SPDX-License-Identifier: Apache-2.0
//! Backends that fail: nothing complete is lost, and what can come through does.

use std::sync::atomic::Ordering;

use super::faulty::faulty;
use super::scene::*;
use crate::monitor::Silent;
use crate::store::Writer;
use crate::{ErrorKind, ExtentMap, State};

#[test]
fn a_full_disk_ends_a_capture_with_its_reason_and_what_arrived_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(folder.path(), false);
    let (old, map) = disk(1);
    capture(&store, "old", &old, &map).unwrap();
    let bytes = noise(110 << 20, 5);
    let extents = ExtentMap::uniform(bytes.len() as u64, State::Data);
    *faults.room.lock().unwrap() = Some(70 << 20);
    let error = capture(&store, "a", &bytes, &extents).unwrap_err();
    let said = error.chain();
    assert!(
        error.kind() == ErrorKind::Io && said.contains("packs/") && said.contains("No space left"),
        "{said}"
    );
    assert_eq!(store.images().unwrap().len(), 1);
    assert!(read_back(&store, "old").0 == shown(&old, &map));
    *faults.room.lock().unwrap() = None;
    let (_, again) = capture(&store, "a", &bytes, &extents).unwrap();
    assert!(again.added.new_bytes < 60 << 20, "{again:?}");
    assert!(read_back(&store, "a").0 == bytes);
}

#[test]
fn listings_that_say_everything_twice_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(folder.path(), false);
    faults.doubled.store(true, Ordering::Relaxed);
    let (bytes, extents) = disk(1);
    capture(&store, "a", &bytes, &extents).unwrap();
    drop(Writer::begin(&store, "killed", &options(), &Silent).unwrap());
    let (_, again) = capture(&store, "a", &bytes, &extents).unwrap();
    assert_eq!(again.added.stored_bytes, 0);
    assert_eq!(store.images().unwrap().len(), 2);
    let latest = store.images_of("a").unwrap().pop().unwrap();
    assert!(read_back(&store, &format!("a@{}", latest.time)).0 == shown(&bytes, &extents));
}

#[test]
fn listings_that_come_late_cost_room_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(folder.path(), false);
    let (bytes, extents) = disk(1);
    faults.late.store(true, Ordering::Relaxed);
    let (first, _) = capture(&store, "a", &bytes, &extents).unwrap();
    let (second, again) = capture(&store, "a", &bytes, &extents).unwrap();
    assert!(store.images().unwrap().is_empty() && again.added.new_bytes > 0);
    faults.reveal();
    assert_ne!(first.time, second.time);
    assert_eq!(store.images().unwrap().len(), 2);
    for image in [first, second] {
        assert!(read_back(&store, &format!("a@{}", image.time)).0 == shown(&bytes, &extents));
    }
    let (_, third) = capture(&store, "a", &bytes, &extents).unwrap();
    assert_eq!(third.added.stored_bytes, 0);
}

#[test]
fn bits_that_flip_on_their_way_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    for remote in [false, true] {
        let folder = folder.path().join(remote.to_string());
        let (store, faults) = faulty(&folder, remote);
        let (bytes, extents) = disk(1);
        capture(&store, "a", &bytes, &extents).unwrap();
        let image = store.open_image(&crate::store::ImageName::parse("a").unwrap()).unwrap();
        let mut back = vec![0; bytes.len()];
        faults.flips.store(1, Ordering::Relaxed);
        crate::BlockSource::read_at(&image.disks[0].source, &mut back, 0).unwrap();
        assert!(back == shown(&bytes, &extents));
        assert_eq!(faults.flips.load(Ordering::Relaxed), 0);
    }
}
