// SPDX-License-Identifier: Apache-2.0

use super::scene::*;
use crate::monitor::Silent;
use crate::store::{ImageName, Writer};
use crate::{BlockSource, ErrorKind, LEAF};

#[test]
fn a_disk_comes_back_exactly_with_its_zeros_and_holes() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    let (image, summary) = capture(&store, "web01", &bytes, &extents).unwrap();
    assert_eq!(image.time, "20261124T215000Z");
    let (back, map) = read_back(&store, "web01");
    assert!(back == shown(&bytes, &extents));
    assert_eq!(map, extents);
    // Text of 10 leaves is one or few chunks; zeros are none.
    assert!(summary.added.stored_bytes < extents.bytes(crate::State::Data) - 10 * LEAF, "{summary:?}");
    assert!(
        files(folder.path())
            .iter()
            .all(|(name, _)| !name.starts_with("leases/") && !name.starts_with("tmp/"))
    );
}

#[test]
fn the_second_capture_stores_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (mut bytes, extents) = disk(1);
    let (_, first) = capture(&store, "web01", &bytes, &extents).unwrap();
    let (_, same) = capture(&store, "web01", &bytes, &extents).unwrap();
    assert_eq!((same.added.new_bytes, same.added.stored_bytes, same.added.packs), (0, 0, 0));
    assert_eq!(same.added.read_bytes, first.added.read_bytes);
    bytes[25 * LEAF as usize + 5] ^= 1;
    let (image, changed) = capture(&store, "web01", &bytes, &extents).unwrap();
    assert_eq!(changed.added.new_bytes, LEAF);
    // The leaf, its page, and what is above the page.
    assert!(changed.added.stored_bytes < LEAF + 20_000, "{changed:?}");
    assert_eq!(image.time, "20261124T215000Z-3");
    assert!(read_back(&store, "web01").0 == shown(&bytes, &extents));
    // Another machine with the same content has nothing new.
    let (_, other) = capture(&store, "web02", &bytes, &extents).unwrap();
    assert_eq!(other.added.stored_bytes, 0);
    assert!(read_back(&store, "web02").0 == shown(&bytes, &extents));
    bytes[25 * LEAF as usize + 5] ^= 1;
    assert!(read_back(&store, "web01@20261124T215000Z").0 == shown(&bytes, &extents));
    let ambiguous = store.find(&ImageName::parse("web01@2026").unwrap()).unwrap_err();
    assert!(
        ambiguous.kind() == ErrorKind::Refused && ambiguous.chain().contains("3 images"),
        "{}",
        ambiguous.chain()
    );
    assert_eq!(store.images().unwrap().len(), 4);
}

#[test]
fn what_a_killed_capture_had_sent_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    // More than a pack, so that some has arrived.
    let bytes = noise(40 << 20, 5);
    let extents = crate::ExtentMap::uniform(bytes.len() as u64, crate::State::Data);
    let writer = Writer::begin(&store, "web01", &options(), &Silent).unwrap();
    send(&writer, &bytes, &extents).unwrap();
    // As if it were killed: no last pack, no index, no image; the lease stays.
    drop(writer);
    let arrived: u64 =
        files(folder.path()).iter().filter(|(name, _)| name.starts_with("packs/")).map(|(_, len)| len).sum();
    assert!(arrived > 30 << 20);
    assert!(store.images().unwrap().is_empty());
    let (_, again) = capture(&store, "web01", &bytes, &extents).unwrap();
    let sent = again.added.stored_bytes;
    assert!(sent + arrived < (41 << 20) && again.added.new_bytes < 10 << 20, "{sent} after {arrived}");
    assert!(read_back(&store, "web01").0 == bytes);
}

#[test]
fn two_captures_at_once_do_not_harm_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (one, extents) = disk(1);
    let mut two = one.clone();
    two[22 * LEAF as usize..24 * LEAF as usize].copy_from_slice(&noise(2 * LEAF as usize, 99));
    let other = store.clone();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| capture(&store, "a", &one, &extents).unwrap());
        let second = scope.spawn(|| capture(&other, "b", &two, &extents).unwrap());
        let third = scope.spawn(|| capture(&other, "a", &one, &extents).unwrap());
        for capture in [first, second, third] {
            capture.join().unwrap();
        }
    });
    assert_eq!(store.images_of("a").unwrap().len(), 2);
    assert!(read_back(&store, "a").0 == shown(&one, &extents));
    assert!(read_back(&store, "b").0 == shown(&two, &extents));
}

#[test]
fn a_place_that_is_no_store_or_has_other_things_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let location = crate::store::Location::Directory(folder.path().join("nothing"));
    let none = crate::store::Store::open(&location, None).unwrap_err();
    assert!(none.kind() == ErrorKind::Refused && none.chain().contains("images init"), "{}", none.chain());
    std::fs::write(folder.path().join("mine"), "x").unwrap();
    let location = crate::store::Location::Directory(folder.path().to_owned());
    let other = crate::store::Store::init(&location, &Default::default()).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Refused);
}

#[test]
fn what_a_later_version_wrote_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let mut config = store.config().clone();
    config.features.push("time-travel".into());
    let bytes = crate::store::document::encode(
        &config,
        &crate::store::seal::Seal::none(),
        crate::store::seal::Kind::Key,
        "store.json",
    );
    std::fs::write(folder.path().join("store.json"), bytes.unwrap()).unwrap();
    let location = crate::store::Location::Directory(folder.path().to_owned());
    let error = crate::store::Store::open(&location, None).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unsupported && error.chain().contains("time-travel"),
        "{}",
        error.chain()
    );
}

#[test]
fn zero_ranges_are_known_without_reading() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(3);
    capture(&store, "a", &bytes, &extents).unwrap();
    let image = store.open_image(&ImageName::parse("a").unwrap()).unwrap();
    let source = &image.disks[0].source;
    let mut at = 0;
    while at < source.size() {
        let known = source.extent_at(at, source.size() - at).unwrap();
        assert!(known.offset == at && known.len > 0);
        if known.state != crate::State::Data {
            assert!(shown(&bytes, &extents)[at as usize..known.end() as usize].iter().all(|byte| *byte == 0));
        }
        at = known.end();
    }
    assert_eq!(source.extent_at(6 * LEAF, 30 * LEAF).unwrap().len, 14 * LEAF);
}
