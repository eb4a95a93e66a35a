// SPDX-License-Identifier: Apache-2.0
//! Stores that released formats wrote, read for ever. `fixtures/store.gen.sh` made them; they are never made anew.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::scene::*;
use crate::store::backend::Directory;
use crate::store::{ImageName, Secret, Store};
use crate::{BlockSource, Result};

/// SHA-256 of the disks of the two images, as the recipe printed it.
const FIRST: &str = "90e857b6c8c5cd5961cd33d71ec3c7d1ce69860b6ee8328d0b9aaeb896358ff9";
const SECOND: &str = "8ef6ad9e8c300c06916f6c0f8e5a39b262e194dcf4aa059ec34b43d9d0237472";

fn open(name: &str, secret: Option<&Secret>) -> Result<Store> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    Store::open_on(Box::new(Directory::open(&folder)), secret, Arc::new(TestClock::default()))
}

fn hashes(store: &Store) -> Vec<String> {
    let images = store.images_of("web01").unwrap();
    let hash = |time: &String| {
        let image =
            store.open_image(&ImageName { machine: "web01".into(), time: Some(time.clone()) }).unwrap();
        assert_eq!(image.warnings, Vec::<String>::new());
        let source = &image.disks[0].source;
        let mut bytes = vec![0; source.size() as usize];
        source.read_at(&mut bytes, 0).unwrap();
        crate::store::keys::hex(&Sha256::digest(&bytes))
    };
    images.iter().map(|image| hash(&image.time)).collect()
}

#[test]
fn a_store_of_version_1_is_read() {
    assert_eq!(hashes(&open("store-v1", None).unwrap()), [FIRST, SECOND]);
}

#[test]
fn an_encrypted_store_of_version_1_is_read_with_passphrase_and_key_file() {
    let words = Secret::Passphrase(zeroize::Zeroizing::new(b"a passphrase for tests".to_vec()));
    let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/store-v1.key");
    for secret in [words, Secret::key_file(&key).unwrap()] {
        assert_eq!(hashes(&open("store-v1-sealed", Some(&secret)).unwrap()), [FIRST, SECOND]);
    }
}
