// SPDX-License-Identifier: Apache-2.0
//! Bytes that nobody of us wrote: every parser of the store, every byte of a small object flipped and cut, and renamed so that no
//! hash protects the parser.

use super::scene::*;
use crate::store::document;
use crate::store::image::ImageRecord;
use crate::store::index::IndexObject;
use crate::store::pack::{Codec, Content, Entry, PackTable};
use crate::store::seal::{Kind, Seal};
use crate::store::{decode_index, decode_pack};

fn entries() -> Vec<Entry> {
    let entry = |index: u8| Entry {
        id: [index; 32],
        stored: 10 + u32::from(index),
        raw: 1 << 18,
        codec: if index.is_multiple_of(2) { Codec::Plain } else { Codec::Zstd },
        content: if index == 4 { Content::Page } else { Content::Leaf },
    };
    (0..6).map(entry).collect()
}

fn pack() -> (PackTable, Vec<u8>) {
    let mut bytes = PackTable::header(false).unwrap().to_vec();
    entries().iter().for_each(|entry| bytes.extend(vec![0x55; entry.stored as usize]));
    let table = PackTable::close(entries(), &Seal::none(), &mut bytes).unwrap();
    (table, bytes)
}

/// `decode` for every flip and cut of `bytes`, and for noise in its place.
fn torment(bytes: &[u8], mut decode: impl FnMut(&[u8])) {
    for index in 0..bytes.len() {
        for flip in [1u8, 0x10, 0x80, 0xff] {
            let mut bad = bytes.to_vec();
            bad[index] ^= flip;
            decode(&bad);
        }
        decode(&bytes[..index]);
        decode(&bytes[index..]);
    }
    for seed in 0..200 {
        let mut bad = bytes.to_vec();
        let noise = noise(64, seed);
        for pair in noise.chunks_exact(2) {
            let at = usize::from(pair[0]) * bytes.len() / 256;
            bad[at] = pair[1];
        }
        decode(&bad);
    }
}

#[test]
fn no_pack_panics() {
    let (table, bytes) = pack();
    assert_eq!(decode_pack(&bytes).unwrap(), table);
    torment(&bytes, |bad| {
        if let Ok(found) = decode_pack(bad) {
            let end = found.places().last().map_or(16, |(at, entry)| at + u64::from(entry.stored));
            assert!(end <= bad.len() as u64 && found.entries.len() * 40 <= bad.len());
        }
    });
}

#[test]
fn no_index_panics_or_takes_more_than_it_has() {
    let (table, _) = pack();
    let mut other = table.clone();
    other.id = [9; 32];
    let (id, bytes) = IndexObject::encode(&[table, other], &Seal::none()).unwrap();
    assert_eq!(decode_index(&bytes).unwrap().id, id);
    torment(&bytes, |bad| {
        if let Ok(found) = decode_index(bad) {
            let entries: usize = found.packs.iter().map(|pack| pack.entries.len()).sum();
            assert!(found.packs.len() * 36 + entries * 40 <= bad.len());
        }
    });
}

#[test]
fn no_image_panics() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    let (image, _) = capture(&store, "a", &bytes, &extents).unwrap();
    let record = store.record(&image).unwrap();
    let json = serde_json::to_vec(&record).unwrap();
    torment(&json, |bad| {
        // With a hash that is right for it.
        let mut framed = b"{\"blake3\":\"".to_vec();
        framed.extend(crate::manifest::hex(blake3::hash(bad).as_bytes()).into_bytes());
        framed.extend(b"\",\"document\":");
        framed.extend(bad);
        framed.extend(b"}\n");
        if let Ok(found) = document::decode::<ImageRecord>(&framed, &Seal::none(), Kind::Image, "x") {
            let _ = (found.pack_ids(), found.root(0));
        }
    });
}

#[test]
fn a_store_is_read_whatever_one_object_of_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    let (image, _) = capture(&store, "a", &bytes, &extents).unwrap();
    let object = folder.path().join(image.object());
    let good = std::fs::read(&object).unwrap();
    for seed in 0..20 {
        let mut bad = noise(good.len(), seed);
        bad[..20].copy_from_slice(&good[..20]);
        std::fs::write(&object, bad).unwrap();
        assert!(store.open_ref(&image).is_err());
        assert_eq!(store.images().unwrap(), std::slice::from_ref(&image));
    }
}
