// SPDX-License-Identifier: Apache-2.0
//! Leaves that come and go compressed.

use super::scene::*;
use crate::merkle::{self, Leaves};
use crate::monitor::Silent;
use crate::store::{Codec, ImageName, LeaseState, PackedLeaf, Secret, Store, StoredImage, Writer};
use crate::{ErrorKind, LEAF};

type Frame = (merkle::Hash, u32, Codec, Vec<u8>);

fn key(seed: u64) -> Option<Secret> {
    Some(Secret::KeyFile(zeroize::Zeroizing::new(noise(64, seed))))
}

fn open(store: &Store, name: &str) -> StoredImage {
    store.open_image(&ImageName::parse(name).unwrap()).unwrap()
}

fn frames(image: &StoredImage, checked: bool) -> Vec<Frame> {
    let source = &image.disks[0].source;
    let mut frames = Vec::new();
    let count = image.disks[0].leaves.count();
    for first in (0..count).step_by(7) {
        source
            .packed(first..(first + 7).min(count), checked, &mut |leaf| {
                frames.push((leaf.hash, leaf.raw, leaf.codec, leaf.bytes.to_vec()));
                Ok(())
            })
            .unwrap();
    }
    frames
}

fn leaf((hash, raw, codec, bytes): &Frame) -> PackedLeaf<'_> {
    PackedLeaf { hash: *hash, raw: *raw, codec: *codec, bytes }
}

#[test]
fn an_image_moves_leaf_by_leaf_without_being_compressed_again() {
    for (from, into) in [(None, None), (None, key(1)), (key(2), key(3)), (key(4), None)] {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (store, _) = init(folder.path(), from);
        let (target, _) = init(other.path(), into);
        let (bytes, extents) = disk(1);
        capture(&store, "a", &bytes, &extents).unwrap();
        let image = open(&store, "a");
        let writer = Writer::begin(&target, "b", &options(), &Silent).unwrap();
        writer.limit_packs(0);
        let maps = [(&image.disks[0].extents, &image.disks[0].leaves)];
        assert_eq!(writer.check(&image.record.manifest, &maps).unwrap_err().kind(), ErrorKind::Mismatch);
        let compressed = frames(&image, false);
        assert!(compressed.iter().any(|frame| frame.2 == Codec::Zstd));
        for frame in &compressed {
            assert!(writer.lacks(&frame.0));
            writer.put_packed(&[leaf(frame), leaf(frame)]).unwrap();
            assert!(!writer.lacks(&frame.0));
        }
        writer.check(&image.record.manifest, &maps).unwrap();
        let (_, summary) = writer.commit(image.record.manifest.clone(), &maps, 0).unwrap();
        // Packs of 1 MiB, and each leaf once.
        assert!(summary.added.packs > 3 && summary.added.new_bytes > 40 * LEAF, "{summary:?}");
        let (back, map) = read_back(&target, "b");
        assert!(back == shown(&bytes, &extents) && map == extents);
        // What comes out is what went in, byte by byte; unpacked where it is to be checked.
        let sorted = |mut frames: Vec<Frame>| {
            frames.sort_by_key(|frame| frame.0);
            frames.dedup();
            frames
        };
        assert!(sorted(frames(&open(&target, "b"), false)) == sorted(compressed));
        assert!(frames(&open(&target, "b"), true).iter().all(|frame| frame.2 == Codec::Plain));
    }
}

#[test]
fn a_leaf_that_is_not_what_it_claims_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let writer = Writer::begin(&store, "a", &options(), &Silent).unwrap();
    let text = b"something that shrinks. ".repeat(5000);
    let packed = zstd::bulk::compress(&text, 1).unwrap();
    let (hash, raw) = (merkle::leaf(&text), text.len() as u32);
    let other = merkle::leaf(b"other");
    let twice = [packed.as_slice(), packed.as_slice()].concat();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let wrong: [Frame; 8] = [
        (other, raw, Codec::Zstd, packed.clone()),
        (other, raw, Codec::Plain, text.clone()),
        (hash, raw, Codec::Zstd, twice),
        (hash, raw, Codec::Plain, packed.clone()),
        (hash, raw - 1, Codec::Zstd, packed.clone()),
        (hash, 0, Codec::Plain, Vec::new()),
        (hash, LEAF as u32 + 1, Codec::Plain, vec![0; LEAF as usize + 1]),
        (hash, LEAF as u32, Codec::Zstd, bomb),
    ];
    for frame in &wrong {
        assert_eq!(writer.put_packed(&[leaf(frame)]).unwrap_err().kind(), ErrorKind::Mismatch);
        assert!(writer.lacks(&hash) && writer.lacks(&other));
    }
    // What stands before a wrong one is stored.
    let right = (hash, raw, Codec::Zstd, packed);
    writer.put_packed(&[leaf(&right), leaf(&wrong[0])]).unwrap_err();
    assert!(!writer.lacks(&hash) && writer.lacks(&other));
    // One that does not shrink enough, and zeros.
    let random = noise(LEAF as usize, 3);
    let hash = merkle::leaf(&random);
    let larger = (hash, LEAF as u32, Codec::Zstd, zstd::bulk::compress(&random, 1).unwrap());
    let zeros = (merkle::zero_leaf(LEAF), LEAF as u32, Codec::Plain, vec![0; LEAF as usize]);
    writer.put_packed(&[leaf(&larger), leaf(&zeros)]).unwrap();
    assert!(!writer.lacks(&hash) && writer.lacks(&zeros.0));
    writer.suspend().unwrap();
}

#[test]
fn a_suspended_capture_is_found_by_the_next_and_leaves_no_lease() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = init(folder.path(), None);
    let (target, _) = init(other.path(), None);
    let (bytes, extents) = disk(1);
    capture(&store, "a", &bytes, &extents).unwrap();
    let image = open(&store, "a");
    let all = frames(&image, false);
    let half = all.len() / 2;
    let writer = Writer::begin(&target, "a", &options(), &Silent).unwrap();
    all[..half].iter().for_each(|frame| writer.put_packed(&[leaf(frame)]).unwrap());
    writer.suspend().unwrap();
    assert!(LeaseState::list(&target).unwrap().is_empty());
    let writer = Writer::begin(&target, "a", &options(), &Silent).unwrap();
    let lacking = all.iter().filter(|frame| writer.lacks(&frame.0)).count();
    assert_eq!(lacking, all.len() - half);
    all[half..].iter().for_each(|frame| writer.put_packed(&[leaf(frame)]).unwrap());
    let (extents, leaves) = (&image.disks[0].extents, &image.disks[0].leaves);
    // Maps that are not the manifest's.
    let mut manifest = image.record.manifest.clone();
    assert_eq!(writer.check(&manifest, &[]).unwrap_err().kind(), ErrorKind::Malformed);
    let zeros = Leaves::zeros(leaves.size());
    assert_eq!(writer.check(&manifest, &[(extents, &zeros)]).unwrap_err().kind(), ErrorKind::Malformed);
    manifest.disks[0].size = 1 << 60;
    assert_eq!(writer.check(&manifest, &[(extents, leaves)]).unwrap_err().kind(), ErrorKind::Malformed);
    let manifest = image.record.manifest.clone();
    writer.check(&manifest, &[(extents, leaves)]).unwrap();
    writer.commit(manifest, &[(extents, leaves)], 0).unwrap();
    assert!(read_back(&target, "a").0 == shown(&bytes, extents));
}
