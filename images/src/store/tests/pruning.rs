// SPDX-License-Identifier: Apache-2.0
//! What captures owe to prune: leases, and marks looked at twice.

use std::time::Duration;

use super::scene::*;
use crate::ErrorKind;
use crate::monitor::Silent;
use crate::store::pack::PackTable;
use crate::store::{LeaseState, Mark, Store, Writer};

fn packs(store: &Store) -> Vec<[u8; 32]> {
    crate::store::backend::names(store.backend(), "packs/")
        .unwrap()
        .iter()
        .map(|name| PackTable::id_of(name).unwrap())
        .collect()
}

/// As prune does it.
fn sweep(store: &Store, packs: &[[u8; 32]]) {
    packs.iter().for_each(|pack| store.backend().delete(&PackTable::object(pack)).unwrap());
}

#[test]
fn a_capture_uses_nothing_that_was_marked_before_it_began() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    let (_, first) = capture(&store, "a", &bytes, &extents).unwrap();
    let marked = packs(&store);
    Mark::write(&store, &marked).unwrap();
    let (_, second) = capture(&store, "b", &bytes, &extents).unwrap();
    assert_eq!(second.added.new_bytes, first.added.new_bytes);
    sweep(&store, &marked);
    assert!(read_back(&store, "b").0 == shown(&bytes, &extents));
}

#[test]
fn what_is_marked_while_a_capture_runs_is_stored_again_before_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (mut bytes, extents) = disk(1);
    capture(&store, "a", &bytes, &extents).unwrap();
    let old = packs(&store);
    bytes[3] ^= 1;
    let writer = Writer::begin(&store, "a", &options(), &Silent).unwrap();
    let copied = send(&writer, &bytes, &extents).unwrap();
    let maps = [(&copied.report.extents, &copied.report.leaves)];
    let mut rounds = 0;
    writer
        .commit_with(copied.manifest, &maps, 0, &mut || {
            rounds += 1;
            Mark::write(&store, &old).unwrap();
            // Prune waits for this lease.
            assert_eq!(LeaseState::list(&store).unwrap().len(), 1);
        })
        .unwrap();
    assert_eq!(rounds, 1);
    assert!(LeaseState::list(&store).unwrap().is_empty());
    sweep(&store, &old);
    let latest = store.images_of("a").unwrap().pop().unwrap();
    assert!(read_back(&store, &format!("a@{}", latest.time)).0 == shown(&bytes, &extents));
}

#[test]
fn a_capture_may_outlive_every_grace_period_while_its_lease_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, clock) = init(folder.path(), None);
    let (bytes, extents) = disk(1);
    let writer = Writer::begin(&store, "a", &options(), &Silent).unwrap();
    let copied = send(&writer, &bytes, &extents).unwrap();
    let before = LeaseState::list(&store).unwrap();
    for hour in 0..300u64 {
        clock.advance(Duration::from_secs(1200));
        // Whatever the time of day.
        clock.jump([0, 1 << 33, 5, 1_795_557_000][hour as usize % 4]);
        writer.lease().renew().unwrap();
    }
    let after = LeaseState::list(&store).unwrap();
    assert_eq!(after[0].renewals, before[0].renewals + 300);
    let maps = [(&copied.report.extents, &copied.report.leaves)];
    writer.commit(copied.manifest, &maps, 0).unwrap();
    assert!(read_back(&store, "a").0 == shown(&bytes, &extents));
}

#[test]
fn a_capture_that_lost_its_lease_makes_no_image() {
    let (bytes, extents) = disk(1);
    for slept in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (store, clock) = init(folder.path(), None);
        let writer = Writer::begin(&store, "a", &options(), &Silent).unwrap();
        let copied = send(&writer, &bytes, &extents).unwrap();
        if slept {
            // The machine slept, and its time of day says nothing of it.
            clock.advance(Duration::from_secs(2000));
        } else {
            LeaseState::remove(&store, &writer.lease().id()).unwrap();
        }
        let maps = [(&copied.report.extents, &copied.report.leaves)];
        let error = writer.commit(copied.manifest, &maps, 0).unwrap_err();
        assert!(error.kind() == ErrorKind::Io && error.chain().contains("lease"), "{}", error.chain());
        assert!(store.images().unwrap().is_empty());
        // Run again, it finds what it had sent.
        let (_, again) = capture(&store, "a", &bytes, &extents).unwrap();
        assert!(slept == (again.added.new_bytes == 0) || again.added.new_bytes == 0);
    }
}
