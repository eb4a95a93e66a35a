// SPDX-License-Identifier: Apache-2.0
//! Objects that are cut, flipped or missing: found, named, and nothing else is hurt.

use std::fs;

use super::scene::*;
use crate::copy;
use crate::monitor::{Phase, Silent};
use crate::store::ImageName;
use crate::{LEAF, Result};

/// Bytes of the image that `verify` finds damaged or unreadable.
fn damage(store: &crate::store::Store, name: &str) -> Result<Vec<std::ops::Range<u64>>> {
    let image = store.open_image(&ImageName::parse(name).unwrap())?;
    let disk = &image.disks[0];
    let run = copy::Options { threads: 2, disk: 0, phase: Phase::Verify, name: "test".into() };
    let found = copy::verify(&disk.source, &disk.extents, &disk.leaves, &run, &Silent)?;
    let mut hurt = found.differing;
    hurt.extend(found.unreadable.into_iter().map(|(range, _)| range));
    Ok(hurt)
}

#[test]
fn a_flipped_chunk_is_found_and_its_leaf_named() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    capture(&store, "a", &bytes, &extents).unwrap();
    let mut other = bytes.clone();
    other[50 * LEAF as usize..51 * LEAF as usize].copy_from_slice(&noise(LEAF as usize, 77));
    capture(&store, "b", &other, &extents).unwrap();
    let mut packs: Vec<_> =
        files(folder.path()).into_iter().filter(|(name, _)| name.starts_with("packs/")).collect();
    packs.sort_by_key(|(_, len)| *len);
    assert_eq!(packs.len(), 2);
    // The small pack is what b has for itself: its leaf is its first chunk.
    let path = folder.path().join(&packs[0].0);
    let mut pack = fs::read(&path).unwrap();
    pack[16 + 1000] ^= 1;
    fs::write(&path, &pack).unwrap();
    assert_eq!(damage(&store, "a").unwrap(), []);
    assert_eq!(damage(&store, "b").unwrap(), [50 * LEAF..51 * LEAF]);
}

#[test]
fn indexes_may_be_lost_and_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    capture(&store, "a", &bytes, &extents).unwrap();
    let index = files(folder.path()).into_iter().find(|(name, _)| name.starts_with("index/")).unwrap().0;
    let path = folder.path().join(index);
    let good = fs::read(&path).unwrap();
    for at in [0, 9, 11, 20, 60, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&path, &bad).unwrap();
        let image = store.open_image(&ImageName::parse("a").unwrap()).unwrap();
        assert!(image.warnings.iter().any(|warning| warning.contains("index/")), "{:?}", image.warnings);
        assert_eq!(damage(&store, "a").unwrap(), []);
    }
    fs::remove_file(&path).unwrap();
    assert!(read_back(&store, "a").0 == shown(&bytes, &extents));
    // A capture falls back on the packs, too.
    let (_, again) = capture(&store, "a", &bytes, &extents).unwrap();
    assert_eq!(again.added.new_bytes, 0);
}

#[test]
fn a_cut_or_missing_pack_hurts_the_images_that_need_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    let (other, _) = disk(2);
    capture(&store, "a", &bytes, &extents).unwrap();
    let before = files(folder.path());
    capture(&store, "b", &other, &extents).unwrap();
    let new = files(folder.path())
        .into_iter()
        .find(|(name, _)| name.starts_with("packs/") && !before.iter().any(|(old, _)| old == name))
        .unwrap();
    let path = folder.path().join(&new.0);
    let whole = fs::read(&path).unwrap();
    for keep in [whole.len() / 2, 100, 0] {
        fs::write(&path, &whole[..keep]).unwrap();
        assert_eq!(damage(&store, "a").unwrap(), []);
        match damage(&store, "b") {
            // The tree's pages lie at the pack's end.
            Err(error) => assert!(error.chain().contains("packs/"), "{}", error.chain()),
            Ok(hurt) => assert!(!hurt.is_empty()),
        }
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(damage(&store, "a").unwrap(), []);
    let error = damage(&store, "b").unwrap_err();
    assert!(
        error.chain().contains("b@") && error.chain().contains("lost or damaged")
            || error.chain().contains("packs/"),
        "{}",
        error.chain()
    );
}

#[test]
fn an_image_that_was_written_over_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    let (image, _) = capture(&store, "a", &bytes, &extents).unwrap();
    let path = folder.path().join(image.object());
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(store.record(&image).is_err(), "byte {at}");
    }
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(store.record(&image).is_err());
}
