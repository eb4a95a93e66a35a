// SPDX-License-Identifier: Apache-2.0
//! Servers that end in the middle of captures, and captures that nobody goes on with.

use std::time::{Duration, Instant};

use unmoor_images::store::LeaseState;
use unmoor_images::{BlockSource, ErrorKind};

use super::serving::*;
use crate::server::store::Limits;

const CREATED: &str = "2026-11-25T12:00:00Z";

#[test]
fn a_capture_goes_on_through_a_restart_and_loses_nothing() {
    let mut served = Served::start(None, limits());
    served.gate.capture(1, "m");
    let disk = Disk::new(60, 5);
    let job = served.job(1);
    let sent = send(&job, &disk, CREATED).unwrap();
    served.stop();
    assert!(LeaseState::list(&served.store).unwrap().is_empty(), "a lease stays");
    served.come();
    sent.commit().unwrap();
    assert_eq!(served.store.images().unwrap().len(), 1);
}

#[test]
fn what_a_killed_server_had_in_memory_is_missed_and_sent_again() {
    let mut served = Served::start(None, limits());
    served.gate.capture(1, "m");
    let disk = Disk::new(60, 6);
    let job = served.job(1);
    let sent = send(&job, &disk, CREATED).unwrap();
    served.kill();
    served.come();
    let failed = sent.commit().unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Io);
    assert!(failed.chain().contains("do the job again"), "{}", failed.chain());
    assert!(served.store.images().unwrap().is_empty());
    let rest = send(&job, &disk, CREATED).unwrap();
    // How much had arrived depends on how far the last packs were.
    assert!(rest.bytes > 0, "nothing was lost");
    rest.commit().unwrap();
    let read = served.store.open_image(&unmoor_images::store::ImageName::parse("m").unwrap()).unwrap();
    let mut back = vec![1; disk.0.len()];
    read.disks[0].source.read_at(&mut back, 0).unwrap();
    assert!(back == disk.0);
}

#[test]
fn a_capture_that_nobody_talks_to_ends_and_is_gone_on_with() {
    let served = Served::start(None, Limits { idle: Duration::from_millis(400), ..limits() });
    served.gate.capture(1, "m");
    let disk = Disk::new(30, 8);
    let job = served.job(1);
    let sent = send(&job, &disk, CREATED).unwrap();
    let begin = Instant::now();
    while !LeaseState::list(&served.store).unwrap().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the lease stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    sent.commit().unwrap();
    assert_eq!(served.store.images().unwrap().len(), 1);
}
