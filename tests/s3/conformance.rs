// SPDX-License-Identifier: Apache-2.0
//! What every backend does alike.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use unmoor_images::ErrorKind;
use unmoor_images::store::backend::{Backend, Directory};

use crate::common::noise;
use crate::server::Server;

fn listed(backend: &dyn Backend, prefix: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    backend
        .list(prefix, &mut |listed| {
            assert!(found.insert(listed.name.clone(), listed.bytes).is_none(), "{} twice", listed.name);
            Ok(())
        })
        .unwrap();
    found
}

fn names(backend: &dyn Backend, prefix: &str) -> Vec<String> {
    listed(backend, prefix).into_keys().collect()
}

/// An empty backend, and all that a store asks of one.
fn conforms(backend: &dyn Backend) {
    what_is_not_there(backend);
    whole_objects(backend);
    parts_of_objects(backend);
    created_once(backend);
    large_objects(backend);
    many_objects(backend);
}

fn what_is_not_there(backend: &dyn Backend) {
    assert_eq!(backend.get("store.json", 100).unwrap(), None);
    assert_eq!(backend.tail("packs/ab/abcd", 100).unwrap(), None);
    let error = backend.read("packs/ab/abcd", &mut [0; 4], 7).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.chain().contains("abcd"), "{}", error.chain());
    backend.delete("images/web01/20261124T215000Z.json").unwrap();
    assert_eq!(listed(backend, ""), BTreeMap::new());
    assert_eq!(listed(backend, "images/"), BTreeMap::new());
}

fn whole_objects(backend: &dyn Backend) {
    let name = "images/web-01.example_org/20261124T215000Z-2.json";
    backend.put(name, b"first").unwrap();
    assert_eq!(backend.get(name, 5).unwrap().unwrap(), b"first");
    backend.put(name, b"the second").unwrap();
    assert_eq!(backend.get(name, 10).unwrap().unwrap(), b"the second");
    let error = backend.get(name, 9).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Malformed && error.chain().contains("more than 9"),
        "{}",
        error.chain()
    );
    backend.put("leases/empty.json", b"").unwrap();
    assert_eq!(backend.get("leases/empty.json", 9).unwrap().unwrap(), b"");
    assert_eq!(backend.tail("leases/empty.json", 9).unwrap().unwrap(), (Vec::new(), 0));
    backend.barrier().unwrap();
    assert_eq!(names(backend, ""), [name, "leases/empty.json"]);
    assert_eq!(names(backend, "leases/"), ["leases/empty.json"]);
    // A prefix is a folder, not the beginning of its name.
    backend.put("images/web-01/x.json", b"x").unwrap();
    assert_eq!(listed(backend, "images/web-01/"), BTreeMap::from([("images/web-01/x.json".to_owned(), 1)]));
    for name in [name, "leases/empty.json", "images/web-01/x.json"] {
        backend.delete(name).unwrap();
    }
    assert_eq!(backend.get(name, 10).unwrap(), None);
    assert_eq!(listed(backend, ""), BTreeMap::new());
}

fn parts_of_objects(backend: &dyn Backend) {
    let bytes = noise(100_000, 1);
    backend.put("packs/ab/abcd", &bytes).unwrap();
    for (at, len) in [(0, 100_000), (0, 1), (99_999, 1), (5, 77_777), (40_000, 0)] {
        let mut part = vec![0; len];
        backend.read("packs/ab/abcd", &mut part, at as u64).unwrap();
        assert!(part == bytes[at..at + len], "{at} {len}");
    }
    for (at, len) in [(99_999, 2), (100_000, 1), (5_000_000, 10)] {
        assert!(backend.read("packs/ab/abcd", &mut vec![0; len], at).is_err(), "{at} {len}");
    }
    for most in [1, 16, 99_999, 100_000, 65_536_000] {
        let (tail, len) = backend.tail("packs/ab/abcd", most).unwrap().unwrap();
        assert_eq!(len, 100_000);
        assert!(tail == bytes[100_000 - (most as usize).min(100_000)..], "{most}");
    }
    backend.delete("packs/ab/abcd").unwrap();
}

fn created_once(backend: &dyn Backend) {
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for text in ["one", "two", "three", "four"] {
            let count = &count;
            scope.spawn(move || {
                let created = backend.create("images/a/t.json", text.as_bytes()).unwrap();
                count.fetch_add(usize::from(created), Ordering::Relaxed);
            });
        }
    });
    // Who comes first may be anybody; and moto looks before it writes, as some servers do.
    let created = count.into_inner();
    assert!((1..=4).contains(&created), "{created}");
    let first = backend.get("images/a/t.json", 9).unwrap().unwrap();
    assert!(!backend.create("images/a/t.json", b"later").unwrap());
    assert_eq!(backend.get("images/a/t.json", 9).unwrap().unwrap(), first);
    backend.delete("images/a/t.json").unwrap();
}

fn large_objects(backend: &dyn Backend) {
    let bytes = noise((33 << 20) + 4321, 2);
    backend.put("packs/cd/cdef", &bytes).unwrap();
    let mut buffer = bytes.clone();
    backend.put_buffer("packs/ef/ef01", &mut buffer).unwrap();
    backend.barrier().unwrap();
    assert_eq!(listed(backend, "packs/").into_values().collect::<Vec<_>>(), [bytes.len() as u64; 2]);
    std::thread::scope(|scope| {
        for (index, part) in bytes.chunks(3 << 20).enumerate() {
            scope.spawn(move || {
                let name = if index % 2 == 0 { "packs/cd/cdef" } else { "packs/ef/ef01" };
                let mut found = vec![0; part.len()];
                backend.read(name, &mut found, index as u64 * (3 << 20)).unwrap();
                assert!(found == part, "{index} of {name}");
            });
        }
    });
    assert!(backend.get("packs/cd/cdef", 64 << 20).unwrap().unwrap() == bytes);
    backend.delete("packs/cd/cdef").unwrap();
    backend.delete("packs/ef/ef01").unwrap();
}

fn many_objects(backend: &dyn Backend) {
    let name = |index: usize| format!("packs/{:02x}/{index:04}", index % 3);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(index) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < 1200)
                {
                    backend.put(&name(index), &vec![7; index % 5]).unwrap();
                }
            });
        }
    });
    let found = listed(backend, "packs/");
    let expected = (0..1200).map(|index| (name(index), (index % 5) as u64)).collect();
    assert_eq!(found, expected);
    assert_eq!(names(backend, "packs/01/").len(), 400);
    let mut seen = 0;
    let stopped = backend.list("packs/", &mut |_| {
        seen += 1;
        if seen == 3 { Err(unmoor_images::Error::malformed("counting", "three are enough")) } else { Ok(()) }
    });
    assert!(stopped.unwrap_err().chain().contains("three are enough") && seen == 3);
}

#[test]
fn a_directory_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&Directory::open(&folder.path().join("new/store")));
}

#[test]
fn a_bucket_conforms_below_a_prefix_and_without_one() {
    let server = Server::start();
    let neighbour = server.backend("prefix-and-more");
    neighbour.put("store.json", b"not ours").unwrap();
    conforms(&server.backend("prefix/below"));
    assert_eq!(neighbour.get("store.json", 100).unwrap().unwrap(), b"not ours");
    let alone = Server::start();
    conforms(&alone.backend(""));
}
