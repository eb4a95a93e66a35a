// SPDX-License-Identifier: Apache-2.0
//! Captures and restores from end to end.

use std::collections::HashSet;

use unmoor_images::merkle;
use unmoor_images::monitor::Silent;
use unmoor_images::store::{CheckOptions, ImageName, LeaseState, Secret};
use unmoor_images::{BlockSource, ErrorKind, LEAF, State};

use super::serving::*;
use crate::client::Identity;
use crate::client::store::RemoteImage;
use crate::server::store::{Limits, Reach};

const CREATED: &str = "2026-11-25T12:00:00Z";

fn restore(served: &Served, job: u64, name: &str, disk: &Disk) {
    served.gate.allow(job, Reach::Restore { image: ImageName::parse(name).unwrap() });
    let image = RemoteImage::open(&served.job(job), 0).unwrap();
    let (remote, extents, leaves) = image.disk(0).unwrap();
    assert_eq!(
        (remote.size(), leaves.size(), extents.bytes(State::Data)),
        (disk.size(), disk.size(), disk.size())
    );
    let mut whole = vec![1; disk.0.len()];
    for (index, part) in whole.chunks_mut(300_001).enumerate() {
        remote.read_at(part, index as u64 * 300_001).unwrap();
    }
    assert!(whole == disk.0, "another disk comes back");
    // From many threads.
    let (remote, ..) = image.disk(0).unwrap();
    whole.fill(1);
    std::thread::scope(|scope| {
        for (index, part) in whole.chunks_mut(5 << 20).enumerate() {
            let remote = &remote;
            scope.spawn(move || remote.read_at(part, index as u64 * (5 << 20)).unwrap());
        }
    });
    assert!(whole == disk.0, "another disk comes back to threads");
    assert_eq!(image.disk(1).map(drop).unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn what_agents_capture_comes_back_and_travels_once() {
    let key = || {
        Secret::KeyFile(b"sixty-four bytes that are no secret at all, and that suffice....".to_vec().into())
    };
    for secret in [None, Some(key())] {
        let served = Served::start(secret, limits());
        served.gate.capture(1, "web01");
        served.gate.capture(2, "web01");
        let disk = Disk::new(101, 7);
        let job = served.job(1);
        let first = send(&job, &disk, CREATED).unwrap();
        let distinct: HashSet<merkle::Hash> = disk.0.chunks(LEAF as usize).map(merkle::leaf).collect();
        assert!(first.bytes > 20 * LEAF && first.bytes < distinct.len() as u64 * LEAF);
        let (time, summary) = first.commit().unwrap();
        assert_eq!((time.as_str(), summary.machine.as_str()), ("20261125T120000Z", "web01"));
        assert_eq!(summary.added.read_bytes, disk.size());
        assert!(LeaseState::list(&served.store).unwrap().is_empty());

        let again = send(&served.job(2), &disk, CREATED).unwrap();
        assert_eq!(again.bytes, 0, "what is there is sent again");
        // An image that is the same in all is not another one.
        assert_eq!(again.commit().unwrap(), (time, summary));
        assert_eq!(served.store.images().unwrap().len(), 1);

        restore(&served, 3, "web01@20261125T120000Z", &disk);
        let options = CheckOptions { read_percent: 100, ..CheckOptions::default() };
        assert!(served.store.check(&options, &Silent).unwrap().is_whole());
    }
}

#[test]
fn a_commit_is_answered_the_same_however_often_it_is_asked() {
    let served = Served::start(None, limits());
    served.gate.capture(1, "m");
    let disk = Disk::new(11, 3);
    let identity = Identity::new().unwrap();
    let job = job(&served.client(&identity), 1, "token-1");
    // The state cannot be written at first: the client asks again, and there is one image.
    *served.gate.failing.lock().unwrap() = 2;
    let first = send(&job, &disk, CREATED).unwrap().commit().unwrap();
    assert_eq!(served.store.images().unwrap().len(), 1);
    let second = send(&job, &Disk::new(11, 4), "2026-11-26T12:00:00Z").unwrap().commit().unwrap();
    assert_eq!((&first, served.store.images().unwrap().len()), (&second, 1));
}

#[test]
fn eight_agents_at_once_are_all_stored() {
    let served = Served::start(None, Limits { rate_limit: 200 << 20, ..limits() });
    let disks: Vec<Disk> = (0..8).map(|seed| Disk::new(40, 100 + seed)).collect();
    std::thread::scope(|scope| {
        for (number, disk) in disks.iter().enumerate() {
            let served = &served;
            served.gate.capture(number as u64, &format!("m{number}"));
            scope.spawn(move || send(&served.job(number as u64), disk, CREATED).unwrap().commit().unwrap());
        }
    });
    for (number, disk) in disks.iter().enumerate() {
        restore(&served, 100 + number as u64, &format!("m{number}@20261125T120000Z"), disk);
    }
}
