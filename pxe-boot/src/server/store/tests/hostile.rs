// SPDX-License-Identifier: Apache-2.0
//! What agents must not get away with.

use std::io::Read;

use unmoor_images::manifest::{encode_map, hex};
use unmoor_images::merkle::{self, Leaves};
use unmoor_images::store::ImageName;
use unmoor_images::{BlockSource, ErrorKind, ExtentMap, LEAF, State};

use super::serving::*;
use crate::api::{Begun, Commit};
use crate::client::store::{Frame, RemoteImage, encode_frame};
use crate::client::{Identity, Job};
use crate::server::store::{Reach, decode_commit};

const CREATED: &str = "2026-11-25T12:00:00Z";

/// Status and problem of a request that fails.
fn refused(job: &Job, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let answer = job.request(method, path).body(body.to_vec()).send().unwrap();
    let status = answer.status().as_u16();
    let problem: crate::api::Problem = serde_json::from_slice(&answer.bytes().unwrap()).unwrap();
    (status, problem.kind)
}

#[test]
fn a_token_counts_for_its_job_its_key_and_its_image_only() {
    let served = Served::start(None, limits());
    served.gate.capture(1, "a");
    served.gate.capture(2, "b");
    let identity = Identity::new().unwrap();
    let client = served.client(&identity);
    send(&job(&client, 1, "token-1"), &Disk::new(11, 1), CREATED).unwrap().commit().unwrap();
    served.gate.allow(3, Reach::Restore { image: ImageName::parse("a@20261125T120000Z").unwrap() });
    let right = job(&client, 3, "token-3");
    RemoteImage::open(&right, 0).unwrap();

    let forbidden = (403, "forbidden".to_owned());
    let other = job(&client, 2, "token-1");
    assert_eq!(refused(&other, "POST", "store/begin", b""), forbidden);
    assert_eq!(refused(&served.job(3), "GET", "image", b""), forbidden, "another key");
    for path in ["image", "image/disks/0/map", "image/disks/0/frames?first=0&count=4"] {
        assert_eq!(
            refused(&job(&client, 1, "token-1"), "GET", path, b""),
            forbidden,
            "a capture reads {path}"
        );
    }
    for path in ["store/begin", "store/wanted", "store/frames", "store/commit"] {
        assert_eq!(refused(&right, "POST", path, b""), forbidden, "a restore writes {path}");
    }
    assert_eq!(refused(&job(&client, 9, "token-9"), "GET", "image", b""), forbidden);
    for path in ["image/disks/1/map", "image/disks/x/frames?first=0&count=1", "image/disks/-1/map"] {
        assert_eq!(refused(&right, "GET", path, b"").0, 404, "{path}");
    }
    assert_eq!(refused(&right, "GET", "image/disks/0/frames?first=x", b"").0, 400);
    for query in ["first=18446744073709551615&count=18446744073709551615", "first=99999&count=1", "count=0"] {
        let path = format!("image/disks/0/frames?{query}");
        assert_eq!(right.get_bytes(&path, 1 << 20, "asking").unwrap(), b"", "{query}");
    }
}

#[test]
fn frames_that_are_wrong_are_refused_and_nothing_of_them_is_stored() {
    let served = Served::start(None, limits());
    served.gate.capture(1, "a");
    let job = served.job(1);
    let text = b"something that shrinks. ".repeat(2000);
    let (hash, other) = (merkle::leaf(&text), merkle::leaf(b"other"));
    let packed = zstd::bulk::compress(&text, 1).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let frame = |hash, raw, packed, bytes: &[u8]| {
        let mut out = Vec::new();
        Frame { hash, raw, packed, bytes }.write(&mut out).unwrap();
        out
    };
    let raw = text.len() as u32;
    let right = frame(hash, raw, true, &packed);
    let bodies = [
        frame(other, raw, true, &packed),
        frame(other, raw, false, &text),
        frame(hash, raw - 1, true, &packed),
        frame(hash, LEAF as u32, true, &bomb),
        frame(hash, LEAF as u32 + 1, true, &packed),
        frame(hash, 0, false, &[]),
        right[..right.len() - 1].to_vec(),
        right[..40].to_vec(),
        vec![0xff; 3 << 20],
    ];
    for (number, body) in bodies.iter().enumerate() {
        assert_eq!(refused(&job, "POST", "store/frames", body), (400, "usage".into()), "body {number}");
    }
    let wanted = |hashes: &[u8]| job.post_bytes("store/wanted", hashes, 100, "asking").unwrap();
    assert_eq!(wanted(&[hash, other].concat()), [1, 1]);
    assert_eq!(refused(&job, "POST", "store/wanted", &[0; 33]).0, 400);
    assert_eq!(refused(&job, "POST", "store/wanted", &vec![0; 2 << 20]).0, 400);

    // A request that is cut off in the middle.
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(std::io::ErrorKind::ConnectionReset)?;
            buf.fill(0);
            Ok(buf.len().min(10))
        }
    }
    let body = reqwest::blocking::Body::sized(Broken(3), 5000);
    job.request("POST", "store/frames").body(body).send().unwrap_err();

    // After all that the capture goes on: what stood before a wrong frame is there.
    let body = [right.as_slice(), bodies[0].as_slice()].concat();
    assert_eq!(refused(&job, "POST", "store/frames", &body).0, 400);
    assert_eq!(wanted(&[hash, other].concat()), [0, 1]);
    let mut plain = Vec::new();
    encode_frame(&merkle::leaf(&text[1..]), &text[1..], None, &mut plain).unwrap();
    assert_eq!(job.post_bytes("store/frames", &plain, 10, "sending").unwrap(), b"");
    send(&job, &Disk::new(11, 1), CREATED).unwrap().commit().unwrap();
}

#[test]
fn commits_that_do_not_fit_are_refused_and_the_right_one_is_taken_then() {
    let served = Served::start(None, limits());
    served.gate.capture(1, "a");
    let job = served.job(1);
    let disk = Disk::new(11, 1);
    let _: Begun = job.post_json("store/begin", b"", "beginning").unwrap();
    let leaves: Vec<_> =
        disk.0.chunks(LEAF as usize).enumerate().map(|(at, leaf)| (at as u64, merkle::leaf(leaf))).collect();
    let leaves = Leaves::from_pairs(disk.size(), leaves).unwrap();
    let map = encode_map(&ExtentMap::uniform(disk.size(), State::Data), &leaves);
    let body = |maps: Vec<u64>, root: &str, rest: &[u8]| {
        let commit = Commit { manifest: manifest(disk.size(), root, CREATED), read_bytes: 1, maps };
        [serde_json::to_vec(&commit).unwrap().as_slice(), rest].concat()
    };
    let (root, len) = (hex(&leaves.root()), map.len() as u64);
    let right = body(vec![len], &root, &map);
    decode_commit(&right).unwrap();
    let more = [map.as_slice(), b"x"].concat();
    for wrong in [
        Vec::new(),
        b"{}".to_vec(),
        right[..right.len() - 1].to_vec(),
        body(vec![len], &root, &more),
        body(vec![], &root, &[]),
        body(vec![u64::MAX, 2], &root, &map),
        body(vec![len], &hex(&[7; 32]), &map),
        body(vec![0], &root, &[]),
    ] {
        assert_eq!(refused(&job, "POST", "store/commit", &wrong), (400, "usage".into()));
    }
    // Nothing was sent: what the image names is not there.
    assert_eq!(refused(&job, "POST", "store/commit", &right), (409, "io".into()));
    assert!(served.store.images().unwrap().is_empty());
    assert_eq!(send(&job, &disk, CREATED).unwrap().commit().map_err(|error| error.kind()), send_again(&job));
    for at in (0..right.len()).step_by(7) {
        let mut bad = right.clone();
        bad[at] ^= 0x81;
        assert!(
            decode_commit(&bad).is_ok() || decode_commit(&bad).unwrap_err().kind() == ErrorKind::Malformed
        );
    }
}

/// The answer of a commit that was made before.
fn send_again(job: &Job) -> Result<(String, unmoor_images::store::Summary), ErrorKind> {
    send(job, &Disk::new(11, 1), CREATED).unwrap().commit().map_err(|error| error.kind())
}
