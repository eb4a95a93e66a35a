// SPDX-License-Identifier: Apache-2.0
//! A disk captured through a server into a store that is a table in memory, and read back.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use unmoor_images::copy::{self, copy};
use unmoor_images::manifest::{Manifest, hex};
use unmoor_images::merkle::{self, Hash};
use unmoor_images::monitor::{Phase, Silent};
use unmoor_images::store::Receiving;
use unmoor_images::{BlockSource, ErrorKind, ExtentMap, LEAF, Result, State};
use zstd::bulk::{Compressor, Decompressor};

use super::disk::Disk;
use super::fake::{Answer, Fake, Request};
use super::{assignment, pinned};
use crate::client::store::{RemoteImage, RemoteStore, RemoteWriter, encode_frame, read_frames};
use crate::client::{Client, Identity, Job};

/// The server's end.
#[derive(Default)]
struct Table {
    leaves: Mutex<BTreeMap<Hash, Vec<u8>>>,
    map: Mutex<Vec<u8>>,
    manifest: Mutex<Value>,
    frames: AtomicUsize,
    /// Cuts off every so many requests, if not 0.
    unsteady: AtomicUsize,
    requests: AtomicUsize,
    /// Flips a bit of what is given out.
    flipped: AtomicBool,
    asked: Mutex<HashSet<String>>,
}

impl Table {
    fn answer(&self, request: &Request) -> Answer {
        assert_eq!(request.bearer.as_deref(), Some("token-3"));
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let unsteady = self.unsteady.load(Ordering::Relaxed);
        if unsteady > 0 && number % unsteady == 1 {
            return (0, Vec::new());
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let what = path.strip_prefix("/v1/agent/jobs/3/").unwrap();
        match (request.method.as_str(), what) {
            ("POST", "store/begin") => {
                (200, json!({ "since": "20260101T000000Z", "level": 1 }).to_string().into())
            }
            ("POST", "store/wanted") => {
                let leaves = self.leaves.lock().unwrap();
                let wanted = |hash: &[u8]| u8::from(!leaves.contains_key(<&Hash>::try_from(hash).unwrap()));
                (200, request.body.chunks(32).map(wanted).collect())
            }
            ("POST", "store/frames") => {
                for frame in read_frames(&request.body).unwrap() {
                    let mut leaf = vec![0; frame.raw as usize];
                    frame.unpack(&mut Decompressor::new().unwrap(), &mut leaf).unwrap();
                    self.leaves.lock().unwrap().insert(frame.hash, leaf);
                    self.frames.fetch_add(1, Ordering::Relaxed);
                }
                (204, Vec::new())
            }
            ("POST", "store/commit") => {
                let mut stream = serde_json::Deserializer::from_slice(&request.body).into_iter::<Value>();
                let commit = stream.next().unwrap().unwrap();
                let (_, maps) = request.body.split_at(stream.byte_offset());
                assert_eq!(commit["maps"], json!([maps.len()]));
                *self.map.lock().unwrap() = maps.to_vec();
                *self.manifest.lock().unwrap() = commit["manifest"].clone();
                let added = json!({ "read_bytes": commit["read_bytes"], "new_bytes": 0, "stored_bytes": 0, "packs": 1 });
                let summary = json!({ "machine": "m", "created": "2026-01-02T03:04:05Z", "size_bytes": 0, "data_bytes": 0, "added": added });
                (200, json!({ "time": "20260102T030405Z", "summary": summary }).to_string().into())
            }
            ("GET", "image") => {
                let manifest = self.manifest.lock().unwrap().clone();
                let added = json!({ "read_bytes": 0, "new_bytes": 0, "stored_bytes": 0, "packs": 1 });
                let summary = json!({ "machine": "m", "created": "2026-01-02T03:04:05Z", "size_bytes": 0, "data_bytes": 0, "added": added });
                let record = json!({
                    "format": "unmoor-image", "version": 1, "features": [], "summary": summary, "trees": [], "packs": [], "manifest": manifest,
                });
                (200, record.to_string().into())
            }
            ("GET", "image/disks/0/map") => (200, self.map.lock().unwrap().clone()),
            ("GET", "image/disks/0/frames") => {
                self.asked.lock().unwrap().insert(query.to_owned());
                let (_, leaves) = unmoor_images::manifest::decode_map(&self.map.lock().unwrap()).unwrap();
                let number = |name: &str| -> u64 {
                    query
                        .split('&')
                        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
                        .unwrap()
                };
                let (first, count) = (number("first"), number("count"));
                let (mut out, known) = (Vec::new(), self.leaves.lock().unwrap());
                for leaf in first..(first + count).min(leaves.count()) {
                    let hash = leaves.get(leaf).unwrap();
                    let Some(content) = known.get(&hash) else { continue };
                    encode_frame(&hash, content, Some(&mut Compressor::new(1).unwrap()), &mut out).unwrap();
                }
                if self.flipped.load(Ordering::Relaxed) {
                    *out.last_mut().unwrap() ^= 1;
                }
                (200, out)
            }
            other => panic!("{other:?} is not in the contract"),
        }
    }
}

fn capture(job: &Job, disk: &Disk) -> Result<ExtentMap> {
    let writer = RemoteWriter::begin(&RemoteStore::new(job.clone(), 0))?;
    assert_eq!(writer.since().as_deref(), Some("20260101T000000Z"));
    let extents = ExtentMap::uniform(disk.size(), State::Data);
    let options = copy::Options { threads: 4, disk: 0, phase: Phase::Capture, name: "disk".into() };
    let sink = writer.sink(disk.size());
    let copied = copy(disk, &extents, &*sink, &options, &Silent)?;
    sink.finish()?;
    let manifest: Manifest = serde_json::from_value(json!({
        "format": "unmoor-manifest", "version": 1, "created": "2026-01-02T03:04:05Z", "tool": "test", "consistency": "offline",
        "machine": null, "warnings": [],
        "disks": [{
            "source": "/dev/sda", "image": "disk0", "image_format": "raw", "size": disk.size(), "sector_size": 512,
            "physical_sector_size": null, "model": null, "serial": null, "wwn": null,
            "table": { "kind": "none", "sector_size": 512, "disk_id": null, "partitions": [], "metadata": [], "warnings": [] },
            "regions": [], "data_bytes": 0, "zero_bytes": 0, "hole_bytes": 0,
            "root": hex(&copied.leaves.root()), "map": { "file": "", "bytes": 0, "blake3": "" }, "unreadable": [],
        }],
    }))
    .unwrap();
    let (time, _) =
        Box::new(writer).commit(manifest, &[(&copied.extents, &copied.leaves)], copied.read_bytes)?;
    assert_eq!(time, "20260102T030405Z");
    Ok(copied.extents)
}

#[test]
fn a_disk_comes_back_as_it_was_and_only_what_lacks_travels() {
    let table: Arc<Table> = Arc::default();
    let serving = table.clone();
    let fake = Fake::start(&["127.0.0.1"], Arc::new(move |request| serving.answer(request)));
    let client = Client::new(&pinned(&fake), &Identity::new().unwrap()).unwrap();
    let job = client.job(&assignment(), Arc::default());
    let disk = Disk::new(41, 7);

    // Every seventh request is cut off, and asked again.
    table.unsteady.store(7, Ordering::Relaxed);
    let extents = capture(&job, &disk).unwrap();
    let distinct: HashSet<Hash> = disk.0.chunks(LEAF as usize).map(merkle::leaf).collect();
    let zeros = [merkle::zero_leaf(LEAF)];
    assert_eq!(
        table.leaves.lock().unwrap().len(),
        distinct.iter().filter(|hash| !zeros.contains(hash)).count()
    );
    let sent = table.frames.swap(0, Ordering::Relaxed);
    capture(&job, &disk).unwrap();
    assert!(sent > 0 && table.frames.load(Ordering::Relaxed) == 0, "what is there is sent again");

    let image = RemoteImage::open(&job, 0).unwrap();
    let (remote, map, leaves) = image.disk(0).unwrap();
    assert_eq!((map, remote.size(), leaves.size()), (extents, disk.size(), disk.size()));
    let mut whole = vec![1; disk.0.len()];
    for (index, part) in whole.chunks_mut(300_001).enumerate() {
        remote.read_at(part, index as u64 * 300_001).unwrap();
    }
    assert!(whole == disk.0, "the disk is another");
    let mut end = [1; 5000];
    remote.read_at(&mut end, disk.size() - 5000).unwrap();
    assert_eq!(end, disk.0[disk.0.len() - 5000..]);
    assert_eq!(remote.extent_at(5 * LEAF, LEAF).unwrap().state, State::Zero);
    assert_eq!(remote.extent_at(6 * LEAF, 100).unwrap().state, State::Data);
    assert!(remote.read_at(&mut end, disk.size() - 4999).is_err());

    // From many threads, each its own part.
    let (remote, ..) = image.disk(0).unwrap();
    let mut whole = vec![1; disk.0.len()];
    std::thread::scope(|scope| {
        for (index, part) in whole.chunks_mut(1 << 20).enumerate() {
            let remote = &remote;
            scope.spawn(move || remote.read_at(part, (index as u64) << 20).unwrap());
        }
    });
    assert!(whole == disk.0, "the disk is another when threads read it");
}

#[test]
fn a_flipped_bit_and_another_map_are_noticed() {
    let table: Arc<Table> = Arc::default();
    let serving = table.clone();
    let fake = Fake::start(&["127.0.0.1"], Arc::new(move |request| serving.answer(request)));
    let client = Client::new(&pinned(&fake), &Identity::new().unwrap()).unwrap();
    let job = client.job(&assignment(), Arc::default());
    let disk = Disk::new(41, 7);
    capture(&job, &disk).unwrap();
    let image = RemoteImage::open(&job, 0).unwrap();
    let (remote, ..) = image.disk(0).unwrap();
    table.flipped.store(true, Ordering::Relaxed);
    let mut part = vec![0; LEAF as usize];
    let error = remote.read_at(&mut part, 3 * LEAF).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{}", error.chain());
    table.flipped.store(false, Ordering::Relaxed);
    remote.read_at(&mut part, 3 * LEAF).unwrap();
    assert!(part == disk.0[3 * LEAF as usize..4 * LEAF as usize]);

    // A leaf that the server has lost.
    let hash = merkle::leaf(&disk.0[13 * LEAF as usize..14 * LEAF as usize]);
    table.leaves.lock().unwrap().remove(&hash);
    assert_eq!(remote.read_at(&mut part, 13 * LEAF).unwrap_err().kind(), ErrorKind::Mismatch);
    // A map with another leaf in it: its root is not the manifest's.
    let at = table.map.lock().unwrap().len() - 5;
    table.map.lock().unwrap()[at] ^= 1;
    assert_eq!(image.disk(0).map(drop).unwrap_err().kind(), ErrorKind::Mismatch);
}

#[test]
fn no_body_of_frames_panics() {
    let mut body = Vec::new();
    let leaf = vec![5; 1000];
    encode_frame(&merkle::leaf(&leaf), &leaf, Some(&mut Compressor::new(1).unwrap()), &mut body).unwrap();
    encode_frame(&merkle::leaf(&leaf), &leaf, None, &mut body).unwrap();
    assert_eq!(read_frames(&body).unwrap().len(), 2);
    for at in 0..body.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = body.clone();
            bad[at] ^= flip;
            for frame in read_frames(&bad).unwrap_or_default() {
                let mut out = vec![0; frame.raw as usize];
                let unpacked = frame.unpack(&mut Decompressor::new().unwrap(), &mut out);
                assert!(unpacked.is_err() || out == leaf);
            }
        }
        if at > 0 && read_frames(&body[..at]).is_ok() {
            assert_eq!(read_frames(&body[..at]).unwrap().len(), 1);
        }
    }
}
