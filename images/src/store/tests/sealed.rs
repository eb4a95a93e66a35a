// SPDX-License-Identifier: Apache-2.0
//! Encrypted stores.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::scene::*;
use crate::store::backend::Directory;
use crate::store::{Secret, Store};
use crate::{ErrorKind, LEAF};

fn words(text: &str) -> Secret {
    Secret::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
}

fn open(folder: &std::path::Path, secret: Option<&Secret>) -> crate::Result<Store> {
    Store::open_on(Box::new(Directory::open(folder)), secret, Arc::new(TestClock::default()))
}

#[test]
fn an_encrypted_store_shows_nothing_and_gives_everything_back() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), Some(words("open sesame")));
    let (mut bytes, extents) = disk(1);
    let marker = b"PLAIN TEXT THAT NOBODY SHALL SEE";
    bytes[21 * LEAF as usize..][..marker.len()].copy_from_slice(marker);
    capture(&store, "secret-machine", &bytes, &extents).unwrap();
    let again = capture(&store, "secret-machine", &bytes, &extents).unwrap().1;
    assert_eq!(again.added.stored_bytes, 0);
    drop(store);

    let leaf = crate::merkle::leaf(&bytes[21 * LEAF as usize..22 * LEAF as usize]);
    for (name, _) in files(folder.path()) {
        assert!(!name.contains("secret"), "{name}");
        let object = std::fs::read(folder.path().join(&name)).unwrap();
        let holds = |needle: &[u8]| object.windows(needle.len()).any(|part| part == needle);
        assert!(!holds(marker) && !holds(b"secret-machine") && !holds(&leaf), "{name}");
    }
    let store = open(folder.path(), Some(&words("open sesame"))).unwrap();
    assert!(read_back(&store, "secret-machine").0 == shown(&bytes, &extents));
    let none = open(folder.path(), None).unwrap_err();
    assert!(
        none.chain().contains("encrypted") && none.chain().contains("--password-file"),
        "{}",
        none.chain()
    );
    let wrong = open(folder.path(), Some(&words("open barley"))).unwrap_err();
    assert!(
        wrong.kind() == ErrorKind::Refused && wrong.chain().contains("wrong passphrase"),
        "{}",
        wrong.chain()
    );
}

#[test]
fn keys_are_added_and_removed_but_for_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let file = Secret::KeyFile(Zeroizing::new(noise(64, 1)));
    let (store, _) = init(folder.path(), Some(words("first")));
    let (bytes, extents) = disk(1);
    capture(&store, "a", &bytes, &extents).unwrap();
    let first = store.keys().unwrap()[0].id.clone();
    assert!(store.remove_key(&first).unwrap_err().chain().contains("last"));
    store.add_key(&file).unwrap();
    store.add_key(&words("third")).unwrap();
    store.remove_key(&first).unwrap();
    assert!(open(folder.path(), Some(&words("first"))).is_err());
    for secret in [&file, &words("third")] {
        let store = open(folder.path(), Some(secret)).unwrap();
        assert!(read_back(&store, "a").0 == shown(&bytes, &extents));
    }
    let other = Secret::KeyFile(Zeroizing::new(noise(64, 2)));
    assert!(open(folder.path(), Some(&other)).unwrap_err().chain().contains("wrong key file"));
}

#[test]
fn sealed_objects_cannot_be_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), Some(words("x")));
    let (bytes, extents) = disk(1);
    capture(&store, "a", &bytes, &extents).unwrap();
    capture(&store, "a", &disk(2).0, &extents).unwrap();
    let images = store.images().unwrap();
    let path = |image: &crate::store::ImageRef| folder.path().join(image.object());
    std::fs::copy(path(&images[0]), path(&images[1])).unwrap();
    let error = store.record(&images[1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{}", error.chain());
    store.record(&images[0]).unwrap();
}
